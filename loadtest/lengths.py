"""How long prompts and answers are, drawn as a public trace has them.

The quantiles are those of the columns ContextTokens and GeneratedTokens of the Azure LLM inference trace
2023, its files AzureLLMInferenceTrace_conv.csv (19,366 requests) and AzureLLMInferenceTrace_code.csv (8,819
requests), as published at https://github.com/Azure/AzurePublicDataset, commit b469a11 (CC-BY). It is
described in Patel et al., "Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024.
Only these figures are used; between two of them lengths are spread evenly on a logarithmic scale. The trace's
pairing of prompt and answer is not kept.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SHARES = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Lengths in tokens at `SHARES`: the share of requests that are at most so long."""

    quantiles: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.quantiles) != len(SHARES) or any(low > high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"{len(SHARES)} lengths that do not fall are needed, not {self.quantiles}")

    def at(self, share: float) -> int:
        """The length that `share` (0 to 1) of the requests do not exceed."""
        upper = min(bisect_right(SHARES, share), len(SHARES) - 1)
        low, high = self.quantiles[upper - 1], self.quantiles[upper]
        along = (share - SHARES[upper - 1]) / (SHARES[upper] - SHARES[upper - 1])
        return round(math.exp(math.log(low) * (1 - along) + math.log(high) * along))


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompts and answers, made `scale` times as long and cut at `most_prompt` and `most_answer` tokens."""

    prompt: Distribution
    answer: Distribution
    scale: float = 1.0
    most_prompt: int = 1 << 30
    most_answer: int = 1 << 30

    def draw(self, dice: random.Random) -> tuple[int, int]:
        """Tokens of a prompt and the most tokens of its answer."""
        return (
            self._fit(self.prompt.at(dice.random()), self.most_prompt),
            self._fit(self.answer.at(dice.random()), self.most_answer),
        )

    def _fit(self, tokens: int, most: int) -> int:
        return max(1, min(most, round(tokens * self.scale)))


CODE = (
    Distribution((3, 17, 75, 147, 578, 1469, 2745, 5194, 7315, 7436, 7437)),
    Distribution((6, 6, 6, 7, 9, 13, 24, 55, 90, 252, 1899)),
)
CONVERSATION = (
    Distribution((2, 29, 181, 207, 396, 1020, 1189, 2735, 4083, 4142, 14050)),
    Distribution((7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 1000)),
)
NAMED: Mapping[str, tuple[Distribution, Distribution]] = {
    "azure-conversation": CONVERSATION,
    "azure-code": CODE,
}


def distributions(name: str) -> tuple[Distribution, Distribution]:
    """Of prompts and answers: one of `NAMED`, or `PROMPT/ANSWER` for lengths that are always the same."""
    if name in NAMED:
        return NAMED[name]
    prompt, _, answer = name.partition("/")
    if not (prompt.isdecimal() and answer.isdecimal() and int(prompt) and int(answer)):
        raise ValueError(f"lengths are {', '.join(NAMED)} or PROMPT/ANSWER in tokens, not {name!r}")
    return _always(int(prompt)), _always(int(answer))


def _always(tokens: int) -> Distribution:
    return Distribution((tokens,) * len(SHARES))
