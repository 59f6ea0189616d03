"""In what this server's answers may differ from Ollama's, for clients written for another API like it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """`streams` tells whether a request streams that does not say (row B4); `repeats_text` whether the last
    line of a stream has the whole text once more (row B7). The defaults are Ollama's.
    """

    streams: bool = True
    repeats_text: bool = False
