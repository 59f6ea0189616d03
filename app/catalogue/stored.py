"""Models of the store: from a manifest and its layers to what is served (docs/reference 12.3).

What Ollama wrote is served where it holds GGUF. What only Caravan writes are folders of files, repositories
of the hub, and configured models with something of their own.
"""

import logging
import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.catalogue import gguf, tidying
from app.catalogue.adapteruses import AdapterUses
from app.catalogue.conversions import Conversions, Moved
from app.catalogue.derived import on_configured, seen_through
from app.catalogue.headers import BadHeader, GgufHeader
from app.catalogue.layers import read_sampling
from app.catalogue.names import parse_name
from app.catalogue.quantizing import quantization_of
from app.catalogue.serving import repository_folder
from app.catalogue.shared import Held
from app.catalogue.storedadapter import adapter_of, copy_sizes
from app.catalogue.texts import Texts
from app.catalogue.weightfacts import WeightFacts, engine_key
from app.core.errors import AppError, BadManifest, InvalidRequest, LoadFailed, OverLimit, StoreFailed
from app.core.limits import DEFAULTS, InputLimits
from app.core.model import Adapter, Model, ModelFacts, ModelName, ModelSpec
from app.store import manifest as media
from app.store.config import Serving
from app.store.manifest import Layer, Manifest
from app.store.manifests import Stored
from app.store.store import Store
from app.store.unserved import unserved

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
"""Files of these kinds are programs that run where they are read."""

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
class _Unserved:
    """Why a model is not served. One that `lasts` no other look would change, as long as the model stays."""

    reason: str
    lasts: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What a manifest came to in a `state`; `held` is what it shares with others."""

    state: object
    made: Model | _Unserved
    held: Held

    def stands(self, state: object, *, again: bool) -> bool:
        may_mend = isinstance(self.made, _Unserved) and not self.made.lasts
        return self.state == state and not (again and may_mend)


class StoredModels:
    """Makes models of what is in `store`. `cache_dir` holds what is made of their weights; `limits` bind
    their texts and adapters.

    Every method may be called from any thread, and blocks; `read` one at a time.
    """

    def __init__(self, store: Store, cache_dir: Path, *, limits: InputLimits = DEFAULTS) -> None:
        self.store = store
        self._limits = limits
        self._cache = cache_dir.resolve()
        self._texts = Texts(store.blobs, limits)
        self._weights = WeightFacts(self._cache)
        self._known: dict[str, _Known] = {}
        self._stop = threading.Event()
        self._conversions = Conversions()
        self.adapters = AdapterUses(self._cache)

    @property
    def most(self) -> int:
        """How many models the store may have; 0 is no limit."""
        return self._limits.stored_models

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
        known: dict[str, _Known] = {}
        models: list[Model] = []
        for stored in listing.models:
            place = str(stored.name)
            state = self._state(stored)
            before = self._known.get(place)
            stands = before and before.stands(state, again=again)
            found = before if before and stands else self._made(stored, state, configured)
            known[place] = found
            if isinstance(found.made, Model):
                models.append(found.made)
            else:
                skipped[place] = found.made.reason
        self._known = known
        return Reading(tuple(models), skipped, listing.signature)

    def is_lacking(self, model: Model) -> bool:
        """Whether the model's weights are a GGUF file of the store that is not converted yet."""
        path = model.facts.path
        return path.parent == self._cache / gguf.FOLDER and not gguf.is_whole(path)

    async def converted(self, model: Model, *, urgent: bool = False) -> None:
        """Have the model's weights converted: once, whoever asks for the same. `urgent` is for a load.

        Raises:
            Overloaded: where too many conversions wait.
            As `convert`.
        """
        work = partial(self.convert, model)
        await self._conversions.run(model.facts.path.name, work, urgent=urgent)

    def convert(self, model: Model, moved: Moved) -> None:
        """Convert the model's weights, and call `moved` as that goes on.

        Raises:
            LoadFailed: where the weights cannot be made what vLLM serves.
            Draining: after `close`.
        """
        digits = model.facts.path.name
        blob = self.store.blobs.path(f"sha256:{digits}")
        tidying.mark(self.store, self._cache, digits)

        def report(phase: str, fraction: float) -> None:
            moved()
            _log.debug("%s: %s, %.0f %%", model.name, phase, fraction * 100)

        try:
            gguf.convert(blob, self._cache, report, digest=digits, stop=self._stop)
        except LoadFailed as error:
            raise LoadFailed(f"model '{model.name}': {self._without_paths(error)}") from error

    def prune(self) -> None:
        """Remove what nobody needs, of the store and of what was made of it.

        Raises:
            StoreFailed: where what is in use cannot be told.
        """
        self.store.prune()
        tidying.tidy(self.store, self._cache)

    def tried(
        self, name: ModelName, manifest: Manifest, configured: Mapping[str, Model], *, kept: bool = False
    ) -> Model:
        """What a manifest would be served as. It is `kept`, with a copy of its adapter, where it is to be.

        Raises:
            LoadFailed: with the reason, where it cannot be.
            StoreFailed: where the store cannot be read.
        """
        try:
            stored = Stored(name, manifest, "0" * 64, datetime.now(UTC))
            return self._model(stored, configured, [], kept=kept)
        except StoreFailed:
            raise
        except Exception as error:  # files from anywhere: whatever they lead to is told as their fault
            raise LoadFailed(self._reason(name, error)) from error

    def parameters(self, manifest: Manifest) -> Mapping[str, Any]:
        """Raises: BadManifest, BlobMissing, StoreFailed: where they cannot be read, or are too many."""
        return self._texts.parameters(manifest, [])

    def header(self, digest: str) -> GgufHeader:
        """The header of a blob that is to be a GGUF file.

        Raises:
            BadHeader, OSError: where it is none, or is not there.
        """
        return self._weights.header(self.store.blobs.path(digest), [])

    def _without_paths(self, error: Exception) -> str:
        """Its text without the folders of this server."""
        folders = "|".join(re.escape(str(folder)) for folder in (self._cache, self.store.root))
        return re.sub(rf"({folders})/(\S+/)?", "", str(error))

    def _state(self, stored: Stored) -> object:
        """What must be the same for a model that was made once to stand."""
        model = stored.manifest.last(media.MODEL)
        converted = model is not None and gguf.is_whole(gguf.place(self._cache, _hex(model)))
        return stored.digest, stored.modified_at, converted

    def _made(self, stored: Stored, state: object, configured: Mapping[str, Model]) -> _Known:
        held: Held = []
        try:
            return _Known(state, self._model(stored, configured, held), held)
        except Exception as error:  # files from anywhere: one that is odd must not hide the others
            reason = self._reason(stored.name, error)
            return _Known(state, _Unserved(reason, isinstance(error, OverLimit)), held)

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

    def _model(
        self, stored: Stored, configured: Mapping[str, Model], held: Held, *, kept: bool = True
    ) -> Model:
        manifest = stored.manifest
        own = self._texts.settings(manifest, held)
        if reason := unserved(manifest, own.config):
            raise BadManifest(reason)
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
            model = self._on_weights(spec, manifest, own.serving, held)
            size = manifest.size_bytes + (model.facts.size_bytes if own.serving.repository else 0)
        if adapter_files := manifest.all(media.ADAPTER_FILE):
            model = replace(model, adapter=self._adapter(adapter_files, model, kept))
        facts = replace(model.facts, digest=stored.digest, size_bytes=size, modified_at=stored.modified_at)
        _check(facts)
        return replace(model, facts=facts)

    def _on_weights(self, spec: ModelSpec, manifest: Manifest, serving: Serving, held: Held) -> Model:
        weights = manifest.last(media.MODEL)
        files = manifest.all(media.FILE)
        # The weights alone decide what their engine can do, so that all models on them can share it.
        bare = replace(spec, system="", template="", chat_template="", parameters={}, messages=(), license=())
        templates = {"template": spec.template, "chat_template": spec.chat_template}
        if weights is not None:
            blob = self.store.blobs.path(weights.digest)
            facts, bare = self._weights.of_gguf(blob, _hex(weights), bare, templates, held)
            facts = replace(facts, gguf=blob.absolute())
        else:
            path = self._folder(files) if files else repository_folder(serving)
            facts, bare = self._weights.of_folder(path, bare, templates, held)
            facts = replace(facts, quantization=quantization_of(facts.quantization, serving.engine))
        parent = _origin(weights, *files, manifest.last(media.SERVING))
        sampling, fault = read_sampling(spec.parameters)
        is_seen = (spec.template, spec.chat_template) == (bare.template, bare.chat_template)
        return Model(
            spec,
            facts if is_seen else seen_through(facts, spec),
            engine_key(facts.path, bare),
            parent=parent,
            sampling=sampling,
            fault=fault,
            engine_facts=facts,
            foreign_files=True,
            foreign_template=True,
        )

    def _adapter(self, layers: tuple[Layer, ...], model: Model, kept: bool) -> Adapter:
        base = None if self.is_lacking(model) else model.facts.path
        uses = self.adapters if kept else None
        if kept:
            self.store.count(copy_sizes(layers))
        return adapter_of(layers, model, self.store.blobs, base, self._cache, self._limits, uses)

    def _folder(self, files: tuple[Layer, ...]) -> Path:
        """A folder of links to blobs, made once."""
        if any(Path(layer.name).suffix.lower() in PICKLES for layer in files):
            raise BadManifest("pickled weights are not served")
        target = tidying.links(self.store, self._cache, files)
        if target.is_dir():
            return target
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            for layer in files:
                link = part / layer.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(self.store.blobs.path(layer.digest).absolute())
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target


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


def _origin(*layers: Layer | None) -> str:
    """The short name of the model that the weights were taken from; empty where nothing says one."""
    origins = (layer.origin for layer in layers if layer is not None and layer.origin)
    try:
        return next((str(parse_name(origin)) for origin in origins), "")
    except InvalidRequest:
        return ""


def _hex(layer: Layer) -> str:
    return layer.digest.removeprefix("sha256:")
