"""Names, paths, digests and links that are to lead out of the store, or to what is no model, over HTTP."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.core.model import ModelName
from app.store.manifest import PARAMS, Layer, Manifest
from tests.api.managed import Site, digest_of, gguf, managed

DIGITS = "ab" * 32
NAMES = (
    *("..", ".", "../x", "a/..", "a/../b", "../../etc/passwd", "/etc/passwd", "//x/y", "a//b", "a/", "/"),
    *("a/b/c/d/e", "a:../../b", "a:..", "a:b:c", ":tag", "a:", "a:/b", "x/..:y", "./a", "a/./b", "~root/x"),
    *("a\0b", "a\0", "\0", "a\\b", "..\\x", "C:\\x", "a\nb", "a\r\nX: y", "a\tb", " a/b ", "a b"),
    *(
        "\uff0e\uff0e/x",
        "\u2024\u2024/x",
        "\u2025/x",
        "a\u2215b",
        "a\u202eb",
        "é",
        "\uff41",
        "a\u0301",
        "\ufeffa",
    ),
    *("%2e%2e/x", "..%2fx", "%00", "$(id)", "`id`", "a;b", "a|b", "*", "?", "a&b", "<a>", '"', "'", "-a"),
    *(
        ".hidden",
        "a/.b/c",
        "file:///etc/passwd",
        "http://../x",
        "x" * 81,
        "x" * 1024,
        "\xe9" * 1024,
        "a:" + "x" * 81,
    ),
    *("/".join(["x"] * 100), "a" * 100_000, ".." * 500, "\U0001f600"),
)
PATHS = (
    *("../x.gguf", "/x.gguf", "a/../../x.gguf", "a//b.gguf", "a/", "..", ".", "", "./x.gguf", "a/./b.gguf"),
    *("a\0b.gguf", "a\\b.gguf", "..\\x.gguf", "C:\\x.gguf", ".ssh/x.gguf", "a/.git/x.gguf", "a\nb.gguf"),
    *("\u202ex.gguf", " /../x.gguf", "~/../x.gguf", "x" * 256 + ".gguf", "a/" * 600 + "x.gguf", "\x7f.gguf"),
)
DIGESTS = (
    *(DIGITS, f"sha256:{DIGITS[:63]}", f"sha256:{DIGITS}0", f"sha256:{DIGITS.upper()}", f"SHA256:{DIGITS}"),
    *(
        f"Sha256-{DIGITS}",
        f"sha512:{DIGITS}",
        f"sha256:{'g' * 64}",
        f"sha256:sha256:{DIGITS}",
        f"sha256_{DIGITS}",
    ),
    *(f"sha256:{DIGITS}/..", f"sha256:../../{DIGITS}", f"../blobs/sha256-{DIGITS}", f"sha256:{DIGITS}\0"),
    *(
        f"sha256:{DIGITS}\n",
        f" sha256:{DIGITS}",
        "sha256:" + "\uff10" * 64,
        "sha256:" + "\u0660" * 64,
        "sha256:",
        ":",
    ),
    *(f"sha256:-{DIGITS[1:]}", f"sha256-{DIGITS}-partial", "..", "%2e%2e", "sha256:" + "a" * 10_000),
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with managed(tmp_path) as made:
        await made.made(model="here", **{"from": "plain"}, system="Here.")
        yield made


def tree(folder: Path) -> dict[str, Any]:
    """Every file below a folder, with what it holds, less the lock and what is made anew at each look."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name not in ("lock", "scratch", "holds")
    }


async def complaint(
    site: Site, method: str, path: str, body: dict[str, Any], *, also: tuple[int, ...] = ()
) -> list[str]:
    """What is wrong with the answer to a request that is to be refused and to change nothing."""
    before = tree(site.store.root)
    answer = await site.client.request(method, path, json=body)
    told = f"{path} {ascii(body)[:120]}: {answer.status_code} {answer.text[:200]}"
    if answer.status_code not in (400, *also):
        return [told]
    error = answer.json()["error"]
    if not 0 < len(error) < 1200 or str(site.store.root.parent) in error:
        return [told]
    return [f"{told}: the store has changed"] * (tree(site.store.root) != before)


