"""Models that others are made from: what a model of the store takes from a configured one."""

from collections.abc import Mapping
from dataclasses import replace

from app.catalogue.facts import with_chat_template, with_go_template
from app.catalogue.layers import read_sampling
from app.catalogue.names import parse_name
from app.core.errors import BadManifest
from app.core.model import Model, ModelFacts, ModelSpec


def on_configured(spec: ModelSpec, base: str, configured: Mapping[str, Model]) -> Model:
    """A model on a configured one's engine: what it leaves out it takes from there at this moment.

    Raises:
        BadManifest: where `base` is not configured.
    """
    parent = configured.get(parse_name(base).canonical.lower())
    if parent is None:
        raise BadManifest(f"it is made from {base}, which is not configured on this server")
    under = parent.spec
    has_own = bool(spec.chat_template)
    parameters = {**under.parameters, **spec.parameters}
    if not (spec.template or spec.chat_template):
        spec = replace(spec, template=under.template, chat_template=under.chat_template)
    whole = replace(
        spec.on_engine_of(under),
        chat_template=spec.chat_template,
        source=under.source,
        system=spec.system or under.system,
        parameters=parameters,
        messages=spec.messages or under.messages,
        license=under.license + spec.license,
    )
    sampling, fault = read_sampling(parameters)
    of_engine = parent.on_engine().facts
    is_seen = (whole.template, whole.chat_template) == (under.template, under.chat_template)
    facts = parent.facts if is_seen else seen_through(of_engine, whole)
    return Model(
        whole,
        facts,
        parent.engine_key,
        parent=str(parent.name),
        sampling=sampling,
        fault=fault,
        engine_facts=of_engine,
        adapter=parent.adapter,
        foreign_template=has_own,
    )


def seen_through(facts: ModelFacts, spec: ModelSpec) -> ModelFacts:
    """What an engine can do by the template that its model has; a Go template comes first, as in a prompt."""
    if spec.template:
        return with_go_template(facts, spec.template)
    return with_chat_template(facts, spec.chat_template)
