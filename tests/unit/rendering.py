"""vLLM's configuration as far as its renderers read it, without a model."""

from types import SimpleNamespace
from typing import Any


def renderer_config(**more: Any) -> Any:
    """Of a model that reads text alone; `more` are further fields of vLLM's `ModelConfig`."""
    plain = {
        "renderer_num_workers": 1,
        "supports_multimodal_inputs": False,
        "is_multimodal_model": False,
        "multimodal_config": None,
        "is_encoder_decoder": False,
        "enable_prompt_embeds": False,
        "allowed_local_media_path": "",
        "allowed_media_domains": None,
    }
    return SimpleNamespace(
        model_config=SimpleNamespace(**plain, **more), parallel_config=SimpleNamespace(_api_process_rank=0)
    )


def of_folder(folder: Any, kind: str) -> dict[str, Any]:
    """Fields of a model whose tokenizer is read from a folder."""
    return {
        "hf_config": SimpleNamespace(model_type=kind),
        "model": str(folder),
        "tokenizer": str(folder),
        "trust_remote_code": False,
        **dict.fromkeys(("revision", "tokenizer_revision", "code_revision")),
    }
