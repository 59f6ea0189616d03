"""The configured models, made ready at the start; and how one model is made of another."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import orjson

from app.catalogue import adaptercopies, gguf, hub, tidying
from app.catalogue.adaptercopies import CONFIG, WEIGHTS
from app.catalogue.adapters import AdapterFiles, check_engine_takes, take_adapter
from app.catalogue.bundled import SOURCE as BUNDLED_SOURCE
from app.catalogue.bundled import bundled
from app.catalogue.digest import FileHashes, manifest_digest, own_digest
from app.catalogue.facts import read_facts, with_go_template
from app.catalogue.library import Library, key_of
from app.catalogue.names import parse_name
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest, LoadFailed
from app.core.limits import InputLimits
from app.core.model import ENGINE_FIELDS, Adapter, Model, ModelFacts, ModelName, ModelSpec

Progress: TypeAlias = Callable[[str, str, float], None]
"""Hears the model's name, the phase of the work and how much of that is done, from 0 to 1."""

ADAPTER = (CONFIG, WEIGHTS)
UNBOUNDED = InputLimits(adapter_bytes=0, adapter_rank=0)
"""Limits are for what clients bring."""

MODELFILE_FIELDS = ("system", "template", "chat_template", "parameters", "messages", "license")
"""What makes one model another on the same weights, as the layers of a manifest do."""


def prepare(
    specs: Iterable[ModelSpec],
    cache_dir: Path,
    progress: Progress = lambda _name, _phase, _fraction: None,
) -> Library:
    """Fetch, convert and read all that the specs name; `LoadFailed` says which model cannot be had."""
    preparation = _Preparation(_by_key(specs), cache_dir, progress)
    models = preparation.run()
    return Library(models)


class _Preparation:
    """One run over the specs; a model that others build on is made ready once."""

    def __init__(self, specs: Mapping[str, ModelSpec], cache_dir: Path, progress: Progress) -> None:
        self._specs = specs
        self._cache_dir = cache_dir
        self._progress = progress
        self._hashes = FileHashes(cache_dir / "hashes.json")
        self._done: dict[str, Model] = {}

    def run(self) -> list[Model]:
        models = [self._model(spec, ()) for spec in self._specs.values()]
        self._hashes.save()
        return models

    def _model(self, spec: ModelSpec, trail: tuple[ModelName, ...]) -> Model:
        if spec.name in trail:
            circle = " -> ".join(str(name) for name in (*trail, spec.name))
            raise LoadFailed(f"models are built on each other in a circle: {circle}")
        key = key_of(spec.name)
        if key not in self._done:
            parent = self._parent(spec)
            model = derived(spec, self._model(parent, (*trail, spec.name))) if parent else self._own(spec)
            self._done[key] = self._adapted(model, spec) if spec.adapter else model
        return self._done[key]

    def _parent(self, spec: ModelSpec) -> ModelSpec | None:
        """The configured model whose name the source is, if any."""
        if _is_path(spec.source):
            return None
        try:
            key = key_of(parse_name(spec.source))
        except InvalidRequest:
            return None
        if key == key_of(spec.name) and (hub.is_repo(spec.source) or Path(spec.source).is_dir()):
            return None
        return self._specs.get(key)

    def _own(self, spec: ModelSpec) -> Model:
        name = str(spec.name)

        def report(phase: str, fraction: float) -> None:
            self._progress(name, phase, fraction)

        try:
            folder, file = self._folder(spec.source, report)
            facts = replace(read_facts(folder, spec, self._hashes, report), gguf=file)
        except LoadFailed as error:
            raise LoadFailed(f"model '{name}': {error}") from error
        except OSError as error:
            raise LoadFailed(f"model '{name}': cannot read {error.filename}: {error.strerror}") from error
        return Model(
            spec,
            _with_digest(facts, spec),
            engine_key(spec, facts),
            sampling=read_parameters(spec.parameters),
        )

    def _adapted(self, model: Model, spec: ModelSpec) -> Model:
        """The model with its own adapter."""
        if model.adapter is not None:
            raise LoadFailed(f"model '{spec.name}': its base has an adapter, and a model has at most one")
        try:
            adapter = self._adapter(Path(spec.adapter).expanduser(), model)
            check_engine_takes(adapter, model.spec.engine)
        except LoadFailed as error:
            raise LoadFailed(f"model '{spec.name}': {error}") from error
        except OSError as error:
            raise LoadFailed(
                f"model '{spec.name}': cannot read {error.filename}: {error.strerror}"
            ) from error
        digest = own_digest(model.facts.digest, {"adapter": adapter.digest})
        return replace(model, adapter=adapter, facts=replace(model.facts, digest=digest))

    def _adapter(self, folder: Path, model: Model) -> Adapter:
        if not model.can("completion"):
            raise LoadFailed("an adapter is served on a model that generates text alone")
        entries = [(name, self._hashes.of(folder / name), (folder / name).stat().st_size) for name in ADAPTER]
        files = AdapterFiles(folder / CONFIG, folder / WEIGHTS, manifest_digest(entries))
        adaptercopies.stay(files.digest, self._cache_dir)
        return take_adapter(files, model.facts.path, self._cache_dir, limits=UNBOUNDED)

    def _converted(self, file: Path, progress: Callable[[str, float], None]) -> tuple[Path, Path]:
        folder = gguf.convert(file, self._cache_dir, progress)
        tidying.keep(self._cache_dir, folder.name)
        return folder, file.absolute()

    def _folder(self, source: str, progress: Callable[[str, float], None]) -> tuple[Path, Path | None]:
        """The folder that is served, and the GGUF file that it is made of."""
        if source == BUNDLED_SOURCE:
            return self._converted(bundled(self._cache_dir, progress), progress)
        path = Path(source).expanduser()
        if path.suffix.lower() == ".gguf":
            return self._converted(path, progress)
        if path.is_dir():
            return path.resolve(), None
        if _is_path(source):
            raise LoadFailed(f"there is no folder {source}")
        if not hub.is_repo(source):
            raise LoadFailed(
                f"'{source}' is neither a folder, a .gguf file, a hub repository (org/name) "
                "nor the name of another model"
            )
        progress("fetching", 0.0)
        return hub.fetch(source), None


