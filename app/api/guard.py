"""Who may call what: each route declares what it needs, and a request without a key for that goes no further.

The check comes after routing and CORS and before anything is read of the body.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypeVar

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.ring import KeyRing
from app.access.signing import is_signed
from app.api.context import context_of
from app.api.refusal import Refusal
from app.api.routing import RouteTable
from app.core.context import Scope as KeyScope
from app.core.errors import Forbidden, Unauthorized
from app.peers.peers import ASKED_BY_PEER, LISTS, is_asked_for

Need: TypeAlias = KeyScope | Literal["nothing", "key"]
"""A scope; `key` is any good key, `nothing` not even that."""

_DEFAULT: Need = "admin"
"""What a route needs that declares nothing: a route that was forgotten is closed, not open."""

_DECLARED = "__caravan_need__"
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


def needs(need: Need) -> Callable[[_Endpoint], _Endpoint]:
    """Declares, below the route's own decorator, what a request must have to get there."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _DECLARED, need)
        return endpoint

    return declare


def need_of(endpoint: object) -> Need:
    return getattr(endpoint, _DECLARED, _DEFAULT)


def install(app: FastAPI, keys: KeyRing, *, open_paths: Iterable[str] = ()) -> None:
    """Put the guard around what `app` has so far; `open_paths` need no key, whatever they declare."""
    app.add_middleware(Guard, routes=app.routes, keys=keys, open_paths=frozenset(open_paths))


class Guard:
    """The ASGI class that `install` adds. `routes` are read when the application starts."""

    def __init__(
        self, app: ASGIApp, *, routes: Iterable[BaseRoute], keys: KeyRing, open_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._routes = RouteTable(routes)
        self._keys = keys
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except (Unauthorized, Forbidden) as error:
                await Refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        needed = self._needed(scope["method"], scope["path"])
        if needed <= {"nothing"}:
            return
        caller = self._keys.identify(*credentials_of(scope))
        context_of(scope).caller = caller
        for need in needed:
            if need not in ("nothing", "key") and not caller.has(need):
                raise Forbidden(f"this API key does not have the scope {need!r}")

    def _needed(self, method: str, path: str) -> set[Need]:
        """All that any route asks for which may answer: which of them does is not decided here."""
        if path in self._open:
            return {"nothing"}
        return {need_of(endpoint) for endpoint in self._routes.endpoints(method, path)} or {_DEFAULT}


def credentials_of(scope: Scope) -> tuple[str, str]:
    """What a request shows to be let in: its `Authorization`, and what a signature in that is of."""
    authorization = authorization_of(scope)
    return authorization, _target_of(scope) if is_signed(authorization) else ""


def authorization_of(scope: Scope) -> str:
    """The `Authorization` header, or an `x-api-key` as one.

    Two headers of a kind are none, and so are two keys: another reader may take the other one.
    """
    found: dict[bytes, list[str]] = {b"authorization": [], b"x-api-key": []}
    for name, value in scope["headers"]:
        if name in found:
            found[name].append(value.decode("latin-1").strip())
    sent = [*found[b"authorization"], *(f"Bearer {key}" for key in found[b"x-api-key"])]
    if any(len(values) > 1 for values in found.values()) or len(set(map(_key_of, sent))) > 1:
        return ""
    return sent[0] if sent else ""


def _target_of(scope: Scope) -> str:
    """`METHOD,PATH?QUERY` as it came here, so without a prefix that a proxy has taken off.

    A server that asks this one for a list, to answer a request of its own, has the signature of that request.
    Whoever says so may be a client: a signature opens what that request would have told.
    """
    if scope["path"] in LISTS:
        said = next((value for name, value in scope["headers"] if name == ASKED_BY_PEER.encode()), b"")
        signed = said.decode("latin-1")
        if is_asked_for(scope["path"], signed):
            return signed
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return f"{scope['method']},{path}?{query}"


def _key_of(authorization: str) -> str:
    return authorization.partition(" ")[2].strip()
