"""Which routes the application has, as the layers around it need to know."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute


class RouteTable:
    """The routes, exactly as they were registered."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed: dict[str, list[APIRoute]] = {}
        self._patterns: list[tuple[re.Pattern[str], APIRoute]] = []
        for route in routes:
            if not isinstance(route, APIRoute):
                # Starlette's own Route answers HEAD unasked, and FastAPI serves its docs through it.
                raise TypeError(f"{route!r} must be registered as a FastAPI path operation")
            if route.param_convertors:
                self._patterns.append((route.path_regex, route))
            else:
                self._fixed.setdefault(route.path, []).append(route)

    def methods(self, path: str) -> set[str]:
        """Empty where the path is not routed."""
        return set[str]().union(*(route.methods for route in self._at(path)))

    def template(self, path: str) -> str:
        """The path as it was registered; empty where it is not routed."""
        return next((route.path for route in self._at(path)), "")

    def endpoints(self, method: str, path: str) -> list[Any]:
        """The functions that may answer: more than one where routes overlap."""
        return [route.endpoint for route in self._at(path) if method in route.methods]

    def _at(self, path: str) -> Iterator[APIRoute]:
        yield from self._fixed.get(path, ())
        for pattern, route in self._patterns:
            if pattern.fullmatch(path):
                yield route
