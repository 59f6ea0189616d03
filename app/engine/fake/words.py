"""The tokenizer of the scripted engine."""

import re
import zlib
from collections.abc import Sequence

from app.core.errors import InvalidRequest

_WORD = re.compile(r"<\|\w+\|>|\s?[^\s<]+|\s|<")


def split(text: str) -> list[str]:
    """The words of a text, each with the white space before it."""
    return _WORD.findall(text)


class Words:
    """A tokenizer without training: a token is a word with the white space before it.

    An id is a hash of its word, so it is the same in every process; but only words that were encoded here
    can be decoded, so engines that stand for one model share one of these.
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: dict[int, str] = {}

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word) or self._learn(word) for word in split(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        try:
            return "".join([self._words[token_id] for token_id in token_ids])
        except KeyError as error:
            raise InvalidRequest(f"token id {error} is not in the vocabulary") from None

    def _learn(self, word: str) -> int:
        token_id = zlib.crc32(word.encode("utf-8", "surrogatepass")) | 1
        while self._words.setdefault(token_id, word) != word:
            token_id += 1
        self._ids[word] = token_id
        return token_id
