"""Routes of Ollama that are not served."""

from app.api.unserved import Unserved

_SIGNED_IN = "signing out changes nothing here: there are no accounts, and a key is good until it is revoked"
_ACCOUNTS = "this server has no accounts"

ROUTES = (
    Unserved(("POST",), "/api/signout", _SIGNED_IN),
    Unserved(("DELETE",), "/api/user/keys/{encoded_key}", _ACCOUNTS),
)
