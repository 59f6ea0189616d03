"""Routes of Ollama that are not served."""

from app.api.unserved import Unserved

_FIXED = "models of this server come from its configuration"
_ACCOUNTS = "this server has no accounts"

ROUTES = (
    Unserved(("POST",), "/api/create", _FIXED),
    Unserved(("HEAD", "POST"), "/api/blobs/{digest}", _FIXED),
    Unserved(("POST",), "/api/copy", _FIXED),
    Unserved(("DELETE",), "/api/delete", _FIXED),
    Unserved(("POST",), "/api/push", _FIXED),
    Unserved(("POST",), "/api/me", _ACCOUNTS),
    Unserved(("POST",), "/api/signout", _ACCOUNTS),
    Unserved(("DELETE",), "/api/user/keys/{encoded_key}", _ACCOUNTS),
)
