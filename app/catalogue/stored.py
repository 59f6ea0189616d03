"""Models of the store: from a manifest and its layers to what is served (docs/reference 12.3).

What Ollama wrote is served where it holds GGUF. What only Caravan writes are folders of files, repositories
of the hub, and configured models with something of their own.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from app.catalogue import gguf
from app.catalogue.digest import FileHashes
from app.catalogue.facts import read_facts, with_go_template
from app.catalogue.folder import open_folder
from app.catalogue.ggufheader import CHAT_TEMPLATE as GGUF_TEMPLATE
from app.catalogue.ggufheader import facts_of
from app.catalogue.headers import BadHeader, read_gguf
from app.catalogue.names import parse_name
from app.catalogue.parameters import read_parameters
from app.core import progress
from app.core.errors import AppError, BadManifest, InvalidRequest, LoadFailed
from app.core.model import Model, ModelFacts, ModelName, ModelSpec
from app.core.request import Overrides
from app.store import manifest as media
from app.store.config import MOST_BYTES, Serving, parse_serving
from app.store.manifest import Layer, Manifest
from app.store.manifests import Stored
from app.store.store import Store

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
"""Files of these kinds are programs that run where they are read."""

_UNSERVED: Mapping[str, str] = {
    media.ADAPTER: "adapters are not served",
    media.ADAPTER_FILE: "adapters are not served",
    media.TENSOR: "weights in a blob for each tensor, for Ollama's MLX engine, are not served",
    media.DRAFT: "",
}
_log = logging.getLogger("caravan")


@dataclass(frozen=True, slots=True)
class Reading:
    """The models of a store, why others are left out by their places, and the store's signature before."""

    models: tuple[Model, ...]
    skipped: Mapping[str, str]
    signature: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What a manifest says besides the weights, as a Modelfile does."""

    system: str = ""
    template: str = ""
    chat_template: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: tuple[tuple[str, str], ...] = ()
    license: tuple[str, ...] = ()
    serving: Serving = field(default_factory=Serving)


class StoredModels:
    """Makes models of what is in `store`. `cache_dir` holds what is made of their weights.

    Every method may be called from any thread, one at a time, and blocks.
    """

    def __init__(self, store: Store, cache_dir: Path) -> None:
        self.store = store
        self._cache = cache_dir.resolve()
        self._known: dict[str, tuple[object, Model | str]] = {}

    def signature(self) -> str:
        return self.store.manifests.signature()

    def read(self, configured: Mapping[str, Model]) -> Reading:
        """What there is now. A manifest that cannot be served is skipped, never a failure of the whole."""
        listing = self.store.manifests.list()
        skipped = {bad.path: bad.reason for bad in listing.bad}
        known: dict[str, tuple[object, Model | str]] = {}
        models: list[Model] = []
        for stored in listing.models:
            place = str(stored.name)
            state = self._state(stored)
            before = self._known.get(place)
            made = before[1] if before and before[0] == state else self._made(stored, configured)
            known[place] = state, made
            if isinstance(made, Model):
                models.append(made)
            else:
                skipped[place] = made
        self._known = known
        return Reading(tuple(models), skipped, listing.signature)

    def is_lacking(self, model: Model) -> bool:
        """Whether the model's weights are a GGUF file of the store that is not converted yet."""
        path = model.facts.path
        return path.parent == self._cache / gguf.FOLDER and not gguf.is_whole(path)

    def convert(self, model: Model) -> None:
        """Raises: LoadFailed: where the weights cannot be made what vLLM serves."""
        digits = model.facts.path.name
        blob = self.store.blobs.path(f"sha256:{digits}")

        moved = progress.listener()

        def report(phase: str, fraction: float) -> None:
            moved()
            _log.debug("%s: %s, %.0f %%", model.name, phase, fraction * 100)

        try:
            gguf.convert(blob, self._cache, report, digest=digits)
        except LoadFailed as error:
            raise LoadFailed(f"model '{model.name}': {error}") from error

    def tried(self, name: ModelName, manifest: Manifest, configured: Mapping[str, Model]) -> Model:
        """What a manifest would be served as.

        Raises:
            BadManifest, BadHeader, LoadFailed: where it cannot be.
        """
        try:
            return self._model(Stored(name, manifest, "0" * 64, datetime.now(UTC)), configured)
        except LoadFailed as error:
            raise LoadFailed(self._without_paths(error)) from error

    def settings(self, manifest: Manifest) -> Settings:
        """Raises: BadManifest, BlobMissing, StoreFailed: for a layer that cannot be read."""

        def text(*types: str) -> str:
            layer = manifest.last(*types)
            return self._text(layer) if layer else ""

        serving = manifest.last(media.SERVING)
        return Settings(
            system=text(media.SYSTEM),
            template=text(media.TEMPLATE, media.PROMPT),
            chat_template=text(media.CHAT_TEMPLATE),
            parameters=read_params(text(media.PARAMS)),
            messages=read_messages(text(media.MESSAGES)),
            license=tuple(self._text(layer) for layer in manifest.all(media.LICENSE)),
            serving=parse_serving(self._bytes(serving)) if serving else Serving(),
        )

    def _without_paths(self, error: Exception) -> str:
        """Its text without the folders of this server."""
        return re.sub(rf"{re.escape(str(self._cache))}/(\S+/)?", "", str(error))

    def _state(self, stored: Stored) -> object:
        """What must be the same for a model that was made once to stand."""
        model = stored.manifest.last(media.MODEL)
        converted = model is not None and gguf.is_whole(gguf.place(self._cache, _hex(model)))
        return stored.digest, stored.modified_at, converted

    def _made(self, stored: Stored, configured: Mapping[str, Model]) -> Model | str:
        try:
            return self._model(stored, configured)
        except (AppError, BadHeader) as error:
            return self._without_paths(error)
        except OSError as error:
            return error.strerror or type(error).__name__
        except Exception as error:  # files from anywhere: one that is odd must not hide the others
            _log.debug("the stored model %s cannot be read", stored.name, exc_info=True)
            return f"its files cannot be read ({type(error).__name__})"

    def _model(self, stored: Stored, configured: Mapping[str, Model]) -> Model:
        manifest = stored.manifest
        if reason := next(filter(None, (_UNSERVED.get(each.media_type) for each in manifest.layers)), ""):
            raise BadManifest(reason)
        own = self.settings(manifest)
        spec = ModelSpec(
            stored.name,
            "",
            system=own.system,
            template=own.template,
            chat_template=own.chat_template,
            parameters=own.parameters,
            messages=own.messages,
            license=own.license,
            tool_parser=own.serving.tool_parser,
            reasoning_parser=own.serving.reasoning_parser,
            engine=own.serving.engine,
        )
        if own.serving.base:
            model = _on_configured(spec, own.serving.base, configured)
            model = replace(model, parent=_origin(manifest.last(media.SERVING)) or model.parent)
            size = model.facts.size_bytes + manifest.size_bytes
        else:
            model = self._on_weights(spec, manifest, own.serving)
            size = manifest.size_bytes + (model.facts.size_bytes if own.serving.repository else 0)
        facts = replace(model.facts, digest=stored.digest, size_bytes=size, modified_at=stored.modified_at)
        return replace(model, facts=facts)

    def _on_weights(self, spec: ModelSpec, manifest: Manifest, serving: Serving) -> Model:
        weights = manifest.last(media.MODEL)
        files = manifest.all(media.FILE)
        # The weights alone decide what their engine can do, so that all models on them can share it.
        bare = replace(spec, system="", template="", parameters={}, messages=(), license=())
        if weights is not None:
            facts, bare = self._gguf(bare, spec.template, weights)
        elif files or serving.repository:
            path = self._folder(files) if files else _repository(serving)
            bare = replace(bare, template="" if open_folder(path).template else spec.template)
            facts = read_facts(path, bare, _Unhashed())
        else:
            raise BadManifest("it has no weights")
        parent = _origin(weights, *files, manifest.last(media.SERVING))
        sampling, fault = read_sampling(spec.parameters)
        if spec.template != bare.template:
            facts = with_go_template(facts, spec.template)
        return Model(
            spec, facts, _engine_key(facts.path, bare), parent=parent, sampling=sampling, fault=fault
        )

    def _gguf(self, bare: ModelSpec, template: str, layer: Layer) -> tuple[ModelFacts, ModelSpec]:
        blob = self.store.blobs.path(layer.digest)
        folder = gguf.place(self._cache, _hex(layer))
        header = read_gguf(blob)
        own = header.metadata.get(GGUF_TEMPLATE)
        bare = replace(bare, template="" if own else template)
        if gguf.is_whole(folder):
            return read_facts(folder, bare, _Unhashed()), bare
        return facts_of(header, bare, folder), bare

    def _folder(self, files: tuple[Layer, ...]) -> Path:
        """A folder of links to blobs, made once."""
        if any(Path(layer.name).suffix.lower() in PICKLES for layer in files):
            raise BadManifest("pickled weights are not served")
        names = sorted((layer.name, layer.digest) for layer in files)
        target = (
            self._cache / "stored" / hashlib.sha256(orjson.dumps([str(self.store.root), names])).hexdigest()
        )
        if target.is_dir():
            return target
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        for name, digest in names:
            link = part / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.store.blobs.path(digest).absolute())
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
        return target

    def _bytes(self, layer: Layer) -> bytes:
        return self.store.blobs.read(layer.digest, MOST_BYTES)

    def _text(self, layer: Layer) -> str:
        return self._bytes(layer).decode("utf-8", "replace")