async def refused(site: Site, method: str, path: str, body: dict[str, Any]) -> None:
    assert await complaint(site, method, path, body) == []


async def test_no_name_leads_anywhere(site: Site) -> None:
    wrong: list[str] = []
    for name in NAMES:
        # White space around a name is nothing, as with Ollama.
        found = (403, 404, 500) if name == " a/b " else (404,)
        for method, path, body in (
            ("POST", "/api/create", {"model": name, "from": "plain"}),
            ("POST", "/api/create", {"model": "new", "from": name}),
            ("POST", "/api/copy", {"source": name, "destination": "new"}),
            ("POST", "/api/copy", {"source": "here", "destination": name}),
            ("DELETE", "/api/delete", {"model": name}),
            ("POST", "/api/show", {"model": name}),
            ("POST", "/api/pull", {"model": name}),
        ):
            wrong += await complaint(site, method, path, body | {"stream": False}, also=found)
        # Ollama blames itself for a name that cannot be pushed.
        wrong += await complaint(site, "POST", "/api/push", {"model": name, "stream": False}, also=(403, 500))
    assert wrong == []
    assert await site.names() == ["here:latest", "plain:latest"]


async def test_no_files_path_leads_anywhere(site: Site) -> None:
    digest = await site.uploaded(gguf())
    wrong: list[str] = []
    for path in PATHS:
        for field in ("files", "adapters", "draft_files"):
            body = {"model": "new", field: {path: digest}, "stream": False}
            wrong += await complaint(site, "POST", "/api/create", body)
    assert wrong == []


async def test_what_is_no_digest_names_no_file(site: Site) -> None:
    before, wrong = tree(site.store.root), list[str]()
    for digest in DIGESTS:
        for method in ("HEAD", "POST"):
            answer = await site.client.request(method, f"/api/blobs/{quote(digest, safe='')}", content=b"x")
            if answer.status_code not in (400, 404, 405):
                wrong.append(f"{method} {ascii(digest)[:90]}: {answer.status_code} {answer.text[:200]}")
        body = {"model": "new", "files": {"w.gguf": digest}, "stream": False}
        wrong += await complaint(site, "POST", "/api/create", body)
    assert wrong == []
    assert tree(site.store.root) == before


async def test_a_digest_has_one_name(site: Site) -> None:
    """A dash is Ollama's other spelling, of the same blob."""
    data = gguf()
    digest = digest_of(data).replace(":", "-")
    assert (await site.client.post(f"/api/blobs/{digest}", content=data)).status_code == 201
    assert (await site.client.post(f"/api/blobs/{digest_of(data)}", content=b"other")).status_code == 200
    await site.made(model="g", files={"w.gguf": digest})
    assert sum(name == digest for name in os.listdir(site.store.root / "blobs")) == 1


@pytest.mark.parametrize(
    "files",
    [
        ["config.json", "CONFIG.json", "model.safetensors"],
        ["a/config.json", "A/config.json", "model.safetensors"],
        ["config.json", "model.safetensors", "model.safetensors/x"],
        ["w.gguf", "W.GGUF"],
    ],
)
async def test_paths_that_clash(site: Site, files: list[str]) -> None:
    data = gguf() if files[0].endswith(".gguf") else b"{}"
    digest = await site.uploaded(data)
    await refused(
        site, "POST", "/api/create", {"model": "new", "files": dict.fromkeys(files, digest), "stream": False}
    )
    assert not list((site.store.root.parent / "cache").rglob("*.part"))


async def test_names_that_differ_in_case_are_one_model(site: Site) -> None:
    await site.made(model="Case", **{"from": "plain"}, system="One.")
    await site.made(model="cASE", **{"from": "plain"}, system="Two.")
    await site.send("/api/copy", source="here", destination="CASE")
    assert await site.names() == ["Case:latest", "here:latest", "plain:latest"]
    assert (await site.shown("case"))["system"] == "Here."


