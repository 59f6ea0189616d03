"""What vLLM keeps of tokenizers and processors in `lru_cache`s of 128 calls, of whatever engine they are."""

import gc

from vllm.tokenizers import registry
from vllm.transformers_utils import processor
from vllm.utils import func_utils

_CACHES = (
    # By function, and those of a pool of tokenizers have the tokenizers in their closures.
    func_utils._supports_kw,  # pyright: ignore[reportPrivateUsage]
    registry.cached_get_tokenizer,
    processor.cached_get_processor,
    processor.cached_get_feature_extractor,
    processor.cached_get_image_processor,
    processor.cached_get_video_processor,
)


def let_go() -> None:
    """Let the memory of an engine that has ended go. Others hold what they use; what is gone is made anew.

    A tokenizer takes some 40 MiB for each 50,000 tokens of its vocabulary.
    """
    for cache in _CACHES:
        cache.cache_clear()
    # What the load froze of this engine may go now; the next load freezes what is left.
    gc.unfreeze()
