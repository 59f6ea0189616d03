"""What the guard lets pass: public addresses, and what operators allow, as far as an entry reaches."""

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api.errors import status_of
from app.core.errors import AddressRefused, FetchFailed
from app.egress.addresses import Address, carried, kind_of, read
from app.egress.guard import Guard
from app.egress.rules import read_rules
from app.egress.target import read_host, read_target

IPV4 = st.ip_addresses(v=4)
IPV6 = st.one_of(
    st.ip_addresses(v=6),
    # Most of the space is none that is handed out: what is near special networks comes more often.
    *(st.ip_addresses(network=each) for each in ("2000::/3", "2001::/23", "64:ff9b::/96", "::ffff:0:0/96")),
    *(st.ip_addresses(network=each) for each in ("2002::/16", "fc00::/7", "fe80::/10", "::/96")),
)
NEVER_PUBLIC = tuple(
    ipaddress.ip_network(each)
    for each in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "224.0.0.0/4",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
        "ff00::/8",
    )
)
"""What `ipaddress` calls global, in some release at least, and is not to be opened all the same."""


@given(st.one_of(IPV4, IPV6))
@example(ipaddress.ip_address("8.8.8.8"))
@example(ipaddress.ip_address("2606:4700::1111"))
@example(ipaddress.ip_address("2607:f8b0::5efe:7f00:1"))
def test_what_is_opened_is_global_and_not_of_our_list(address: Address) -> None:
    ours = any(address.version == each.version and address in each for each in NEVER_PUBLIC)
    outside = address.version == 6 and int(address) >> 125 != 1
    isatap = address.version == 6 and int(address) >> 32 & 0xFDFFFFFF == 0x5EFE
    expected = address.is_global and not (ours or outside or isatap)
    assert (kind_of(address) == "") is expected


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_found_in_whatever_carries_it(inner: ipaddress.IPv4Address) -> None:
    bits = int(inner)
    forms = (
        int(ipaddress.ip_address("::ffff:0:0")) | bits,
        int(ipaddress.ip_address("64:ff9b::")) | bits,
        int(ipaddress.ip_address("64:ff9b:1::")) | bits,
        int(ipaddress.ip_address("2002::")) | bits << 80,
        int(ipaddress.ip_address("2001::")) | bits ^ 0xFFFFFFFF,
        int(ipaddress.ip_address("2607:f8b0::5efe:0:0")) | bits,
        # Two of these are the loopback and the unspecified address.
        bits if bits > 1 else 0x2002 << 112 | bits << 80,
    )
    for form in forms:
        address = ipaddress.IPv6Address(form)
        assert carried(address) == inner
        assert kind_of(address)


@given(st.one_of(IPV4, IPV6))
def test_an_address_is_told_alike_as_literal_and_as_answer(address: Address) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)

    def passes(check: object) -> bool:
        try:
            assert callable(check)
            check()
        except AddressRefused:
            return False
        return True

    guard = Guard()
    literal = passes(lambda: guard.target(f"http://{host}/"))
    answer = passes(lambda: guard.checked("a.example", 80, [str(address)]))
    assert literal is answer is (kind_of(address) == "")