# Links that others have put into the folder


@pytest.mark.parametrize("place", ["blobs", "manifests", "manifests/registry.ollama.ai/library", ".caravan"])
async def test_nothing_goes_through_a_link_to_a_folder(site: Site, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    (site.store.root / place).rename(outside)
    (site.store.root / place).symlink_to(outside)
    before = tree(outside)
    for method, path, body in (
        ("POST", "/api/create", {"model": "new", "from": "plain", "system": "x", "stream": False}),
        ("POST", "/api/copy", {"source": "here", "destination": "new"}),
        ("DELETE", "/api/delete", {"model": "here"}),
    ):
        answer = await site.client.request(method, path, json=body)
        # Where only the blobs are elsewhere, names go without them.
        if answer.status_code != 200:
            assert answer.status_code == 500
            assert "is not followed" in answer.json()["error"]
            assert str(tmp_path) not in answer.text
    answer = await site.client.post(f"/api/blobs/{digest_of(b'other')}", content=b"other")
    assert answer.status_code in (201, 500)
    assert answer.status_code == 500 or place.startswith("manifests")
    after = tree(outside)
    assert {name: after.get(name) for name in before} == before or place == "manifests"
    assert set(after) <= set(before)
    assert (await site.answer("plain")).status_code == 200


async def test_a_blob_that_is_a_link_is_replaced_and_never_written_through(
    site: Site, tmp_path: Path
) -> None:
    outside, data = tmp_path / "outside", gguf()
    place = site.store.blobs.path(digest_of(data))
    place.symlink_to(outside)
    assert await site.uploaded(data) == digest_of(data)
    assert (place.is_symlink(), outside.exists()) == (False, False)
    outside.write_bytes(b"precious")
    place.unlink()
    place.symlink_to(outside)
    answer = await site.send("/api/create", model="g", files={"w.gguf": digest_of(data)}, stream=False)
    assert answer.status_code == 400
    assert "precious" not in answer.text
    site.store.prune(grace_s=-60)
    assert outside.read_bytes() == b"precious"


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/nowhere", "/proc/self/environ", "folder"])
async def test_a_manifest_that_is_a_link_shows_nothing(site: Site, tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    place = site.store.root / "manifests/registry.ollama.ai/library/link/latest"
    place.parent.mkdir()
    place.symlink_to(tmp_path / "folder" if target == "folder" else target)
    await site.library.reload()
    assert await site.names() == ["here:latest", "plain:latest"]
    for path in ("/api/show", "/api/generate"):
        assert (await site.send(path, model="link")).status_code == 404
    answer = await site.send("/api/create", model="new", **{"from": "link"}, stream=False)
    assert answer.status_code in (400, 403, 404, 500)
    assert "root:" not in answer.text
    answer = await site.client.request("DELETE", "/api/delete", json={"model": "link"})
    assert answer.status_code in (200, 404, 500)


# What is no model


TOO_MUCH: tuple[dict[str, Any], ...] = (
    {"template": "{{if .A}}" * 5000},
    {"template": "{{" * 30_000},
    {"template": "{{range .A}}" * 3000 + "{{end}}" * 3000},
    {"template": "x" * 70_000},
    {"template": "{{ (((((((((( .A"},
    {"template": "{{ " + "(" * 20_000 + ".A" + ")" * 20_000 + " }}"},
    {"system": "x" * ((1 << 20) + 1)},
    {"license": ["x"] * 1025},
    {"license": "x" * ((1 << 20) + 1)},
    {"system": "A layer that is written before the next is refused.", "license": "x" * ((1 << 20) + 1)},
    {"messages": [{"role": "user", "content": "x"}] * 10_001},
    {"parameters": {f"p{number}": number for number in range(257)}},
    {"parameters": {"stop": ["x"] * 300}},
    {"parameters": {"stop": ["x"] * 65}},
    {"parameters": {"stop": ["x" * 16_385]}},
    {"parameters": {"x": [[0] * 128, [0] * 129]}},
    {"license": ["x" * (1 << 20)] * 5},
    {"system": "x" * (1 << 19), "messages": [{"role": "user", "content": "x" * (1 << 19)}]},
    {"files": {f"{number}.safetensors": f"sha256:{DIGITS}" for number in range(1025)}, "from": ""},
)


async def test_what_is_too_much_is_refused(site: Site) -> None:
    wrong: list[str] = []
    for body in TOO_MUCH:
        asked = {"model": "new", "from": "plain", "stream": False, **body}
        wrong += await complaint(site, "POST", "/api/create", asked)
    assert wrong == []


async def test_licenses_add_up_to_the_limit_and_no_further(site: Site) -> None:
    """Each create appends them to those of its base (docs/reference 11.1)."""
    for count in (1, 2, 3):
        await site.made(model="heap", **{"from": "heap" if count > 1 else "plain"}, license="x" * (1 << 20))
        assert len((await site.shown("heap"))["license"]) == count * (1 << 20) + count - 1
    asked = {"model": "heap", "from": "heap", "license": "x" * (1 << 20), "stream": False}
    before = tree(site.store.root)
    answer = await site.send("/api/create", **asked)
    assert answer.status_code == 400
    assert "texts: at most 4194304 bytes together, this model has" in answer.json()["error"]
    assert tree(site.store.root) == before
    assert "heap:latest" in await site.names()


async def test_parameters_add_up_to_the_limit_and_no_further(site: Site) -> None:
    await site.made(model="heap", **{"from": "plain"}, parameters={f"a{n}": n for n in range(200)})
    more = {"model": "heap", "from": "heap", "parameters": {f"b{n}": n for n in range(57)}}
    await refused(site, "POST", "/api/create", more | {"stream": False})
    assert (await site.answer("heap")).status_code == 200


async def test_a_base_that_is_not_served_for_its_texts_makes_no_model(site: Site) -> None:
    """As another program may have written it, or a server with higher limits."""
    found = site.store.manifests.find(ModelName("here"))
    assert found is not None
    for data in (b'{"stop":[' + b'"x",' * 100_000 + b'"x"]}', b"[]"):
        layer = Layer(PARAMS, site.store.blobs.put(data), len(data))
        site.store.manifests.write(ModelName("big"), Manifest(None, (*found.manifest.layers, layer)))
        asked = {"model": "new", "from": "big", "parameters": {"seed": 1}, "stream": False}
        await refused(site, "POST", "/api/create", asked)


async def test_texts_that_are_no_unicode(site: Site) -> None:
    text = (
        b'{"model":"odd","from":"plain","stream":false,"system":"\\ud800 \xff","parameters":{"seed":1e400}}'
    )
    answer = await site.client.post("/api/create", content=text)
    assert answer.status_code in (200, 400)
    assert (await site.client.get("/api/tags")).status_code == 200


async def test_models_from_each_other_in_a_circle(site: Site) -> None:
    for name, base in (("a", "here"), ("b", "a"), ("a", "b"), ("b", "a"), ("a", "a")):
        await site.made(model=name, **{"from": base})
    assert (await site.answer("a")).status_code == 200
    for name in ("here", "b", "a"):
        answer = await site.client.request("DELETE", "/api/delete", json={"model": name})
        assert answer.status_code == 200
    assert await site.names() == ["plain:latest"]
    assert os.listdir(site.store.root / "blobs") == []


@pytest.mark.parametrize("host", ["a:b", "a:b:c", "127.0.0.1:80:80", "999.1.1.1", "a:99999", "a..b", "-."])
@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
async def test_hosts_that_are_none(tmp_path: Path, path: str, host: str) -> None:
    """Also where the operator has listed one by mistake."""
    async with managed(tmp_path, registry_allow=["a:b", "127.0.0.1:80:80", "a:99999", "a..b"]) as site:
        answer = await site.send(path, model=f"{host}/n/m:t", stream=False)
    assert answer.status_code in (400, 403, 500), answer.text
    assert "internal" not in answer.text
