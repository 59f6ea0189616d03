"""The parts of the commands that ask a server, without one."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.commands.failure import BadFile, CommandFailed, one_line
from app.commands.files import find_files
from app.commands.recipe import Recipe, read_recipe
from app.commands.server import Event
from app.commands.sizes import since_text, size_text, span_text
from app.commands.tables import models_table, running_table
from app.settings.client import HOSTS, KEYS, read_target, read_url
from app.settings.environment import BadSetting
from app.settings.values import read_address

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


# Where the server is


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("http://h", "http://h:80"),
        ("https://h", "https://h:443"),
        ("HTTPS://h:8443", "https://h:8443"),
        ("https://h/prefix/", "https://h:443/prefix"),
        ("h:1/a/b", "http://h:1/a/b"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("::", "http://[::1]:11434"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_an_address_is_where_a_server_with_it_listens(text: str, url: str) -> None:
    assert read_url(text) == url


@pytest.mark.parametrize("text", ["1.2.3.4:5", "http://h", "[::1]:8080", "::1", "h:80/prefix", ""])
def test_server_and_client_read_an_address_alike(text: str) -> None:
    found = read_address(text)
    assert isinstance(found, dict)
    assert f"{found['host']}:{found['port']}" in read_url(text).replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    "text", ["ftp://h", "h:x", "h:0", "h:65536", "key@h", "h?a=b", "h#a", "a b", "h\\b", "http://u:p@h"]
)
def test_what_is_no_address_names_where_it_was_set(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match=r"^--host: "):
        read_target(text)
    monkeypatch.setenv("OLLAMA_HOST", text)
    with pytest.raises(BadSetting, match=r"^OLLAMA_HOST: "):
        read_target()


def test_a_key_in_an_address_is_not_printed() -> None:
    with pytest.raises(BadSetting) as failure:
        read_target("http://me:s3cret@h")
    assert "s3cret" not in str(failure.value)


def test_the_command_line_stands_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*HOSTS, *KEYS):
        monkeypatch.delenv(name, raising=False)
    assert (read_target().url, read_target().key) == ("http://127.0.0.1:11434", "")
    monkeypatch.setenv("OLLAMA_HOST", "ollama")
    monkeypatch.setenv("OLLAMA_API_KEY", "'ollama-key' ")
    assert (read_target().url, read_target().key) == ("http://ollama:11434", "ollama-key")
    monkeypatch.setenv("CARAVAN_HOST", "caravan")
    monkeypatch.setenv("CARAVAN_API_KEY", "caravan-key")
    assert (read_target().url, read_target().key) == ("http://caravan:11434", "caravan-key")
    found = read_target("given", "given-key")
    assert (found.url, found.key) == ("http://given:11434", "given-key")
    assert "given-key" not in repr(found)
    monkeypatch.setenv("CARAVAN_HOST", " ")
    assert read_target().url == "http://ollama:11434"


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "naïve"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(BadSetting, match=r"^--key: it holds characters that no key has$"):
        read_target(None, key)


# Texts and tables


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 KB"),
        (1_500, "1.5 KB"),
        (270_898_672, "270 MB"),
        (4_661_224_676, "4.7 GB"),
        (40_000_000_000, "40 GB"),
        (2 * 10**12, "2 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (300, "5 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_moments() -> None:
    assert since_text(NOW - timedelta(days=3), NOW) == "3 days ago"
    assert since_text(NOW + timedelta(minutes=4), NOW) == "4 minutes from now"
    assert since_text(NOW + timedelta(days=365 * 100), NOW) == "Forever"


def document(*rows: Any) -> Event:
    fields = {"models": list(rows)}
    return Event(orjson.dumps(fields), fields)


def test_the_table_of_models() -> None:
    stamp = "2026-07-29T14:00:00.123456789+02:00"
    lines = models_table(
        document(
            {"name": "qwen3:8b", "digest": "ab" * 32, "size": 5_200_000_000, "modified_at": stamp},
            {"name": "big:cloud", "digest": "0", "size": 1, "remote_model": "big", "modified_at": "soon"},
            {"name": "evil\x1b[31m\n", "size": "x"},
        ),
        NOW,
    )
    assert lines == [
        "NAME         ID              SIZE      MODIFIED",
        "qwen3:8b     abababababab    5.2 GB    3 days ago",
        "big:cloud    0               -         -",
        "evil [31m                    0 B       -",
    ]
    assert models_table(document(), NOW) == ["NAME    ID    SIZE    MODIFIED"]


def test_the_table_of_what_is_loaded() -> None:
    def row(size_vram: int, expires: timedelta) -> dict[str, Any]:
        until = (NOW + expires).isoformat()
        return {"name": "m", "digest": "a" * 64, "size": 100, "size_vram": size_vram, "expires_at": until}

    rows = (
        row(0, timedelta(minutes=4)) | {"context_length": 4096},
        row(100, timedelta(days=40_000)),
        row(52, timedelta(seconds=-1)),
    )
    line_start = len("m       aaaaaaaaaaaa    100 B    ")
    assert [line[line_start:] for line in running_table(document(*rows), NOW)] == [
        "PROCESSOR          CONTEXT    UNTIL",
        "100% CPU           4096       4 minutes from now",
        "100% GPU           0          Forever",
        "48%/52% CPU/GPU    0          Stopping...",
    ]


@pytest.mark.parametrize("fields", [{}, {"models": 5}, {"models": ["m"]}])
def test_an_answer_that_is_no_list(fields: dict[str, Any]) -> None:
    with pytest.raises(CommandFailed, match="something other than a list"):
        models_table(Event(b"", fields), NOW)


def test_somebody_elses_text_is_one_line_without_controls() -> None:
    assert one_line("a\x1b[2Jb\r\n\tc\ud800") == "a [2Jb c"
    assert len(one_line("x" * 100_000)) < 600


# Modelfiles


def recipe(text: str, folder: Path) -> Recipe:
    return read_recipe(text.encode(), folder)


def test_every_command_of_a_modelfile(tmp_path: Path) -> None:
    text = (
        "FROM base:7b\n"
        'TEMPLATE """{{ .System }}\n{{ .Prompt }}"""\n'
        "SYSTEM first\nSYSTEM You rhyme.\n"
        "RENDERER r\nPARSER p\nREQUIRES v0.14.0\n"
        "PARAMETER temperature 0.5\nPARAMETER stop a\nPARAMETER stop b\nPARAMETER num_ctx 4096\n"
        "PARAMETER mirostat 1\n"
        "MESSAGE user Hi\nMESSAGE assistant Ho\n"
        "LICENSE MIT\nLICENSE Apache\n"
    )
    found = recipe(text, tmp_path)
    assert found.body == {
        "from": "base:7b",
        "template": "{{ .System }}\n{{ .Prompt }}",
        "system": "You rhyme.",
        "renderer": "r",
        "parser": "p",
        "requires": "0.14.0",
        "parameters": {"temperature": 0.5, "stop": ["a", "b"], "num_ctx": 4096},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
        "license": ["MIT", "Apache"],
    }
    assert found.files == {}
    assert found.warnings == ("(line 13): the parameter mirostat is deprecated and left out",)


def test_files_are_found_from_the_modelfiles_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/m.gguf").write_bytes(b"GGUF")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "lora/adapter_config.json").write_text("{}")
    (tmp_path / "lora/tokenizer.json").write_text("{}")
    (tmp_path / "draft.gguf").write_bytes(b"GGUF")
    found = recipe("FROM weights/m.gguf\nADAPTER ./lora\nDRAFT draft.gguf", tmp_path)
    assert found.body == {}
    assert found.files == {
        "files": {"m.gguf": tmp_path / "weights/m.gguf"},
        "adapters": {
            "adapter_model.safetensors": tmp_path / "lora/adapter_model.safetensors",
            "adapter_config.json": tmp_path / "lora/adapter_config.json",
        },
        "draft_files": {"draft.gguf": tmp_path / "draft.gguf"},
    }


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("SYSTEM x", "no FROM line"),
        ("FROM x\n\nFRUM y", "(line 3): command must be one of"),
        ('FROM x\nSYSTEM """open', "(line 2): unexpected EOF"),
        ("FROM x\nPARAMETER seed", "(line 2): unexpected EOF"),
        ("FROM x\nMESSAGE robot y", '(line 2): message role must be one of "system"'),
        ("FROM x\n# no\nPARAMETER top_k 1.5", "(line 3): invalid int value [1.5]"),
        ("FROM x\nPARAMETER top_p nan", "(line 2): invalid float value [nan]"),
        ("FROM x\nPARAMETER nope 1", "(line 2): unknown parameter 'nope'"),
        ("FROM x\nREQUIRES soon", "(line 2): requires must be a valid semver"),
        ("SYSTEM a\nFROM ./x.gguf", "(line 2): there is no file or folder"),
        ("FROM /nowhere/x", "(line 1): there is no file or folder /nowhere/x"),
        ("FROM x\nADAPTER lora", "(line 2): there is no file or folder"),
        ("FROM x\nADAPTER " + "a" * 5000, "(line 2): there is no file or folder"),
        ("FROM x # mine", "(line 1): FROM x # mine: invalid model name"),
        ("FROM empty", "(line 1): "),
        ("FROM pipe", "(line 1): "),
        ("FROM x\nADAPTER empty", "(line 2): "),
        ("FROM x\nFROM a/w.gguf", "(line 2): FROM names files, and the model x too"),
        ("FROM a/w.gguf\nFROM x", "(line 2): FROM names files, and the model x too"),
        ("FROM x\nADAPTER a/w.gguf\nADAPTER b/w.gguf", "(line 3): only one adapter is currently supported"),
        ("FROM a/w.gguf\nFROM b/w.gguf", "(line 2): there are two files of the name w.gguf"),
    ],
)
def test_what_is_wrong_with_a_modelfile_and_where(tmp_path: Path, text: str, answer: str) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.gguf").write_bytes(b"GGUF")
    with pytest.raises(CommandFailed) as failure:
        recipe(text, tmp_path)
    assert str(failure.value).startswith(answer)


