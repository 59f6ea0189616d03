"""A function that vLLM has compiled on first use, as it stands. Only the fork server imports this.

With the first request that asks for log-probabilities torch would compile a comparison of two rows, for 10 s
or more of the worker, in which no request gets a token. On a CPU the sum is as fast without.
"""

from typing import Any

from vllm.v1.sample import sampler

_sampler: Any = sampler
_sampler.batched_count_greater_than = _sampler.batched_count_greater_than._torchdynamo_orig_callable
