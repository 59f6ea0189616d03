"""`caravan fetch`: fill the cache ahead of the servers, as a job of a cluster does. Knows no engine."""

import logging

from app.prepare import prepare
from app.settings.server import Settings
from app.telemetry import logs

_log = logging.getLogger("caravan")


def run(settings: Settings) -> None:
    """Make every model of the settings ready in the cache, saying what is done.

    Raises:
        AppError: for a model that cannot be had.
    """
    logs.start(settings.log_format, debug=settings.debug)
    _log.info("fetching into %s", settings.cache_dir)
    # A server that may write to nothing else of the cache finds it mounted in its place.
    settings.server_dir.mkdir(parents=True, exist_ok=True)
    for model in prepare(settings).all():
        _log.info("%s is ready: %s", model.name, model.facts.path)
