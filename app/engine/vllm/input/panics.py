"""What the tokenizers' library does where a pattern takes too many steps, as the client's mistake."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from app.core.errors import InvalidRequest

P = ParamSpec("P")
T = TypeVar("T")

_PANIC = "PanicException"
"""Its class, which cannot be imported, is no `Exception`: it would end the request without an answer."""


def tokenised(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns.

    Raises:
        InvalidRequest: where the library panics.
    """
    try:
        return work(*args, **kwargs)
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise InvalidRequest("the model's tokenizer gave up on the text") from None
