"""Makes grammars of constraints beside the event loop, and keeps those that are asked for again and again."""

import hashlib
import json
from collections import OrderedDict

from app.constrain.budget import FEW_STEPS, OverBudget
from app.constrain.compile import written
from app.core.pool import Pool
from app.core.request import Constraint

_WAITING = 1024
_KEPT_CHARS = 4 << 20
"""Of all grammars that are kept together: clients send the same schema with every turn."""


class Grammars:
    """One for the whole server. Schemas that take more than a few steps are worked on in `pool`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Apart, so that schemas that take long keep others waiting no longer than a few of their steps.
        self._few = Pool("schemas", workers=1, waiting=_WAITING)
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._chars = 0

    async def of(self, wanted: Constraint) -> str:
        """The grammar of what the answer must be.

        Raises:
            InvalidRequest: for what cannot be honoured.
            Overloaded: when too much waits for the pools.
        """
        if wanted.schema is None:
            return await self._made(wanted)
        name = await self._few.run(_digest, wanted)
        if (grammar := self._kept.get(name)) is None:
            grammar = await self._made(wanted)
            self._keep(name, grammar)
        else:
            self._kept.move_to_end(name)
        return grammar

    async def _made(self, wanted: Constraint) -> str:
        try:
            return await self._few.run(written, wanted, FEW_STEPS)
        except OverBudget:
            return await self._pool.run(written, wanted)

    def _keep(self, name: bytes, grammar: str) -> None:
        if name in self._kept or len(grammar) > _KEPT_CHARS // 4:
            return
        self._kept[name] = grammar
        self._chars += len(grammar)
        while self._chars > _KEPT_CHARS:
            self._chars -= len(self._kept.popitem(last=False)[1])


def _digest(wanted: Constraint) -> bytes:
    """Of the schema as it was written: the order of keys is that of the answer."""
    return hashlib.sha256(json.dumps(wanted.schema).encode()).digest()
