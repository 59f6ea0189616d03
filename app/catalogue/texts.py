"""What a manifest says besides its weights: bounded, and read once for all models that say the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from sys import getsizeof
from typing import Any, TypeVar

from app.catalogue.layers import keep_within, read_messages, read_params
from app.catalogue.messages import chars_of
from app.catalogue.serving import check_engine
from app.catalogue.shared import Held, Shared
from app.core.errors import AppError, BlobMissing
from app.core.limits import InputLimits
from app.core.model import Text
from app.core.request import Message
from app.store import manifest as media
from app.store.blobs import Blobs
from app.store.config import MOST_BYTES, ImageConfig, Serving, parse_config, parse_serving
from app.store.manifest import Layer, Manifest

_SYSTEM = (media.SYSTEM,)
_TEMPLATE = (media.TEMPLATE, media.PROMPT)
_CHAT_TEMPLATE = (media.CHAT_TEMPLATE,)
_PARAMS = (media.PARAMS,)
_MESSAGES = (media.MESSAGES,)
_SERVING = (media.SERVING,)
_READ = (_SYSTEM, _TEMPLATE, _CHAT_TEMPLATE, _PARAMS, _MESSAGES, _SERVING)

_RECENT = 8
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text that is read each time it is wanted."""

    blobs: Blobs = field(compare=False, repr=False)
    digest: str

    def __call__(self) -> str:
        """Raises: BlobMissing, StoreFailed."""
        return _decoded(self.blobs.read(self.digest, MOST_BYTES))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a manifest says besides the weights, as a Modelfile does; of `config` what is shown of it."""

    system: str = ""
    template: str = ""
    chat_template: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: tuple[Message, ...] = ()
    license: tuple[Text, ...] = ()
    serving: Serving = field(default_factory=Serving)
    config: ImageConfig = field(default_factory=ImageConfig)


class Texts:
    """Reads the texts of models from `blobs`, within `limits`. Every method may be called from any thread."""

    def __init__(self, blobs: Blobs, limits: InputLimits) -> None:
        self._blobs = blobs
        self._limits = limits
        self._shared = Shared(_RECENT, most_bytes=limits.stored_text_bytes, weigh=_memory_bytes)

    def settings(self, manifest: Manifest, held: Held) -> Settings:
        """`held` keeps what was read for the next model that has the same layer.

        Raises:
            BadManifest, BlobMissing, StoreFailed: for a layer that cannot be read.
            OverLimit: for more than a request may bring.
        """
        limits, licenses = self._limits, manifest.all(media.LICENSE)
        keep_within("license", limits.create_files, len(licenses))
        read = [layer for types in _READ if (layer := manifest.last(*types))]
        self._check_sizes((*licenses, *read))
        made = partial(self._made, manifest, held)
        system = made(_SYSTEM, _decoded, "")
        messages = made(_MESSAGES, lambda data: read_messages(_decoded(data), limits), ())
        chars = len(system) + sum(map(chars_of, messages))
        keep_within("text", limits.text_chars, chars, " characters")
        template, chat_template = made(_TEMPLATE, _decoded, ""), made(_CHAT_TEMPLATE, _decoded, "")
        for text in (template, chat_template):
            keep_within("template", limits.template_chars, len(text), " characters")
        return Settings(
            system=system,
            template=template,
            chat_template=chat_template,
            parameters=self.parameters(manifest, held),
            messages=messages,
            license=tuple(StoredText(self._blobs, layer.digest) for layer in licenses),
            serving=made(_SERVING, _serving, Serving()),
            config=self._config(manifest.config, held),
        )

    def parameters(self, manifest: Manifest, held: Held) -> Mapping[str, Any]:
        """The parameters alone; raises as `settings`."""
        return self._made(
            manifest, held, _PARAMS, lambda data: read_params(_decoded(data), self._limits), dict[str, Any]()
        )

    def _made(
        self,
        manifest: Manifest,
        held: Held,
        types: tuple[str, ...],
        make: Callable[[bytes], _T],
        nothing: _T,
    ) -> _T:
        layer = manifest.last(*types)
        if layer is None:
            return nothing
        key, least_bytes = (types, layer.digest), self._blobs.size(layer.digest) or 0
        return self._shared.get(key, lambda: make(self._bytes(layer)), held, least_bytes=least_bytes)

    def _check_sizes(self, layers: tuple[Layer, ...]) -> None:
        """By what is there, whatever the manifest says."""
        total = 0
        for layer in layers:
            size = self._blobs.size(layer.digest)
            if size is None:
                raise BlobMissing(layer.digest)
            if layer.media_type not in _MESSAGES:  # which may have pictures
                keep_within("a layer of text", MOST_BYTES, size, " bytes")
            total += size
        keep_within("texts", self._limits.model_text_bytes, total, " bytes together")

    def _config(self, layer: Layer | None, held: Held) -> ImageConfig:
        """What a configuration is used for here is only shown: one that cannot be read is as none."""
        if layer is None:
            return ImageConfig()
        try:
            return self._shared.get((media.CONFIG, layer.digest), lambda: _shown(self._bytes(layer)), held)
        except AppError:
            return ImageConfig()

    def _bytes(self, layer: Layer) -> bytes:
        # The size of messages was held to what all texts may have.
        most = max(MOST_BYTES, layer.size) if layer.media_type in _MESSAGES else MOST_BYTES
        return self._blobs.read(layer.digest, most)


def _memory_bytes(value: Any) -> int:
    """What a value takes that is made of texts, lists, tuples, dicts and dataclasses."""
    size, left = 0, [value]
    while left:
        each = left.pop()
        size += getsizeof(each)
        match each:
            case Mapping():
                left += each.keys()
                left += each.values()
            case list() | tuple():
                left += each
            case _ if is_dataclass(each):
                left += (getattr(each, item.name) for item in fields(each))
            case _:
                pass
    return size


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _serving(data: bytes) -> Serving:
    serving = parse_serving(data)
    check_engine(serving.engine)
    return serving


def _shown(data: bytes) -> ImageConfig:
    found = parse_config(data)
    shown = ("renderer", "parser", "requires", "remote_host", "remote_model")
    return ImageConfig(**{name: getattr(found, name) for name in shown})
