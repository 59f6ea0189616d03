"""What a create may ask for: pure checks of its fields, in Ollama's words where it has some."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from app.core.errors import InvalidDigest, InvalidRequest
from app.core.model import Model
from app.golang.quote import quoted
from app.prompt.jinja import is_jinja
from app.store import manifest as media
from app.store.digests import hex_of

UNKNOWN_TYPE = "unknown type"


def template_layer(template: str) -> str:
    """The media type of a template's layer, by its kind.

    Raises:
        InvalidRequest: in Ollama's words for a template that does not compile.
    """
    try:
        return media.CHAT_TEMPLATE if is_jinja(template) else media.TEMPLATE
    except InvalidRequest as error:
        raise InvalidRequest(f"template error: {error}") from error


def check_capabilities(wanted: Iterable[str], model: Model) -> None:
    """Raises: InvalidRequest: for one that the model has not: its files and its template decide, no list."""
    if lacking := [each for each in wanted if each not in model.facts.capabilities]:
        raise InvalidRequest(
            f"capabilities: this model has no {quoted(lacking[0])} here, only "
            f"{', '.join(model.facts.capabilities)}"
        )


def read_files(files: Mapping[str, str]) -> None:
    """Raises:
    InvalidRequest: for a path that leaves its folder or what is no digest, in Ollama's words; for a path that
        is there twice.
    """
    for name in files:
        if not media.is_local(name):
            raise InvalidRequest("file path must be relative")
    if len({name.lower() for name in files}) < len(files):  # on some file systems they are one
        raise InvalidRequest("file paths must differ in more than case")
    for digest in files.values():
        if not digest:
            raise InvalidDigest
    for name, digest in files.items():
        try:
            hex_of(digest)
        except InvalidDigest:
            known = Path(name).suffix.lower() in (".gguf", ".safetensors")
            raise (InvalidDigest() if known else InvalidRequest(UNKNOWN_TYPE)) from None
