"""One list of models out of those of several servers."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from app.peers.peers import Rows


def tags(lists: Iterable[Rows]) -> Rows:
    """`/api/tags`: each model once, as the server tells of it that made it ready last; newest first."""
    models: dict[str, dict[str, Any]] = {}
    for row in _rows(lists):
        known = models.setdefault(row["name"].lower(), row)
        if _time(row["modified_at"]) > _time(known["modified_at"]):
            models[row["name"].lower()] = row
    return sorted(models.values(), key=lambda row: int(_time(row["modified_at"]).timestamp()), reverse=True)


def ps(lists: Iterable[Rows]) -> Rows:
    """`/api/ps`: each model once, with the memory of all its replicas and their number in `replicas`.

    It expires when its last replica does, and its context is the largest that one of them has.
    """
    models: dict[str, dict[str, Any]] = {}
    for row in _rows(lists):
        name, replicas = row["name"].lower(), row.get("replicas", 1)
        if (known := models.get(name)) is None:
            models[name] = {**row, "replicas": replicas}
            continue
        known["replicas"] += replicas
        known["size"] += row["size"]
        known["size_vram"] += row["size_vram"]
        known["context_length"] = max(known["context_length"], row["context_length"])
        known["expires_at"] = max(known["expires_at"], row["expires_at"], key=_time)
    return sorted(models.values(), key=lambda row: _time(row["expires_at"]), reverse=True)


def recommendations(lists: Iterable[Rows]) -> Rows:
    """`/api/experimental/model-recommendations`: each model once, in the order of the servers."""
    models: dict[str, dict[str, Any]] = {}
    for row in _rows(lists):
        models.setdefault(row["model"].lower(), row)
    return list(models.values())


def _rows(lists: Iterable[Rows]) -> Iterable[dict[str, Any]]:
    return (row for rows in lists for row in rows)


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)
