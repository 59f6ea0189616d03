"""Models of the store: from a manifest and its layers to what is served (docs/reference 12.3).

What Ollama wrote is served where it holds GGUF. What only Caravan writes are folders of files, repositories
of the hub, and configured models with something of their own.
"""

import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from app.catalogue import adaptercopies, foreign, gguf, tidying
from app.catalogue.derived import on_configured, seen_through
from app.catalogue.digest import FileHashes
from app.catalogue.facts import read_facts
from app.catalogue.folder import open_folder
from app.catalogue.ggufheader import CHAT_TEMPLATE as GGUF_TEMPLATE
from app.catalogue.ggufheader import facts_of
from app.catalogue.headers import BadHeader, read_gguf
from app.catalogue.layers import read_messages, read_params, read_sampling
from app.catalogue.names import parse_name
from app.catalogue.quantizing import quantization_of
from app.catalogue.serving import check_engine, repository_folder
from app.catalogue.storedadapter import adapter_of
from app.core import progress
from app.core.errors import AppError, BadManifest, InvalidRequest, LoadFailed, StoreFailed
from app.core.limits import DEFAULTS, InputLimits
from app.core.model import Adapter, Model, ModelFacts, ModelName, ModelSpec
from app.store import manifest as media
from app.store.config import MOST_BYTES, ImageConfig, Serving, parse_config, parse_serving
from app.store.manifest import Layer, Manifest
from app.store.manifests import Stored
from app.store.store import Store

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
"""Files of these kinds are programs that run where they are read."""

_UNSERVED: Mapping[str, str] = {
    media.ADAPTER: "adapters in GGUF are not served",
    media.TENSOR: "weights in a blob for each tensor, for Ollama's MLX engine, are not served",
    media.DRAFT: "",
}
_MOST_LENGTH = 2**31 - 1
_WORD = re.compile(r"[\w. +-]{1,64}", re.ASCII)
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
    config: ImageConfig = field(default_factory=ImageConfig)


