"""The models that are served: configured ones, which stay, and those of the store, which come and go."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.catalogue.names import read_reference
from app.catalogue.stored import StoredModels
from app.core.errors import Forbidden, LoadFailed, ModelNotFound, StoreFailed
from app.core.model import Model, ModelName
from app.store.manifest import Manifest

_INTERVAL_S = 1.0
_AGAIN_S = (2.0, 64.0)
"""Shortest and longest time until what could not be served is looked at again: on a shared volume a host may
see a manifest before what it names."""
_PRUNE_S = 3600.0
_log = logging.getLogger("caravan")


@dataclass(slots=True)
class Retry:
    """When what could not be served is looked at again, by a clock that is passed in.

    A change of the store brings the next look nearer and never puts it off: it may change all the time.
    """

    after_s: float = _AGAIN_S[0]
    at: float | None = None

    def looked(self, now: float, *, again: bool, is_needed: bool) -> None:
        """The store was read, `again` with what could not be served; `is_needed`: there is some of it."""
        self.after_s = min(2 * self.after_s, _AGAIN_S[1]) if again else _AGAIN_S[0]
        before = None if again else self.at
        after = now + self.after_s
        self.at = None if not is_needed else after if before is None else min(before, after)

    def is_due(self, now: float) -> bool:
        return self.at is not None and now > self.at


class Library:
    """The one owner of the list. A name that configuration and store share is the configured model's.

    What is found stays as it is while a request uses it, whatever becomes of the list.
    """

    def __init__(self, models: Sequence[Model], stored: StoredModels | None = None) -> None:
        self._configured = {key_of(model.name): model for model in models}
        self._models = dict(self._configured)
        self._stored = stored
        self._lock = asyncio.Lock()
        self._signature = ""
        self._told: dict[str, str] = {}
        self._pruned_at = time.monotonic()
        self._retry = Retry()
        self.on_new: Callable[[Iterable[str]], None] = lambda _: None
        """Hears the names that were not there before."""
        self.on_left: Callable[[Model, bool], None] = lambda _model, _is_shared: None
        """Hears of each model that has gone, or is another under its name; whether others have its engine."""
        self.on_change: Callable[[], Awaitable[None]] = _nobody
        """Hears that the list is another, before whoever has changed it goes on."""
        self.on_gone: Callable[[Iterable[Model]], None] = lambda _: None
        """Hears of models whose adapters no other on their engines has."""
        self.running_adapters: Callable[[], Iterable[str]] = lambda: ()
        """The digests of adapters that requests use, be their models in the list or not."""
        self._adapters: set[str] = set()

    def open(self, stored: StoredModels) -> None:
        """Serve what that store holds too, from the next `reload` on."""
        self._stored = stored

    def close(self) -> None:
        """End a conversion under way."""
        if self._stored is not None:
            self._stored.close()

    def all(self) -> list[Model]:
        """Every model, the configured ones first and in their order."""
        return list(self._models.values())

    def find(self, name: str, *, case_sensitive: bool = False, details: bool = False) -> Model:
        """The model that a client means by `name` (docs/reference 3.3 to 3.5 and 16.2).

        `details` is for the routes that describe a model, where `ModelNotFound` carries the shortest
        form with the tag; elsewhere it is the name as it was sent.
        """
        parsed = read_reference(name, details=details)
        model = self.get(parsed)
        if model is None or (case_sensitive and model.name != parsed):
            raise ModelNotFound(str(self.cased(parsed)) if details else name)
        return model

    def get(self, name: ModelName) -> Model | None:
        """The model of that name, in whatever case."""
        return self._models.get(key_of(name))

    def cased(self, name: ModelName) -> ModelName:
        """`name` with each part written as some served model writes it (docs/reference 3.3)."""
        parts = {field: getattr(name, field) for field in ("host", "namespace", "model", "tag")}
        for model in self._models.values():
            for field, part in parts.items():
                if part.lower() == (known := getattr(model.name, field)).lower():
                    parts[field] = known
        return ModelName(**parts)

    def is_configured(self, name: ModelName) -> bool:
        return key_of(name) in self._configured

    def check_changeable(self, name: ModelName) -> None:
        """Raises: Forbidden: for a model that the configuration owns."""
        if self.is_configured(name):
            raise Forbidden(
                f"the model {name} comes from the configuration of this server: "
                "it cannot be changed over HTTP"
            )

    async def check(self, name: ModelName, manifest: Manifest) -> None:
        """Raises: LoadFailed: with the reason why a manifest could not be served whose blobs are here."""
        if (stored := self._stored) is not None:
            await stored.store.threads.making.run(stored.tried, name, manifest, self._configured)

    def check_new(self, name: ModelName) -> None:
        """Raises: Forbidden: as `check_changeable`, and for one more than may be in the store."""
        self.check_changeable(name)
        most = self._stored.most if self._stored else 0
        stored = len(self._models) - len(self._configured) + len(self._told)
        if 0 < most <= stored and self.get(name) is None:
            raise Forbidden(f"there are {stored} models in the store, of at most {most}; delete one first")

    def shares(self, model: Model) -> bool:
        """Whether a model of the list runs on the same engine."""
        return any(other.engine_key == model.engine_key for other in self._models.values())

    def heir(self, model: Model) -> Model | None:
        """A model of the list that runs on the same engine, the same one if it is still there."""
        sharing = [other for other in self._models.values() if other.engine_key == model.engine_key]
        return next((each for each in sharing if each.name == model.name), next(iter(sharing), None))

    def adapter_rank(self, model: Model) -> int:
        """The largest rank of the adapters on the model's engine; 0 where none is known."""
        sharing = (each for each in self._models.values() if each.engine_key == model.engine_key)
        return max(each.adapter.rank if each.adapter else 0 for each in (model, *sharing))

    @property
    def configured(self) -> Mapping[str, Model]:
        """By `key_of` their names."""
        return self._configured

    async def reload(self, *, again: bool = False) -> None:
        """Read the store's manifests again; those that did not change cost nothing.

        One that cannot be served is left out, and that is told once in the log. `again`: those that did not
        change and could not be served are looked at too.
        """
        if (stored := self._stored) is None:
            return
        async with self._lock:
            reading = await stored.store.threads.reading.run(stored.read, self._configured, again=again)
            self._signature = reading.signature
            models = self._configured | {
                key: model for model in reading.models if (key := key_of(model.name)) not in self._configured
            }
            new = [str(model.name) for key, model in models.items() if key not in self._models]
            adapters = {None, *map(_adapter_of, models.values())}
            gone = [each for each in self._models.values() if _adapter_of(each) not in adapters]
            left = [
                each
                for key, each in self._models.items()
                if (now := models.get(key)) is None or now.engine_key != each.engine_key
                if str(each.name) not in reading.skipped  # it may come back in a moment
            ]
            changed = [*map(id, self._models.values())] != [*map(id, models.values())]
            self._models = models
            self._retry.looked(time.monotonic(), again=again, is_needed=bool(reading.skipped))
        for place, reason in reading.skipped.items():
            if self._told.get(place) != reason:
                _log.warning("the stored model %s is not served: %s", place, reason)
        self._told = dict(reading.skipped)
        if new:
            self.on_new(new)
        for model in left:
            self.on_left(model, self.shares(model))
        if gone:
            self.on_gone(gone)
        if changed:
            await self.on_change()
        await self.use_adapters()

    async def use_adapters(self) -> None:
        """Have the copies of adapters go that neither a model nor a request needs any more."""
        if (stored := self._stored) is None:
            return
        async with self._lock:
            self._adapters = self._used_adapters()
            await stored.store.threads.reading.run(stored.adapters.only, self._adapters)

    def _used_adapters(self) -> set[str]:
        used = {model.adapter.digest for model in self.all() if model.adapter}
        return used.union(self.running_adapters())

    async def watch(self) -> None:
        """Look for changes of the store until cancelled, those of other processes among them.

        Raises: whatever a look comes to: whoever supervises it begins it anew.
        """
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if (stored := self._stored) is None:
                continue
            again = self._retry.is_due(time.monotonic())
            if again or await stored.store.threads.reading.run(stored.signature) != self._signature:
                await self.reload(again=again)
            elif self._used_adapters() != self._adapters:  # the last request with one has ended
                await self.use_adapters()
            if time.monotonic() - self._pruned_at > _PRUNE_S:
                self._pruned_at = time.monotonic()
                try:
                    await stored.store.threads.reading.run(stored.prune)
                    await stored.store.threads.reading.run(stored.adapters.prune)
                except (StoreFailed, OSError) as error:
                    _log.warning("the store is not pruned: %s", error)

    async def materialized(self, model: Model) -> Model:
        """The model as its engine is loaded, its weights in a folder: a GGUF file is converted now.

        Raises:
            LoadFailed: where that fails, or the model has been deleted.
        """
        if (stored := self._stored) is None or not stored.is_lacking(model):
            return model.on_engine()
        _log.info("converting %s, which takes a while and is done once", model.name)
        await stored.converted(model, urgent=True)
        await self.reload()
        same = (each for each in self._models.values() if each.engine_key == model.engine_key)
        found = next(same, None)
        if found is None:
            raise LoadFailed(f"the model {model.name} has been deleted")
        return found.on_engine()


async def _nobody() -> None:
    """No process but this has the list."""


def key_of(name: ModelName) -> str:
    """Names that differ only in case are the same."""
    return name.canonical.lower()


def _adapter_of(model: Model) -> tuple[str, str] | None:
    """What an engine knows of a model's adapter."""
    return (model.engine_key, model.adapter.digest) if model.adapter else None
