"""Routes of OpenAI's API that are not served."""

from app.api.unserved import Unserved

_LATER = "the OpenAI API is not served in this release"

ROUTES = (
    *(
        Unserved((method,), f"/v1/{path}", _LATER)
        for method, path in (
            ("POST", "chat/completions"),
            ("POST", "completions"),
            ("POST", "embeddings"),
            ("GET", "models"),
            ("GET", "models/{model}"),
            ("POST", "audio/transcriptions"),
        )
    ),
)
