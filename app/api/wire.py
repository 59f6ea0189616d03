"""How answers write JSON and vectors, in every API (docs/reference 1.6)."""

from collections.abc import Sequence

import numpy as np
import orjson

from app.golang.dumps import dumps as dumps

JSON = "application/json; charset=utf-8"
BARE_JSON = "application/json"


def listed(items: Sequence[bytes]) -> orjson.Fragment:
    """A list, for a document, of items that are JSON already."""
    return orjson.Fragment(b"[" + b",".join(items) + b"]")


def vectors(values: Sequence[Sequence[float]] | Sequence[float]) -> orjson.Fragment:
    """Embeddings, one or many, for a document; each number in the shortest form exact in float32."""
    return orjson.Fragment(orjson.dumps(np.asarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY))
