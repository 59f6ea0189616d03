"""What comes before a run: what the models can be asked, and one request to each, so that it is loaded."""

import httpx

from loadtest.apis.base import KINDS, Ask, Kind
from loadtest.mix import NEEDS, USUAL, Mix, parse_mix
from loadtest.options import Plan

_HELLO = {"role": "user", "content": "Hi"}


class CannotAsk(Exception):
    """The server does not answer, or does not tell of a model."""


def usual_mix(host: str, plan: Plan) -> tuple[Mix, set[Kind]]:
    """The usual mix without what the models cannot do or no API of the plan has, and what was left out.

    Only Ollama's API tells what a model can do: without it, it is what any model can.
    """
    models, lacking = plan.models, set(KINDS) - plan.apis.kinds
    mix = parse_mix(USUAL).without(lacking)
    if "ollama" not in plan.apis.weights:
        lacking |= set(NEEDS)
        return mix.without(lacking), lacking
    known = {
        name: _capabilities(host, name, plan.headers) for name in {models.of(kind) for kind in mix.weights}
    }
    lacking |= {kind for kind in mix.weights if NEEDS.get(kind, "completion") not in known[models.of(kind)]}
    return mix.without(lacking), lacking


def _capabilities(host: str, model: str, headers: dict[str, str]) -> set[str]:
    try:
        answer = httpx.post(
            f"{host.rstrip('/')}/api/show", json={"model": model}, headers=headers, timeout=30
        )
        answer.raise_for_status()
        return set(answer.json()["capabilities"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise CannotAsk(f"show of {model!r} at {host}: {error}") from error


def warm_up(host: str, plan: Plan, mix: Mix) -> None:
    """Have each model answer once; how long it takes to load is not measured."""
    asks = {
        plan.models.of(kind): Ask(
            "embed" if kind == "embed" else "chat", plan.models.of(kind), "Hi", [_HELLO], 1
        )
        for kind in mix.weights
    }
    for model, ask in asks.items():
        path, body = plan.apis.first_with(ask.kind).request(ask)
        try:
            httpx.post(
                f"{host.rstrip('/')}{path}", json=body, headers=plan.headers, timeout=plan.timeout_s
            ).raise_for_status()
        except httpx.HTTPError as error:
            raise CannotAsk(f"{model!r} at {host}: {error}") from error
