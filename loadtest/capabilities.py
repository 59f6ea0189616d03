"""What to ask models of, where nobody says it: what an Ollama server's own `show` says that they can do."""

import httpx

from loadtest.apis.base import Kind
from loadtest.mix import NEEDS, USUAL, Mix, parse_mix
from loadtest.options import Plan


class CannotAsk(Exception):
    """The server does not tell of a model."""


def usual_mix(host: str, plan: Plan) -> tuple[Mix, set[Kind]]:
    """The usual mix without what the models cannot do, and what was left out. Other APIs do not tell: there
    it is what any model can do."""
    mix, models = parse_mix(USUAL), plan.models
    if plan.api_name != "ollama":
        lacking: set[Kind] = set(NEEDS)
        return mix.without(lacking), lacking
    known = {
        name: _capabilities(host, name, plan.headers) for name in {models.of(kind) for kind in mix.weights}
    }
    lacking = {kind for kind in mix.weights if NEEDS.get(kind, "completion") not in known[models.of(kind)]}
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
