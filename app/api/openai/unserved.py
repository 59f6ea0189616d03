"""Routes of OpenAI's API, and of Ollama's under its prefix, that are not served."""

from app.api.unserved import Unserved

_DECISIONS = "models of this server write text: it serves no decision models"

ROUTES = (
    Unserved(("POST",), "/v1/audio/transcriptions", "models of this server do not hear"),
    Unserved(("POST",), "/v1/audio/speech", "models of this server do not speak"),
    Unserved(("POST",), "/v1/systemone", _DECISIONS),
    Unserved(("POST",), "/v1/decisions", _DECISIONS),
)
