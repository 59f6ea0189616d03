"""For how long HTTP lets a page be kept, and that no more is kept than may be."""

from email.utils import formatdate

import pytest

from app.tools.cache import Cache, fresh_s

NOW = 1_800_000_000.0
MOST_S = 900.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 60),
        ({"cache-control": "max-age=300"}, 300),
        ({"cache-control": "max-age=99999"}, MOST_S),
        ({"cache-control": 'Max-Age="300", public'}, 300),
        ({"cache-control": "max-age=300", "age": "100"}, 200),
        ({"cache-control": "max-age=300", "age": "400"}, 0),
        ({"cache-control": "max-age=300, s-maxage=5"}, 5),
        ({"cache-control": "max-age=0"}, 0),
        ({"cache-control": "max-age=nonsense"}, 0),
        ({"cache-control": "no-store"}, 0),
        ({"cache-control": "max-age=300, No-Store"}, 0),
        ({"cache-control": "private, max-age=300"}, 0),
        ({"cache-control": 'no-cache="set-cookie", max-age=300'}, 0),
        ({"pragma": "no-cache"}, 0),
        ({"pragma": "no-cache", "cache-control": "max-age=5"}, 5),
        ({"cache-control": "max-age=300", "set-cookie": "a=1"}, 0),
        ({"cache-control": "max-age=300", "vary": "Accept-Encoding"}, 300),
        ({"cache-control": "max-age=300", "vary": "Accept-Encoding, Cookie"}, 0),
        ({"cache-control": "max-age=300", "vary": "*"}, 0),
        ({"date": formatdate(NOW), "expires": formatdate(NOW + 120)}, 120),
        ({"date": formatdate(NOW), "expires": formatdate(NOW - 120)}, 0),
        ({"expires": "0"}, 0),
        ({"expires": formatdate(NOW + 120), "date": formatdate(NOW), "cache-control": "max-age=7"}, 7),
        ({"date": formatdate(NOW), "last-modified": formatdate(NOW - 1000)}, 100),
        ({"date": formatdate(NOW), "last-modified": formatdate(NOW + 1000)}, 0),
        ({"date": "nonsense", "expires": "nonsense"}, 0),
        ({"cache-control": "=,,,=x"}, 60),
    ],
)
def test_how_long_an_answer_is_fresh(headers: dict[str, str], expected: float) -> None:
    assert fresh_s(headers, MOST_S) == expected


def test_what_is_over_its_time_is_gone() -> None:
    now = [0.0]
    cache = Cache[str](100, clock=lambda: now[0])
    cache.put("a", "A", 10, age_s=5)
    assert cache.get("a") == "A"
    now[0] = 5
    assert cache.get("a") is None
    assert cache.size_bytes == 0


def test_what_was_not_asked_for_the_longest_makes_room() -> None:
    cache = Cache[str](30, clock=lambda: 0)
    for key in "abc":
        cache.put(key, key.upper(), 10, age_s=5)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10, age_s=5)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    cache.put("big", "x", 31, age_s=5)
    cache.put("a", "new", 10, age_s=0)
    assert [cache.get(key) for key in ("big", "a")] == [None, None]
    assert cache.size_bytes == 20
