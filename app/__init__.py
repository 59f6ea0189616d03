"""Caravan: the Ollama API at cluster scale, on vLLM."""

__version__ = "0.1.0"
