"""vLLM's detokenizer for requests with stop strings, which holds back no more than it must.

vLLM holds back as many characters as its longest stop string has but one, whatever they are, and copies all
the text for every token.
"""

from collections.abc import Callable

from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer

from app.engine.stops import Stops


def hiding(decode: Callable[[int], str], hidden: frozenset[int]) -> Callable[[int], str]:
    """`BaseIncrementalDetokenizer.decode_next` for which the tokens `hidden` are no text."""

    def decode_next(next_token_id: int) -> str:
        return "" if next_token_id in hidden else decode(next_token_id)

    return decode_next


class StoppingDetokenizer(IncrementalDetokenizer):
    """Takes the place of `inner`, which goes on turning tokens into text.

    A stop string within the first `min_tokens` tokens is text like any other.
    """

    def __init__(self, inner: BaseIncrementalDetokenizer) -> None:
        super().__init__()
        self.token_ids = inner.token_ids
        self._inner = inner
        self._stops = Stops(inner.stop)
        self._least = inner.min_tokens
        self._ready = ""
        self._kept = 0

    @property
    def stop(self) -> tuple[str, ...]:
        """Nothing that vLLM, or whoever asks for its stop strings, has to look for."""
        return ()

    @property
    def output_token_ids(self) -> list[int]:
        return self._inner.output_token_ids

    def num_output_tokens(self) -> int:
        return self._inner.num_output_tokens()

    def push(self, new_token_ids: list[int]) -> str | None:
        """The text to send after these tokens; None where a stop string is complete.

        `update` must then be called with the same tokens, as if they had not been seen here.
        """
        begun = len(self.token_ids)
        self._kept = self._decode(new_token_ids)
        if self._stops.found is not None:
            del self.token_ids[begun:]
            return None
        text, self._ready = self._ready, ""
        return text

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        """The stop string that ended the text, if any; the tokens after it are not kept."""
        if self._stops.found is not None:
            self.token_ids += new_token_ids[: self._kept]
        elif stop_terminated and new_token_ids:
            # The end token is counted and is no text.
            self._decode(new_token_ids[:-1])
            if self._stops.found is None:
                self.token_ids.append(new_token_ids[-1])
        else:
            self._decode(new_token_ids)
        return self._stops.found

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        text, self._ready = self._ready, ""
        return text + self._stops.rest() if finished else text

    def _decode(self, token_ids: list[int]) -> int:
        """Take these tokens up to the one that completes a stop string; how many that are."""
        decode, stops = self._inner.decode_next, self._stops
        for count, token_id in enumerate(token_ids, 1):
            self.token_ids.append(token_id)
            text = decode(token_id)
            self._ready += text if self.num_output_tokens() <= self._least else stops.push(text)
            if stops.found is not None:
                return count
        return len(token_ids)
