"""Routes of Anthropic's API that are not served."""

from app.api.unserved import Unserved

ROUTES = (Unserved(("POST",), "/v1/messages", "the Anthropic API is not served in this release"),)
