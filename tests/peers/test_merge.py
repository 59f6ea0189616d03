"""Lists of several servers as one (row C7)."""

from typing import Any

from app.peers import merge


def tag(name: str, modified_at: str = "2026-01-01T00:00:00Z", digest: str = "a") -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": modified_at, "size": 5, "digest": digest}


def running(name: str, expires_at: str, size: int, vram: int = 0, context: int = 4096) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": "a",
        "details": {},
        "expires_at": expires_at,
        "size_vram": vram,
        "context_length": context,
    }


def test_a_model_of_many_replicas_is_listed_once_as_the_newest_tells_of_it() -> None:
    found = merge.tags(
        [
            [tag("qwen3:8b", "2026-01-01T00:00:00Z", "old"), tag("llama:latest", "2026-01-03T00:00:00Z")],
            [tag("Qwen3:8b", "2026-01-02T01:00:00+01:00", "new")],
        ]
    )
    assert [(row["name"], row["digest"]) for row in found] == [("llama:latest", "a"), ("Qwen3:8b", "new")]


def test_what_is_recommended_is_so_once_in_the_order_of_the_servers() -> None:
    rows = [{"model": name, "description": f"{at}"} for at, name in enumerate(("b:1", "a:1", "B:1"))]
    assert merge.recommendations([[rows[0]], [rows[1], rows[2]], []]) == rows[:2]


def test_nothing_is_listed_where_nothing_is() -> None:
    assert merge.tags([[], []]) == []
    assert merge.recommendations([[]]) == []
    assert merge.ps([]) == []


def test_the_memory_of_replicas_is_added_up_and_the_last_expiry_holds() -> None:
    early, late, forever = "2026-01-01T00:00:00Z", "2026-01-01T02:00:00+01:00", "2318-01-01T00:00:00Z"
    found = merge.ps(
        [
            [running("a:latest", early, 100, 10, 2048)],
            [running("a:latest", late, 200, 20, 8192), running("b:latest", forever, 7)],
        ]
    )
    assert [row["name"] for row in found] == ["b:latest", "a:latest"]
    assert found[1] == running("a:latest", late, 300, 30, 8192) | {"replicas": 2}
    assert found[0]["replicas"] == 1


def test_lists_that_were_merged_once_can_be_merged_again() -> None:
    one = merge.ps(
        [[running("a:latest", "2026-01-01T00:00:00Z", 1)], [running("a:latest", "2026-01-02T00:00:00Z", 2)]]
    )
    both = merge.ps([one, [running("a:latest", "2026-01-01T00:00:00Z", 4)]])
    assert (both[0]["size"], both[0]["replicas"]) == (7, 3)


def test_what_was_given_is_not_changed() -> None:
    rows = [running("a:latest", "2026-01-01T00:00:00Z", 1)]
    merge.ps([rows, rows])
    assert rows == [running("a:latest", "2026-01-01T00:00:00Z", 1)]
