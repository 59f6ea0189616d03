"""Model names and their source suffixes."""

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.catalogue.names import parse_name, split_source
from app.core.errors import InvalidRequest
from app.core.model import ModelName


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("m", ModelName("m")),
        ("m:8b", ModelName("m", "8b")),
        ("ns/m", ModelName("m", namespace="ns")),
        ("ns/m:t.1-x_", ModelName("m", "t.1-x_", "ns")),
        ("a/b/c", ModelName("c", "latest", "b", "a")),
        ("localhost:5000/b/c:d", ModelName("c", "d", "b", "localhost:5000")),
        ("hf.co/user/repo-GGUF:Q4_K_M", ModelName("repo-GGUF", "Q4_K_M", "user", "hf.co")),
        ("https://h.io/n/m", ModelName("m", "latest", "n", "h.io")),
        ("x:y://h:1/n/m:t", ModelName("m", "t", "n", "h:1")),
        ("_m", ModelName("_m")),
        ("PLAIN:LATEST", ModelName("PLAIN", "LATEST")),
        ("m" * 80, ModelName("m" * 80)),
        ("m:" + "t" * 80, ModelName("m", "t" * 80)),
        ("n" * 80 + "/m", ModelName("m", namespace="n" * 80)),
        ("h" * 350 + "/n/m", ModelName("m", "latest", "n", "h" * 350)),
        ("m:cloud", ModelName("m", "cloud")),
    ],
)
def test_the_parts_of_a_name(text: str, name: ModelName) -> None:
    assert parse_name(text) == name


@pytest.mark.point(52)
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a b", "m ", "m\n", "a/b/c/d", "m:", ":t", "/m", "n//m", "/n/m", "n/", "m:t:u"),
        *("-m", ".m", "m:-t", "m:.t", "-n/m", "n.s/m", "h/n.s/m", "-h/n/m", "n:1/m", "m/n:", "é", "m:é"),
        *("m" * 81, "m:" + "t" * 81, "n" * 81 + "/m", "h" * 351 + "/n/m", "a://b://h/n/m", "://m"),
        *("m@sha256:abc", "m/../x", "m\\x", "m%20"),
    ],
)
def test_what_is_not_a_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid model name$"):
        parse_name(text)


def _part(more: str, most: int) -> st.SearchStrategy[str]:
    return st.from_regex(rf"[A-Za-z0-9_][A-Za-z0-9_{more}]{{0,{most - 1}}}", fullmatch=True)


NAMES = st.builds(
    ModelName, model=_part(".-", 80), tag=_part(".-", 80), namespace=_part("-", 80), host=_part(".:-", 350)
)


@settings(deadline=None)
@given(NAMES)
def test_a_name_survives_its_full_and_its_short_form(name: ModelName) -> None:
    assert parse_name(name.canonical) == name
    assert str(parse_name(str(name))) == str(name)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        name = parse_name(text)
        assert parse_name(name.canonical) == name


@pytest.mark.point(56, 57)
@pytest.mark.parametrize(
    ("text", "base", "source"),
    [
        ("m", "m", ""),
        ("", "", ""),
        ("  m:8b \n", "m:8b", ""),
        ("m:cloud", "m", "cloud"),
        ("m:8b:cloud", "m:8b", "cloud"),
        ("m:8b:CLOUD", "m:8b", "cloud"),
        ("m:8b-cloud", "m:8b", "cloud"),
        ("m:8B-Cloud", "m:8B", "cloud"),
        ("m:local", "m", "local"),
        (" m:8b:Local ", "m:8b", "local"),
        ("m: local", "m", "local"),
        ("my-cloud-model", "my-cloud-model", ""),
        ("m-cloud", "m-cloud", ""),
        ("cloud", "cloud", ""),
        ("h:5000/n/m:cloud", "h:5000/n/m", "cloud"),
        ("f:bar-cloud/baz", "f:bar-cloud/baz", ""),
        ("h:x/n-cloud", "h:x/n-cloud", ""),
        ("m:clod", "m:clod", ""),
    ],
)
def test_the_source_suffix_is_cut(text: str, base: str, source: str) -> None:
    assert split_source(text) == (base, source)


@pytest.mark.point(54)
@pytest.mark.parametrize(
    "text", ["x:local:cloud", "x:cloud:local", "x:cloud:cloud", "x:8b-cloud:local", "x:LOCAL:Cloud"]
)
def test_two_source_suffixes_are_refused(text: str) -> None:
    message = f'use either :local or :cloud, not both: "{text}"'
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$"):
        split_source(f" {text} ")