# Folders


def folder_of(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"{}")
    return path


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (
            (
                "model.safetensors",
                "config.json",
                "tokenizer.model",
                "chat_template.jinja",
                "README.md",
                ".hidden.json",
            ),
            {"model.safetensors", "config.json", "tokenizer.model", "chat_template.jinja"},
        ),
        (
            ("model-1-of-2.safetensors", "model-2-of-2.safetensors", "consolidated.safetensors", "a.json"),
            {"model-1-of-2.safetensors", "model-2-of-2.safetensors", "a.json"},
        ),
        (("model.safetensors", "pytorch_model.bin", "onnx/config.json"), {"model.safetensors"}),
        (("w.gguf",), {"w.gguf"}),
        (
            ("model.safetensors", "additional_chat_templates/tool_use.jinja"),
            {"model.safetensors", "additional_chat_templates/tool_use.jinja"},
        ),
    ],
)
def test_which_files_of_a_folder_make_a_model(
    tmp_path: Path, there: tuple[str, ...], taken: set[str]
) -> None:
    assert set(find_files(folder_of(tmp_path, *there))) == taken


def test_modules_of_sentence_transformers_go_along(tmp_path: Path) -> None:
    folder_of(tmp_path, "model.safetensors", "1_Pooling/config.json", "other/config.json")
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../etc"}, {"path": 5}, "x"]
    (tmp_path / "modules.json").write_bytes(orjson.dumps(modules))
    assert set(find_files(tmp_path)) == {"model.safetensors", "modules.json", "1_Pooling/config.json"}


def test_gguf_is_known_without_its_ending(tmp_path: Path) -> None:
    """As Ollama's blobs are, to which its own Modelfiles point."""
    (tmp_path / "sha256-ab").write_bytes(b"GGUF...")
    (tmp_path / "old.bin").write_bytes(b"GGUF...")
    (tmp_path / "notes").write_bytes(b"text")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    assert list(find_files(tmp_path / "old.bin")) == ["old.bin.gguf"]
    with pytest.raises(BadFile, match="a pickle is a program"):
        find_files(tmp_path / "pytorch_model.bin")
    assert list(find_files(tmp_path / "sha256-ab")) == ["sha256-ab.gguf"]
    assert list(find_files(tmp_path / "notes")) == ["notes"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("config.json",), "neither safetensors nor GGUF"),
        (("pytorch_model.bin", "config.json"), "a pickle is a program"),
        (("adapter_model.safetensors", "adapter_config.json"), "is an adapter: name it by ADAPTER"),
    ],
)
def test_a_folder_that_makes_no_model(tmp_path: Path, names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadFile, match=reason):
        find_files(folder_of(tmp_path, *names))
