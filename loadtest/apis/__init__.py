"""The APIs that a load test can speak."""

from collections.abc import Mapping

from loadtest.apis.anthropic import Anthropic
from loadtest.apis.base import Api
from loadtest.apis.ollama import Ollama
from loadtest.apis.openai import OpenAI
from loadtest.apis.responses import Responses

APIS: Mapping[str, Api] = {
    "ollama": Ollama(),
    "openai": OpenAI(),
    "responses": Responses(),
    "anthropic": Anthropic(),
}
