"""Models of a folder that Ollama wrote, as requests to create the same on a server (docs/reference 12.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.commands.failure import BadFile
from app.core.errors import AppError
from app.store import manifest as media
from app.store.blobs import Blobs
from app.store.config import MOST_BYTES, ImageConfig, parse_config, parse_serving
from app.store.folders import MANIFESTS
from app.store.manifest import Layer, Manifest
from app.store.manifests import Listing, Manifests, Stored
from app.store.unserved import unserved

_NO_PROJECTOR = "without its projector: it reads text only"


class NotAdoptable(Exception):
    """A model that cannot be made of what a request to create can say; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """A request to create without `model`, the blobs that it needs, and what the model loses by it."""

    body: Mapping[str, Any]
    blobs: Mapping[str, Path]
    note: str = ""


class Folder:
    """The models below `path`, the folder of a store or the one around it (`~/.ollama`). Nothing is written.

    Raises:
        BadFile: where there are none.
    """

    def __init__(self, path: Path) -> None:
        try:
            roots = [root for root in (path, path / "models") if (root / MANIFESTS).is_dir()]
        except OSError as error:
            raise BadFile(f"{path} cannot be read: {error.strerror}") from error
        if not roots:
            raise BadFile(f"{path} is no folder of models: there is no folder {MANIFESTS!r} in it")
        self._blobs = Blobs(roots[0])
        self._manifests = Manifests(self._blobs)

    def list(self) -> Listing:
        return self._manifests.list()

    def adoption(self, stored: Stored) -> Adoption:
        """Raises: NotAdoptable."""
        try:
            return self._adoption(stored.manifest)
        except AppError as error:
            raise NotAdoptable(str(error)) from error

    def _adoption(self, manifest: Manifest) -> Adoption:
        config = self._config(manifest)
        self._check_kinds(manifest, config)
        files = self._files(manifest)
        body: dict[str, Any] = {"files": {name: layer.digest for name, layer in files.items()}}
        needed = list(files.values())
        if adapters := manifest.all(media.ADAPTER_FILE):
            needed += adapters
            body["adapters"] = {each.name: each.digest for each in adapters}
        body |= self._texts(manifest)
        kept = {"renderer": config.renderer, "parser": config.parser, "requires": config.requires}
        body |= {key: value for key, value in kept.items() if value}
        for layer in needed:
            self._check_whole(layer)
        paths = {layer.digest: self._blobs.path(layer.digest) for layer in needed}
        return Adoption(body, paths, _NO_PROJECTOR if manifest.all(media.PROJECTOR) else "")

    def _check_kinds(self, manifest: Manifest, config: ImageConfig) -> None:
        if manifest.builds and not manifest.layers:
            raise NotAdoptable("it has several builds, and is none of them")
        if reason := unserved(manifest, config):
            raise NotAdoptable(reason)
        if manifest.all(media.DRAFT):
            raise NotAdoptable("it has a draft model beside it, which a server does not take")
        if manifest.all(media.TEMPLATE, media.PROMPT) and manifest.all(media.CHAT_TEMPLATE):
            raise NotAdoptable("it has a template in Go and one in Jinja, and a request has one")
        if layer := manifest.last(media.SERVING):
            serving = parse_serving(self._read(layer))
            if serving.repository:
                raise NotAdoptable(
                    f"its weights are at the hub: pull hf.co/{serving.repository} on the server"
                )
            if serving.base:
                raise NotAdoptable(f"it is built on {serving.base}, which another server's configuration has")
            raise NotAdoptable("it has engine arguments or parsers, which no request carries")

    def _files(self, manifest: Manifest) -> dict[str, Layer]:
        """The weights by the names of their files."""
        models = manifest.all(media.MODEL)
        if len(models) > 1:
            raise NotAdoptable("its weights are in several GGUF files")
        if models:
            return {"model.gguf": models[0]}
        return {layer.name: layer for layer in manifest.all(media.FILE)}

    def _texts(self, manifest: Manifest) -> dict[str, Any]:
        kinds = {
            "template": (media.TEMPLATE, media.PROMPT, media.CHAT_TEMPLATE),
            "system": (media.SYSTEM,),
        }
        found: dict[str, Any] = {
            key: self._read(layer).decode("utf-8", "replace")
            for key, types in kinds.items()
            if (layer := manifest.last(*types))
        }
        if licenses := manifest.all(media.LICENSE):
            found["license"] = [self._read(layer).decode("utf-8", "replace") for layer in licenses]
        if layer := manifest.last(media.PARAMS):
            found["parameters"] = _json(self._read(layer), dict, "parameters")
        if layer := manifest.last(media.MESSAGES):
            found["messages"] = _json(self._read(layer), list, "messages")
        return {key: value for key, value in found.items() if value}

    def _config(self, manifest: Manifest) -> ImageConfig:
        return parse_config(self._read(manifest.config)) if manifest.config else ImageConfig()

    def _read(self, layer: Layer) -> bytes:
        self._check_whole(layer)
        return self._blobs.read(layer.digest, MOST_BYTES)

    def _check_whole(self, layer: Layer) -> None:
        size = self._blobs.size(layer.digest)
        if size != layer.size:
            what = "is missing" if size is None else f"has {size} of its {layer.size} bytes"
            raise NotAdoptable(f"its blob {layer.digest[:19]} {what}")


def _json(data: bytes, kind: type, what: str) -> Any:
    try:
        found = orjson.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, kind):
        raise NotAdoptable(f"its {what} cannot be read")
    return found
