"""Commands that make models on a server: of a Modelfile, and of a folder that Ollama wrote."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from app.catalogue.names import parse_name
from app.commands.adoption import Folder, NotAdoptable
from app.commands.failure import BadFile, CommandFailed, Refused, one_line
from app.commands.files import send, sent
from app.commands.progress import Display
from app.commands.recipe import Recipe
from app.commands.server import Server
from app.core.errors import InvalidRequest
from app.core.model import ModelName
from app.store.manifests import Stored

_HEX = slice(len("sha256:"), len("sha256:") + 12)
"""What is shown of a digest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one model of a folder; `reason` is empty where there is nothing to say."""

    model: str
    state: Literal["adopted", "there already", "not adopted"]
    reason: str = ""


def create(server: Server, name: str, recipe: Recipe, quantize: str, display: Display) -> None:
    """Make a model of a Modelfile: upload what the server lacks of its files, then ask for it.

    Raises:
        CommandFailed: with the server's reason, or that of a file.
    """
    _parsed(name)  # before files are read for it
    body: dict[str, Any] = {"model": name, **recipe.body}
    if quantize:
        body["quantize"] = quantize
    if recipe.files:
        server.check_takes_blobs()
    for field, files in recipe.files.items():
        body[field] = sent(server, files, display)
    for event in server.events("/api/create", body):
        display.event(event)


def adopt(
    server: Server, folder: Folder, names: Collection[str], display: Display, *, overwrite: bool
) -> Iterator[Outcome]:
    """Bring the models of a folder, or those of `names`, to a server under their names, one after another.

    A name that the server has is left as it is, unless `overwrite`. Doing it again does nothing then.

    Raises:
        CommandFailed: for a name that is not in the folder, and where the server is out of reach.
    """
    listing = folder.list()
    wanted = _chosen(listing.models, names)
    there = _there(server)
    for stored in wanted:
        name = str(stored.name)
        if _key(stored.name) in there and not overwrite:
            yield Outcome(name, "there already")
            continue
        try:
            yield Outcome(name, "adopted", _adopt(server, folder, stored, display))
        except (NotAdoptable, BadFile, Refused) as error:
            if isinstance(error, Refused) and error.status == HTTPStatus.UNAUTHORIZED:
                raise
            yield Outcome(name, "not adopted", str(error))
    if not names:
        for bad in listing.bad:
            yield Outcome(bad.path, "not adopted", bad.reason)


def _adopt(server: Server, folder: Folder, stored: Stored, display: Display) -> str:
    adoption = folder.adoption(stored)
    display.line(str(stored.name))
    for digest, path in adoption.blobs.items():
        send(server, digest, path, f"uploading {digest[_HEX]}", display)
    for _ in server.events("/api/create", {"model": str(stored.name), **adoption.body}):
        pass
    return adoption.note


def _chosen(models: Collection[Stored], names: Collection[str]) -> list[Stored]:
    if not names:
        return sorted(models, key=lambda stored: str(stored.name).lower())
    found = {_key(stored.name): stored for stored in models}
    wanted: list[Stored] = []
    for name in names:
        stored = found.get(_key(_parsed(name)))
        if stored is None:
            raise CommandFailed(f"there is no model {name!r} in that folder")
        wanted.append(stored)
    return wanted


def _parsed(name: str) -> ModelName:
    try:
        return parse_name(name)
    except InvalidRequest as error:
        raise CommandFailed(f"{error}: {one_line(name)!r}") from error


def _there(server: Server) -> set[str]:
    rows = server.document("GET", "/api/tags").fields.get("models")
    found: set[str] = set()
    for row in rows if isinstance(rows, list) else ():
        try:
            found.add(_key(parse_name(row["name"])))
        except (InvalidRequest, KeyError, TypeError):
            continue  # a name that no folder has
    return found


def _key(name: ModelName) -> str:
    return name.canonical.lower()
