"""Models from and to other servers: registries in Ollama's protocol and the Hugging Face hub."""