class _Unhashed(FileHashes):
    """Reads nothing: what identifies a stored model is its manifest, and weights are large."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def of(self, path: Path, progress: Callable[[int], None] = lambda _done: None) -> str:
        return ""


def read_params(text: str) -> dict[str, Any]:
    """Raises: BadManifest: for what is no object."""
    found = _json(text or "{}", "the parameters")
    if not isinstance(found, dict):
        raise BadManifest("the parameters are not an object")
    return found


def read_messages(text: str) -> tuple[tuple[str, str], ...]:
    """Raises: BadManifest: for what is no list of messages."""
    found = _json(text or "[]", "the messages")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadManifest("the messages are not a list of objects")
    return tuple((str(item.get("role", "")), str(item.get("content") or "")) for item in found)


def read_sampling(parameters: Mapping[str, Any]) -> tuple[Overrides, str]:
    """The sampling of a model's parameters, or what is wrong with them: nobody has checked them before."""
    try:
        return read_parameters(parameters), ""
    except InvalidRequest as error:
        return {}, str(error)


def _on_configured(spec: ModelSpec, base: str, configured: Mapping[str, Model]) -> Model:
    """A model on a configured one's engine: what it leaves out it takes from there at this moment."""
    parent = configured.get(parse_name(base).canonical.lower())
    if parent is None:
        raise BadManifest(f"it is made from {base}, which is not configured on this server")
    under = parent.spec
    parameters = {**under.parameters, **spec.parameters}
    whole = replace(
        spec.on_engine_of(under),
        source=under.source,
        system=spec.system or under.system,
        template=spec.template or under.template,
        parameters=parameters,
        messages=spec.messages or under.messages,
        license=under.license + spec.license,
    )
    sampling, fault = read_sampling(parameters)
    facts = with_go_template(parent.facts, spec.template)
    return Model(whole, facts, parent.engine_key, parent=str(parent.name), sampling=sampling, fault=fault)


def _repository(serving: Serving) -> Path:
    """The folder of a repository that was pulled, in huggingface_hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(serving.repository, revision=serving.revision or None, local_files_only=True)
        )
    except (LocalEntryNotFoundError, ValueError, OSError) as error:
        raise BadManifest(f"{serving.repository} is not in this machine's cache: pull it again") from error


def _engine_key(path: Path, bare: ModelSpec) -> str:
    parts = (
        *(str(path), bare.engine, bare.template, bare.chat_template),
        *(bare.tool_parser, bare.reasoning_parser),
    )
    return hashlib.sha256(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _origin(*layers: Layer | None) -> str:
    """The short name of the model that the weights were taken from; empty where nothing says one."""
    origins = (layer.origin for layer in layers if layer is not None and layer.origin)
    try:
        return next((str(parse_name(origin)) for origin in origins), "")
    except InvalidRequest:
        return ""


def _hex(layer: Layer) -> str:
    return layer.digest.removeprefix("sha256:")


def _json(text: str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        raise BadManifest(f"{what} are not JSON") from None