@pytest.mark.parametrize(
    ("url", "read_as"),
    [
        ("http://Example.COM", "http://example.com/"),
        ("HTTPS://example.com:443/a?b=c#d", "https://example.com/a?b=c"),
        ("http://example.com:/", "http://example.com/"),
        ("https://example.com.:0443/", "https://example.com/"),
        ("http://example.com?q", "http://example.com/?q"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example/"),
        ("http://a_b.example/%20{}", "http://a_b.example/%20%7B%7D"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("https://[2606:4700:0::1111]/", "https://[2606:4700::1111]/"),
        ("http://example.com/@127.0.0.1", "http://example.com/@127.0.0.1"),
    ],
)
def test_a_url_has_one_form(url: str, read_as: str) -> None:
    assert Guard().target(url).url == read_as
    assert Guard().target(read_as).url == read_as


@given(st.text(alphabet="http:/[]@.%\\?#0x17fc::1a-_\u3002\uff0e \t", max_size=40))
def test_whatever_is_read_is_read_again_the_same(text: str) -> None:
    try:
        target = read_target(f"http://{text}")
    except AddressRefused:
        return
    assert read_target(target.url) == target
    assert read_host(target.host) == target.host


ALLOWED = (
    (["wiki.corp"], "http://wiki.corp/", ("10.0.0.1",)),
    (["wiki.corp"], "https://wiki.corp/", ("fd00::1", "127.0.0.1", "100.64.0.1")),
    (["Wiki.Corp."], "http://wiki.corp/", ("10.0.0.1",)),
    (["*.corp"], "http://a.b.corp/", ("10.0.0.1",)),
    (["wiki.corp:8080"], "http://wiki.corp:8080/", ("10.0.0.1",)),
    (["10.0.0.0/8"], "http://10.1.2.3/", ()),
    (["10.0.0.0/8"], "http://wiki.corp/", ("10.1.2.3",)),
    (["10.0.0.0/8:8080"], "http://wiki.corp:8080/", ("10.1.2.3",)),
    (["10.0.0.5:8080"], "http://10.0.0.5:8080/", ()),
    (["[fd00::/8]:8080"], "http://[fd00::5]:8080/", ()),
    (["::1"], "http://[::1]/", ()),
    (["[::1]:11434"], "http://localhost:11434/", ("::1",)),
    (["example.com:8443"], "https://example.com:8443/", ("93.184.215.14",)),
    (["169.254.169.254"], "http://169.254.169.254/", ()),
    (["64:ff9b::/96"], "http://example.com/", ("64:ff9b::808:808",)),
    (["64:ff9b::/96", "10.0.0.0/8"], "http://example.com/", ("64:ff9b::a00:1",)),
    (["0.0.0.0/0"], "http://0.0.0.0/", ()),
)


@pytest.mark.parametrize(("allow", "url", "addresses"), ALLOWED)
def test_what_operators_allow_is_opened(allow: list[str], url: str, addresses: Sequence[str]) -> None:
    guard = Guard(allow)
    target = guard.target(url)
    assert [str(each) for each in guard.checked(target.host, target.port, addresses)] == list(addresses)
    with pytest.raises(AddressRefused):
        _open(Guard(), url, addresses)


@pytest.mark.parametrize(
    ("allow", "url", "addresses"),
    [
        (["wiki.corp"], "http://wiki.corp:8080/", ("10.0.0.1",)),
        (["wiki.corp:8080"], "http://wiki.corp/", ("10.0.0.1",)),
        (["wiki.corp"], "http://wiki.corp/", ("169.254.169.254",)),
        (["wiki.corp"], "http://wiki.corp/", ("fe80::1",)),
        (["wiki.corp"], "http://wiki.corp/", ("::ffff:10.0.0.1",)),
        (["wiki.corp"], "http://wiki.corp/", ("10.0.0.1", "224.0.0.1")),
        (["wiki.corp"], "http://a.wiki.corp/", ("10.0.0.1",)),
        (["*.corp"], "http://corp/", ("10.0.0.1",)),
        (["*.corp"], "http://evilcorp.example/", ("10.0.0.1",)),
        (["*.corp"], "http://corp.evil.example/", ("10.0.0.1",)),
        (["10.0.0.0/8"], "http://wiki.corp/", ("192.168.0.1",)),
        (["10.0.0.0/8"], "http://10.0.0.1:8080/", ()),
        (["10.0.0.0/8:8080"], "http://10.0.0.1/", ()),
        (["10.0.0.0/8:8080"], "http://example.com:8080/", ("93.184.215.14",)),
        (["10.0.0.0/8"], "http://[::ffff:10.0.0.1]/", ()),
        (["127.0.0.0/8"], "http://2130706433/", ()),
        (["64:ff9b::/96"], "http://example.com/", ("64:ff9b::a00:1",)),
        (["64:ff9b::/96"], "http://example.com/", ("64:ff9b::a9fe:a9fe",)),
        (["0.0.0.0/0"], "http://metadata.google.internal/", ("169.254.169.254",)),
    ],
)
def test_an_entry_reaches_no_further_than_it_says(
    allow: list[str], url: str, addresses: Sequence[str]
) -> None:
    with pytest.raises(AddressRefused):
        _open(Guard(allow), url, addresses)


@pytest.mark.parametrize(
    ("deny", "url", "addresses"),
    [
        (["example.com"], "http://example.com/", ("93.184.215.14",)),
        (["example.com"], "http://EXAMPLE.com.:80/", ("93.184.215.14",)),
        (["*.example.com"], "http://a.b.example.com/", ("93.184.215.14",)),
        (["93.184.0.0/16"], "http://example.com/", ("93.184.215.14",)),
        (["93.184.215.14"], "http://93.184.215.14/", ()),
        (["2606::/16"], "http://example.com/", ("93.184.215.14", "2606:4700::1111")),
        (["example.com:80"], "http://example.com/", ("93.184.215.14",)),
        (["8.8.8.8"], "http://example.com/", ("64:ff9b::808:808",)),
    ],
)
def test_what_is_denied_stays_so_whatever_is_allowed(
    deny: list[str], url: str, addresses: Sequence[str]
) -> None:
    allow = ["example.com", "*.example.com", "0.0.0.0/0", "::/0"]
    _open(Guard(allow), url, addresses)
    with pytest.raises(AddressRefused, match="denied"):
        _open(Guard(allow, deny), url, addresses)


def test_a_denied_port_leaves_the_others() -> None:
    guard = Guard(deny=["example.com:80"])
    assert guard.target("https://example.com/").port == 443


@pytest.mark.parametrize(
    "host",
    [
        "kubernetes.default.svc",
        "api.dev.cluster",
        "db.service.consul",
        "web.docker",
        "x.kube",
        "y.containers",
    ],
)
def test_names_of_clusters_are_not_public(host: str) -> None:
    """Behind a proxy nobody here sees where they lead."""
    for proxied in (False, True):
        with pytest.raises(AddressRefused, match="not a public name"):
            Guard(proxied=proxied).target(f"http://{host}/")


def test_behind_a_proxy_no_network_opens_a_name() -> None:
    assert Guard(["10.0.0.0/8"]).target("http://wiki.corp/").host == "wiki.corp"
    with pytest.raises(AddressRefused):
        Guard(["10.0.0.0/8"], proxied=True).target("http://wiki.corp/")
    assert Guard(["10.0.0.0/8"], proxied=True).target("http://10.0.0.1/").host == "10.0.0.1"


@pytest.mark.parametrize(
    "entry", ["http://a", "a b", "", "10.0.0.1/8", "127.1", "[::1", "[::1]x", "a:0", "a@b", "*"]
)
def test_an_entry_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^'"):
        read_rules(["good.example", entry])


def test_a_zone_is_no_part_of_an_address() -> None:
    with pytest.raises(ValueError, match="zone"):
        read("fe80::1%eth0")


def test_nothing_of_a_url_acts_on_a_terminal_or_is_long_in_an_error() -> None:
    for url in ("http://exa\x1b[31mmple.com/", "http://" + "\u202e" * 5000, "x" * 10_000):
        with pytest.raises(AddressRefused) as caught:
            Guard().target(url)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


def test_a_refusal_does_not_tell_the_address_that_a_name_has() -> None:
    with pytest.raises(AddressRefused) as caught:
        Guard().checked("a.example", 80, ["10.11.12.13"])
    assert "10.11" not in str(caught.value)


def test_a_refused_address_is_the_clients_fault_and_a_failed_fetch_another_servers() -> None:
    assert (status_of(AddressRefused("x")), AddressRefused.rejection) == (400, "address")
    assert (status_of(FetchFailed("x")), FetchFailed.rejection) == (502, "")


def _open(guard: Guard, url: str, addresses: Sequence[str]) -> None:
    target = guard.target(url)
    guard.checked(target.host, target.port, addresses)