class StoredModels:
    """Makes models of what is in `store`. `cache_dir` holds what is made of their weights; `limits` bind
    their adapters.

    Every method may be called from any thread, and blocks; `read` one at a time.
    """

    def __init__(self, store: Store, cache_dir: Path, *, limits: InputLimits = DEFAULTS) -> None:
        self.store = store
        self._limits = limits
        self._cache = cache_dir.resolve()
        self._known: dict[str, tuple[object, Model | str]] = {}
        self._stop = threading.Event()

    def close(self) -> None:
        """End the conversion under way: the process is to exit, and a thread that waits would keep it."""
        self._stop.set()

    def signature(self) -> str:
        return self.store.manifests.signature()

    def read(self, configured: Mapping[str, Model], *, again: bool = False) -> Reading:
        """What there is now. A manifest that cannot be served is skipped, never a failure of the whole.

        `again`: one that was skipped before is looked at although it did not change.
        """
        listing = self.store.manifests.list()
        skipped = {bad.path: bad.reason for bad in listing.bad}
        known: dict[str, tuple[object, Model | str]] = {}
        models: list[Model] = []
        for stored in listing.models:
            place = str(stored.name)
            state = self._state(stored)
            before = self._known.get(place)
            stands = before and before[0] == state and not (again and isinstance(before[1], str))
            made = before[1] if before and stands else self._made(stored, configured)
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
        """
        Raises:
            LoadFailed: where the weights cannot be made what vLLM serves.
            Draining: after `close`.
        """
        digits = model.facts.path.name
        blob = self.store.blobs.path(f"sha256:{digits}")

        moved = progress.listener()
        tidying.mark(self.store, self._cache, digits)

        def report(phase: str, fraction: float) -> None:
            moved()
            _log.debug("%s: %s, %.0f %%", model.name, phase, fraction * 100)

        try:
            gguf.convert(blob, self._cache, report, digest=digits, stop=self._stop)
        except LoadFailed as error:
            raise LoadFailed(f"model '{model.name}': {error}") from error

    def prune(self) -> None:
        """Remove what nobody needs, of the store and of what was made of it.

        Raises:
            StoreFailed: where what is in use cannot be told.
        """
        self.store.prune()
        tidying.tidy(self.store, self._cache)

    def tried(self, name: ModelName, manifest: Manifest, configured: Mapping[str, Model]) -> Model:
        """What a manifest would be served as.

        Raises:
            LoadFailed: with the reason, where it cannot be.
            StoreFailed: where the store cannot be read.
        """
        try:
            return self._model(Stored(name, manifest, "0" * 64, datetime.now(UTC)), configured)
        except StoreFailed:
            raise
        except Exception as error:  # files from anywhere: whatever they lead to is told as their fault
            raise LoadFailed(self._reason(name, error)) from error

    def settings(self, manifest: Manifest) -> Settings:
        """Raises: BadManifest, BlobMissing, StoreFailed: for a layer that cannot be read."""

        def text(*types: str) -> str:
            layer = manifest.last(*types)
            return self._text(layer) if layer else ""

        layer = manifest.last(media.SERVING)
        serving = parse_serving(self._bytes(layer)) if layer else Serving()
        check_engine(serving.engine)
        return Settings(
            system=text(media.SYSTEM),
            template=text(media.TEMPLATE, media.PROMPT),
            chat_template=text(media.CHAT_TEMPLATE),
            parameters=read_params(text(media.PARAMS)),
            messages=read_messages(text(media.MESSAGES)),
            license=tuple(self._text(layer) for layer in manifest.all(media.LICENSE)),
            serving=serving,
            config=self._config(manifest),
        )

    def _config(self, manifest: Manifest) -> ImageConfig:
        """What a configuration is used for here is only shown: one that cannot be read is as none."""
        try:
            return parse_config(self._bytes(manifest.config)) if manifest.config else ImageConfig()
        except AppError:
            return ImageConfig()

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
        except Exception as error:  # files from anywhere: one that is odd must not hide the others
            return self._reason(stored.name, error)

    def _reason(self, name: ModelName, error: Exception) -> str:
        """Why a model cannot be served, for whoever sent its files."""
        match error:
            case AppError() | BadHeader():
                return self._without_paths(error)
            case OSError(strerror=str(text)):
                return text
            case _:
                _log.debug("the stored model %s cannot be read", name, exc_info=error)
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
            renderer=own.config.renderer,
            parser=own.config.parser,
            requires=own.config.requires,
        )
        if own.serving.base:
            model = on_configured(spec, own.serving.base, configured)
            model = replace(model, parent=_origin(manifest.last(media.SERVING)) or model.parent)
            size = model.facts.size_bytes + manifest.size_bytes
        else:
            model = self._on_weights(spec, manifest, own.serving)
            size = manifest.size_bytes + (model.facts.size_bytes if own.serving.repository else 0)
        if adapter_files := manifest.all(media.ADAPTER_FILE):
            model = replace(model, adapter=self._adapter(adapter_files, model))
        facts = replace(model.facts, digest=stored.digest, size_bytes=size, modified_at=stored.modified_at)
        _check(facts)
        return replace(model, facts=facts)

    def _on_weights(self, spec: ModelSpec, manifest: Manifest, serving: Serving) -> Model:
        weights = manifest.last(media.MODEL)
        files = manifest.all(media.FILE)
        # The weights alone decide what their engine can do, so that all models on them can share it.
        bare = replace(spec, system="", template="", chat_template="", parameters={}, messages=(), license=())
        templates = {"template": spec.template, "chat_template": spec.chat_template}
        if weights is not None:
            facts, bare = self._gguf(bare, templates, weights)
        elif files or serving.repository:
            path = self._folder(files) if files else repository_folder(serving)
            bare = bare if open_folder(path).template else replace(bare, **templates)
            foreign.check(path)
            facts = read_facts(path, bare, _Unhashed())
            facts = replace(facts, quantization=quantization_of(facts.quantization, serving.engine))
        else:
            raise BadManifest("it has no weights")
        parent = _origin(weights, *files, manifest.last(media.SERVING))
        sampling, fault = read_sampling(spec.parameters)
        is_seen = (spec.template, spec.chat_template) == (bare.template, bare.chat_template)
        return Model(
            spec,
            facts if is_seen else seen_through(facts, spec),
            _engine_key(facts.path, bare),
            parent=parent,
            sampling=sampling,
            fault=fault,
            engine_facts=facts,
            foreign_files=True,
            foreign_template=True,
        )

    def prune_adapters(self, used: Collection[str]) -> None:
        """Remove the copies of adapters that nobody has used for a day; `used` are digests.

        Raises:
            OSError: where the cache cannot be changed.
        """
        adaptercopies.prune(self._cache, used)

    def _adapter(self, layers: tuple[Layer, ...], model: Model) -> Adapter:
        base = None if self.is_lacking(model) else model.facts.path
        return adapter_of(layers, model, self.store.blobs, base, self._cache, self._limits)

    def _gguf(
        self, bare: ModelSpec, templates: Mapping[str, str], layer: Layer
    ) -> tuple[ModelFacts, ModelSpec]:
        blob = self.store.blobs.path(layer.digest)
        folder = gguf.place(self._cache, _hex(layer))
        header = read_gguf(blob)
        own = header.metadata.get(GGUF_TEMPLATE)
        bare = bare if own else replace(bare, **templates)
        if gguf.is_whole(folder):
            foreign.check(folder)
            return read_facts(folder, bare, _Unhashed()), bare
        return facts_of(header, bare, folder), bare

    def _folder(self, files: tuple[Layer, ...]) -> Path:
        """A folder of links to blobs, made once."""
        if any(Path(layer.name).suffix.lower() in PICKLES for layer in files):
            raise BadManifest("pickled weights are not served")
        names = sorted((layer.name, layer.digest) for layer in files)
        target = (
            self._cache
            / tidying.LINKS
            / hashlib.sha256(orjson.dumps([str(self.store.root), names])).hexdigest()
        )
        if target.is_dir():
            return target
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            for name, digest in names:
                link = part / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(self.store.blobs.path(digest).absolute())
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target

    def _bytes(self, layer: Layer) -> bytes:
        return self.store.blobs.read(layer.digest, MOST_BYTES)

    def _text(self, layer: Layer) -> str:
        return self._bytes(layer).decode("utf-8", "replace")


def _check(facts: ModelFacts) -> None:
    """What every list of models shows must be such that it can be written, whatever the files say.

    Raises:
        BadManifest: where it is not.
    """
    lengths = facts.context_length, facts.embedding_length
    if not all(0 <= length <= _MOST_LENGTH for length in lengths) or facts.parameter_count >= 1 << 63:
        raise BadManifest("its files give it a size that no model has")
    if not _WORD.fullmatch(facts.family) or not _WORD.fullmatch(facts.quantization):
        raise BadManifest("its files name no architecture")


class _Unhashed(FileHashes):
    """Reads nothing: what identifies a stored model is its manifest, and weights are large."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def of(self, path: Path, progress: Callable[[int], None] = lambda _done: None) -> str:
        return ""


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
