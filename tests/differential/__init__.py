"""The same requests to Caravan and to vLLM's own server: docs/vllm-differences.md has what differs."""
