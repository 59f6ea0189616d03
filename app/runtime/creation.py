"""Create, copy and delete: models of the store, made of others and of uploaded files (docs/reference 11)."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.catalogue.adapters import check_names
from app.catalogue.headers import BadHeader, read_safetensors
from app.catalogue.library import Library, key_of
from app.catalogue.messages import message_document
from app.catalogue.quantizing import FP8, check_quantization, quantized
from app.catalogue.stored import PICKLES, StoredModels
from app.catalogue.storedadapter import copy_sizes
from app.core.errors import (
    AppError,
    BadManifest,
    BlobMissing,
    CreateFailed,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    StoreFailed,
)
from app.core.model import Model, ModelName
from app.core.request import Message
from app.golang.dumps import dumps
from app.registry.progress import SUCCESS, Progress
from app.runtime.creationchecks import UNKNOWN_TYPE, check_capabilities, template_layer
from app.runtime.draft import Draft, status_of
from app.runtime.reach import Reach
from app.store import manifest as media
from app.store.config import MOST_BYTES as MOST_CONFIG_BYTES
from app.store.config import ImageConfig, Serving, parse_config, parse_serving
from app.store.digests import hex_of
from app.store.holds import Hold, manifest_size
from app.store.manifest import Layer, Manifest
from app.store.prune import prune_unused
from app.store.store import Store

NOT_GGUF = "supplied file was not in GGUF format"

_MAGIC = b"GGUF"
_OTHER_WEIGHTS = {".safetensors", *PICKLES}

_REPLACED = {
    "template": (media.TEMPLATE, media.PROMPT, media.CHAT_TEMPLATE),
    "system": (media.SYSTEM,),
    "parameters": (media.PARAMS,),
    "messages": (media.MESSAGES,),
}
_ORIGINAL = (media.MODEL, media.PROJECTOR, media.FILE, media.SERVING)
"""Layers that say which model they were taken from."""

_log = logging.getLogger("caravan")

Pull = Callable[[ModelName, Reach], AsyncGenerator[Progress]]


@dataclass(frozen=True, slots=True)
class Creation:
    """One call to create: `base` or `files`, and what is changed; files are digests by their names."""

    name: ModelName
    base: ModelName | None = None
    files: Mapping[str, str] | None = None
    adapters: Mapping[str, str] | None = None
    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: tuple[Message, ...] = ()
    license: tuple[str, ...] = ()
    quantize: str = ""
    capabilities: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    """`renderer`, `parser` and `requires`: kept for Ollama and not used here."""


class Creator:
    """Makes models in `store`; `pull` brings a base that is not here."""

    def __init__(
        self,
        store: Store,
        stored: StoredModels,
        library: Library,
        pull: Pull,
        *,
        on_gpu: bool = False,
        quota_bytes: int = 0,
    ) -> None:
        self.store = store
        self._quota_bytes = quota_bytes
        self._making, self._changes = store.threads.making, store.threads.changes
        self._on_gpu = on_gpu
        self._stored = stored
        self._library = library
        self._pull = pull

    async def create(self, asked: Creation, reach: Reach) -> AsyncGenerator[Progress]:
        """Make a model, in Ollama's steps. Nothing is listed before all of it is there. To whoever may not
        name a blob it is not here.

        Raises:
            Forbidden: for a name that configuration owns.
            InvalidRequest, CreateFailed: with Ollama's text where it has one; the store is as it was.
            RegistryFailed, StoreFailed: as a pull, and where the store takes nothing.
        """
        self._library.check_new(asked.name)
        check_quantization(asked.quantize, on_gpu=self._on_gpu)
        if asked.base is None and asked.files is None:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        if asked.adapters is not None:
            check_names(asked.adapters)
        digests = [*(asked.files or {}).values(), *(asked.adapters or {}).values()]
        for digest in await self._making.run(reach.lacking, digests):
            raise CreateFailed(str(BlobMissing(digest)))
        await self._making.run(template_layer, asked.template)
        new: list[str] = []
        try:
            async with aclosing(self._create(asked, reach, new)) as lines:
                async for line in lines:
                    yield line
        except Exception:
            await self._changes.run(self._forget, new)
            await self._library.use_adapters()
            raise
        await self._library.reload()
        yield SUCCESS

    async def _create(self, asked: Creation, reach: Reach, new: list[str]) -> AsyncGenerator[Progress]:
        """The steps up to the manifest; `new` hears the digests of the layers that were not there."""
        with self.store.hold() as hold:
            if asked.base is not None:
                async with aclosing(self._base(asked.base, reach)) as lines:
                    async for line in lines:
                        yield line
                base = await self._making.run(self._layers_of, asked.base, hold)
            else:
                assert asked.files is not None
                ggufs = await self._making.run(self._ggufs, asked.files)
                if ggufs:
                    yield Progress("parsing GGUF")
                base = await self._making.run(self._layers_of_files, asked.files, ggufs, hold)
            if asked.adapters is not None:
                yield Progress("converting adapter")
                base = await self._making.run(self._with_adapter, base, asked.adapters, hold)
            draft = Draft(self.store, hold, self._quota_bytes, new)
            model = await self._making.run(self._drafted, asked, base, draft)
            if asked.adapters and self._stored.is_lacking(model):
                # An adapter is held against the weights that are served, and making those may take minutes.
                yield Progress("converting model")
                await self._convert(model)
                model = await self._making.run(self._tried, asked.name, draft.manifest)
            made = await self._making.run(self._finished, asked, base, draft, model)
            for status in made.statuses:
                yield Progress(status)
            yield Progress("writing manifest")
            await self._changes.run(self._write, asked.name, made.manifest, hold)

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        """A second name for a model; what is configured is then built on.

        Raises:
            ModelNotFound, Forbidden, StoreFailed.
        """
        if key_of(source) == key_of(destination) and self._library.get(source):
            return
        self._library.check_new(destination)
        if self._library.is_configured(source):
            with self.store.hold() as hold:
                base = await self._making.run(self._layers_of, source, hold)
                asked, draft = Creation(destination), Draft(self.store, hold, self._quota_bytes, [])
                model = await self._making.run(self._drafted, asked, base, draft)
                made = await self._making.run(self._finished, asked, base, draft, model)
                await self._changes.run(self._write, destination, made.manifest, hold)
        else:
            await self._changes.run(self._copy, source, destination)
        await self._library.reload()

    async def delete(self, name: ModelName) -> None:
        """Delete a model; its engine goes with the last that has it.

        Raises:
            Forbidden: for one that configuration owns.
            ModelNotFound, StoreFailed.
        """
        self._library.check_changeable(name)
        if not await self._changes.run(self.store.delete, name):
            raise ModelNotFound(str(name))
        await self._library.reload()

    def has_blob(self, digest: str, reach: Reach) -> bool:
        """Raises: InvalidDigest, StoreFailed."""
        return self.store.blobs.size(digest) is not None and not reach.lacking([digest])

    async def _base(self, name: ModelName, reach: Reach) -> AsyncGenerator[Progress]:
        """The lines of a pull where the base is not here."""
        if self._library.is_configured(name) or await self._changes.run(self.store.manifests.find, name):
            return
        async with aclosing(self._pull(name, reach)) as lines:
            async for line in lines:
                if line != SUCCESS:
                    yield line

    def _layers_of(self, name: ModelName, hold: Hold) -> Manifest:
        """What a model is made of, each layer of weights with its origin."""
        if model := self._library.configured.get(key_of(name)):
            data = Serving(base=str(model.name)).encode()
            digest = self.store.blobs.put(data, hold)
            return Manifest(None, (Layer(media.SERVING, digest, len(data), origin=str(model.name)),))
        found = self.store.manifests.find(name)
        if found is None:
            raise ModelNotFound(str(name))
        hold.add(*(layer.digest for layer in found.manifest.blobs))
        origin = str(found.name)
        layers = tuple(
            replace(layer, origin=origin) if layer.media_type in _ORIGINAL else layer
            for layer in found.manifest.layers
        )
        return Manifest(found.manifest.config, layers)

    def _ggufs(self, files: Mapping[str, str]) -> list[str]:
        """The names of GGUF files, by their ending or else by how they begin: blobs of a store have none."""
        return [name for name, digest in files.items() if self._is_gguf(name, digest)]

    def _is_gguf(self, name: str, digest: str) -> bool:
        if (suffix := Path(name).suffix.lower()) in _OTHER_WEIGHTS:
            return False
        if suffix == ".gguf":
            return True
        try:
            with self.store.blobs.path(digest).open("rb") as stream:
                return stream.read(len(_MAGIC)) == _MAGIC
        except OSError:
            return False

    def _layers_of_files(self, files: Mapping[str, str], ggufs: Sequence[str], hold: Hold) -> Manifest:
        if len(ggufs) > 1:
            raise InvalidRequest("only one GGUF file makes a model here: projectors and parts are not served")
        if ggufs:
            return Manifest(None, (self._gguf(files[ggufs[0]], hold),))
        if any(Path(name).suffix.lower() in PICKLES for name in files):
            raise InvalidRequest("pickled weights are not taken, as they are programs: use safetensors")
        if not any(name.lower().endswith(".safetensors") for name in files):
            raise InvalidRequest(UNKNOWN_TYPE)
        return Manifest(None, tuple(self._file(name, digest, hold) for name, digest in sorted(files.items())))

    def _with_adapter(self, base: Manifest, files: Mapping[str, str], hold: Hold) -> Manifest:
        if base.all(media.ADAPTER, media.ADAPTER_FILE):
            raise InvalidRequest("only one adapter is currently supported")
        taken = (self._file(name, digest, hold) for name, digest in sorted(files.items()))
        layers = (replace(layer, media_type=media.ADAPTER_FILE) for layer in taken)
        return Manifest(base.config, (*base.layers, *layers))

    def _gguf(self, digest: str, hold: Hold) -> Layer:
        layer = self._uploaded(media.MODEL, digest, hold)
        path = self.store.blobs.path(digest)
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise InvalidRequest(NOT_GGUF)
        try:
            self._stored.header(digest)
        except BadHeader as error:
            raise InvalidRequest(f"{NOT_GGUF}: {error}") from error
        return layer

    def _file(self, name: str, digest: str, hold: Hold) -> Layer:
        layer = replace(self._uploaded(media.FILE, digest, hold), name=name)
        if name.lower().endswith(".safetensors"):
            try:
                read_safetensors(self.store.blobs.path(digest))
            except BadHeader as error:
                raise InvalidRequest(f"{name} is not a sound safetensors file: {error}") from error
        return layer

    def _uploaded(self, media_type: str, digest: str, hold: Hold) -> Layer:
        digest = f"sha256:{hex_of(digest)}"
        hold.add(digest)
        size = self.store.blobs.size(digest)
        if size is None:
            raise CreateFailed(str(BlobMissing(digest)))
        return Layer(media_type, digest, size)

    def _drafted(self, asked: Creation, base: Manifest, draft: "Draft") -> Model:
        """What would be served, once all layers are there but those that say how."""
        replaced = [
            kind for field_name, kinds in _REPLACED.items() if getattr(asked, field_name) for kind in kinds
        ]
        layers = draft.layers
        layers += [layer for layer in base.layers if layer.media_type not in replaced]
        draft.statuses += [status_of(layer, is_new=False) for layer in layers]
        put = draft.put
        if asked.template:
            layers.append(put(template_layer(asked.template), asked.template.encode()))
        if asked.system:
            layers.append(put(media.SYSTEM, asked.system.encode()))
        layers += [put(media.LICENSE, text.encode()) for text in asked.license]
        if asked.parameters:
            under = self._parameters(base)
            layers.append(put(media.PARAMS, dumps({**under, **asked.parameters}) + b"\n"))
        if asked.messages:
            layers.append(put(media.MESSAGES, dumps(list(map(message_document, asked.messages))) + b"\n"))
        return self._tried(asked.name, draft.manifest)

    def _finished(self, asked: Creation, base: Manifest, draft: "Draft", model: Model) -> "_Made":
        if asked.quantize:
            before = base.last(media.SERVING)
            serving = self._quantized(model, before)
            draft.layers = [layer for layer in draft.layers if layer is not before]
            layer = draft.put(media.SERVING, serving)
            draft.layers.append(replace(layer, origin=before.origin if before else ""))
            draft.statuses.insert(0, f"quantizing {model.facts.quantization} model to {FP8} at each load")
            model = self._tried(asked.name, draft.manifest)
        check_capabilities(asked.capabilities, model)
        config = draft.put(media.CONFIG, self._config(asked, base, model).encode())
        if asked.adapters:
            # Last, when nothing refuses the model any more: the copy of its adapter is as large as that.
            draft.reserve(copy_sizes(draft.manifest.all(media.ADAPTER_FILE)))
            self._tried(asked.name, draft.manifest, kept=True)
        return _Made(Manifest(config, tuple(draft.layers)), tuple(draft.statuses))

    def _quantized(self, model: Model, layer: Layer | None) -> bytes:
        data = self.store.blobs.read(layer.digest, MOST_CONFIG_BYTES) if layer else None
        serving = parse_serving(data) if data else Serving()
        more = quantized(model, is_configured=bool(serving.base))
        return replace(serving, engine={**serving.engine, **more}).encode()

    def _parameters(self, base: Manifest) -> Mapping[str, Any]:
        try:
            return self._stored.parameters(base)
        except BadManifest as error:
            raise InvalidRequest(f"these files cannot be served: {error}") from error

    async def _convert(self, model: Model) -> None:
        try:
            await self._stored.converted(model)
        except LoadFailed as error:
            raise InvalidRequest(f"these files cannot be served: {error}") from error

    def _tried(self, name: ModelName, manifest: Manifest, *, kept: bool = False) -> Model:
        try:
            return self._stored.tried(name, manifest, self._library.configured, kept=kept)
        except LoadFailed as error:
            raise InvalidRequest(f"these files cannot be served: {error}") from error

    def _config(self, asked: Creation, base: Manifest, model: Model) -> ImageConfig:
        facts = model.facts
        before = ImageConfig()
        if base.config is not None:
            before = parse_config(self.store.blobs.read(base.config.digest, MOST_CONFIG_BYTES))
        return replace(
            before,
            model_format=facts.format,
            model_family=facts.family,
            model_families=facts.families,
            model_type=facts.parameter_size,
            file_type=facts.quantization,
            capabilities=tuple(dict.fromkeys((*before.capabilities, *asked.capabilities))),
            **{key: value for key, value in asked.config.items() if value},
        )

    def _copy(self, source: ModelName, destination: ModelName) -> None:
        with self.store.hold() as hold:
            if self._quota_bytes and (found := self.store.manifests.find(source)):
                hold.reserve(manifest_size(destination, found.manifest.encode()), self._quota_bytes)
            self.store.manifests.copy(source, destination)

    def _write(self, name: ModelName, manifest: Manifest, hold: Hold) -> None:
        hold.reserve(manifest_size(name, manifest.encode()), self._quota_bytes)
        try:
            before = self.store.manifests.find(name)
        except AppError:
            before = None
        self.store.manifests.write(name, manifest)
        try:
            if before is not None:
                blobs = (layer.digest for layer in before.manifest.blobs)
                prune_unused(self.store.manifests, blobs, before.modified_at)
        except StoreFailed as error:
            _log.warning("what the replaced model %s had is not removed: %s", name, error)

    def _forget(self, digests: Sequence[str]) -> None:
        """Remove what was written for a creation that came to nothing, unless somebody else needs it now."""
        try:
            prune_unused(self.store.manifests, digests)
        except StoreFailed as error:
            _log.warning("what was written for a model that was not made is not removed: %s", error)


@dataclass(frozen=True, slots=True)
class _Made:
    manifest: Manifest
    statuses: tuple[str, ...]
