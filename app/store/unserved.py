"""What a manifest has that no server of Caravan makes a token of, told without a look at a blob."""

from collections.abc import Mapping

from app.store import manifest as media
from app.store.config import ImageConfig
from app.store.manifest import Manifest

_LAYERS: Mapping[str, str] = {
    media.TENSOR: (
        "its weights are in a blob for each tensor, which Ollama's MLX engine reads and vLLM does not"
    ),
    media.ADAPTER: "its adapter is in GGUF, and vLLM takes those of PEFT",
}
_WEIGHTS = (media.MODEL, media.FILE, media.SERVING)


def unserved(manifest: Manifest, config: ImageConfig) -> str:
    """Why the model is not served whatever its blobs hold; empty where they decide."""
    if config.remote_host or config.remote_model:
        return "it runs at another server, of which this is only the name"
    for media_type, reason in _LAYERS.items():
        if manifest.all(media_type):
            return reason
    return "" if manifest.all(*_WEIGHTS) else "it has no weights"