def engine_key(spec: ModelSpec, facts: ModelFacts) -> str:
    """The same for two models that one engine can serve, from one start to the next."""
    parts = (str(facts.path), spec.engine, facts.tool_parser, facts.reasoning_parser, spec.chat_template)
    return hashlib.sha256(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def derived(spec: ModelSpec, parent: Model) -> Model:
    """A model on another's engine: what it leaves out it takes from there, as with `FROM` in a Modelfile."""
    if taken := [field for field in ENGINE_FIELDS if getattr(spec, field)]:
        raise LoadFailed(
            f"model '{spec.name}' runs on the engine of '{parent.name}': "
            f"{', '.join(taken)} can be set only there"
        )
    base = parent.spec
    whole = replace(
        spec.on_engine_of(base),
        system=spec.system or base.system,
        template=spec.template or base.template,
        parameters={**base.parameters, **spec.parameters},
        messages=spec.messages or base.messages,
        license=base.license + spec.license,
    )
    of_engine = parent.on_engine().facts
    seen = with_go_template(of_engine, spec.template) if spec.template else parent.facts
    return Model(
        whole,
        _with_digest(seen, spec),
        parent.engine_key,
        parent=str(parent.name),
        sampling=read_parameters(whole.parameters),
        adapter=parent.adapter,
        engine_facts=of_engine,
    )


def _with_digest(facts: ModelFacts, spec: ModelSpec) -> ModelFacts:
    """Of a model's own settings those are part of it that are part of a Modelfile."""
    own = {name: getattr(spec, name) for name in MODELFILE_FIELDS}
    return replace(facts, digest=own_digest(facts.digest, own))


def _by_key(specs: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    known: dict[str, ModelSpec] = {}
    for spec in specs:
        if (other := known.setdefault(key_of(spec.name), spec)) is not spec:
            raise LoadFailed(f"two models are named '{other.name}'")
    return known


def _is_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or source.lower().endswith(".gguf")
