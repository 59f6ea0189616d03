"""Routes of Ollama that are not served."""

from app.api.unserved import Unserved

_ACCOUNTS = "this server has no accounts"

ROUTES = (
    Unserved(("POST",), "/api/me", _ACCOUNTS),
    Unserved(("POST",), "/api/signout", _ACCOUNTS),
    Unserved(("DELETE",), "/api/user/keys/{encoded_key}", _ACCOUNTS),
)
