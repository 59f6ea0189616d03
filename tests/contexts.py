"""Requests as their record tells them, made in one line."""

from dataclasses import fields
from typing import Any

from app.core.context import RequestContext, Work

_WORK = {field.name for field in fields(Work)}


def context(**given: Any) -> RequestContext:
    """A request with these fields, those of its `work` among them."""
    work = Work(**{name: given.pop(name) for name in _WORK & given.keys()})
    return RequestContext(work=work, **given)
