import socket

import psutil
import pytest

from app.api.hosts import host_of, is_local_address, is_local_name
from app.api.origins import Origins


@pytest.mark.point(13, 15)
@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:8443",
        "http://0.0.0.0:1",
        "app://x",
        "file://",
        "tauri://localhost",
        "vscode-webview://y",
        "vscode-file://vscode-app",
    ],
)
def test_local_pages_and_desktop_apps_are_always_allowed(origin: str) -> None:
    assert Origins(["https://added.example"]).grant(origin) == origin


@pytest.mark.point(14, 16, 17)
@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "http://localhost.evil.com",
        "http://localhost:1@evil.com",
        "https://127.0.0.1:x.evil.com",
        "http://localhost:1/",
        "http://localhost:1\n",
        "http://evil.com/http://localhost",
        "ftp://localhost",
        "chrome-extension://abc",
        "null",
    ],
)
def test_other_origins_are_not(origin: str) -> None:
    assert Origins().grant(origin) is None


@pytest.mark.point(21)
@pytest.mark.parametrize(
    ("entry", "origin", "allowed"),
    [
        ("https://*.bar.com", "https://a.bar.com", True),
        ("https://*.bar.com", "https://a.b.bar.com", True),
        ("https://*.bar.com", "http://a.bar.com", False),
        ("https://*.bar.com", "https://bar.com", False),
        ("https://*.bar.com", "https://a.bar.com.evil.com", False),
        ("https://ab*bc", "https://abc", False),
        ("*.bar.com", "anything://x.bar.com", True),
        ("chrome-extension://*", "chrome-extension://abc", True),
        (" https://Foo.com ", "https://foo.com", True),
        ("https://foo.com", "https://foo.com:8443", False),
        ("https://foo.com:*", "https://foo.com:8443", True),
        ("https://foo.com:*", "https://foo.com:1@evil.com", False),
    ],
)
def test_an_added_entry_allows_what_it_says(entry: str, origin: str, allowed: bool) -> None:
    assert Origins([entry]).grant(origin) == (origin if allowed else None)


def test_a_lone_star_allows_every_origin_by_that_star() -> None:
    assert Origins(["https://foo.com", "*"]).grant("null") == "*"


@pytest.mark.parametrize("entry", ["foo.com", "", "null", "ftp://foo.com", "http://*.*.com"])
def test_an_entry_that_cannot_work_is_refused_in_one_line_that_names_it(entry: str) -> None:
    with pytest.raises(ValueError, match="bad origin") as caught:
        Origins([entry])
    assert repr(entry) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("LocalHost:11434", "localhost"),
        ("localhost", "localhost"),
        ("10.0.0.5:80", "10.0.0.5"),
        ("[::1]:11434", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        (":11434", ""),
        ("", ""),
        ("a:b:c", "a:b:c"),
        ("[::1]evil", "[::1]evil"),
    ],
)
def test_the_port_and_the_brackets_are_taken_off_a_host(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.point(23)
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::",
        "10.0.0.5",
        "172.31.0.1",
        "192.168.1.1",
        "fd12::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.5",
    ],
)
def test_loopback_private_and_unspecified_addresses_are_local(host: str) -> None:
    assert is_local_address(host)


@pytest.mark.point(22)
@pytest.mark.parametrize(
    "host", ["8.8.8.8", "172.32.0.1", "169.254.1.1", "2001:db8::1", "::ffff:8.8.8.8", "127.1", "localhost"]
)
def test_other_addresses_and_names_are_not_local_addresses(host: str) -> None:
    assert not is_local_address(host)


def test_each_address_of_the_machine_is_local() -> None:
    interfaces = psutil.net_if_addrs().values()
    own = [a.address for i in interfaces for a in i if a.family in (socket.AF_INET, socket.AF_INET6)]
    assert own
    assert all(is_local_address(address) for address in own)


@pytest.mark.point(22, 23)
@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("", True),
        ("localhost", True),
        ("foo.localhost", True),
        ("foo.local", True),
        ("foo.internal", True),
        (socket.gethostname().lower(), True),
        ("example.com", False),
        ("local", False),
        ("foolocal", False),
        ("localhost.evil.com", False),
    ],
)
def test_names_that_no_public_dns_serves_are_local(host: str, local: bool) -> None:
    assert is_local_name(host) is local
