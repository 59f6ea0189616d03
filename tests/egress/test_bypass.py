"""Attempts to have something fetched that must not be, each a case of its own: none gets through.

The list holds OWASP's tricks against request forgery by the server and what readers of URLs disagree about.
"""

import ssl
from collections.abc import Sequence

import pytest

from app.core.errors import AddressRefused
from app.egress.client import EgressClient, FetchLimits
from app.egress.guard import Guard
from tests.egress.names import Names

LOOPBACK = (
    "http://127.0.0.1/",
    "http://127.0.0.1:80/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.127.127.127/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0.0.0.0:443/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://localhost../",
    "http://foo.localhost/",
    "http://localhost.localdomain/",
    "http://ip6-localhost/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0X7F000001/",
    "http://0x7f.1/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://127.0.0.0x1/",
    "http://4294967295/",
    "http://99999999999/",
    "http://0x/",
    "http://1.2.3.4.5/",
    "http://256.256.256.256/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:7f00:0001]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[::1%25eth0]/",
    "http://[::1%lo]/",
    "http://[v1.127.0.0.1]/",
    "http://[127.0.0.1]/",
    "http://[::1/",
    "http://::1/",
    "http://0177.1/",
    "http://0x7f000001.:80/",
    "http://[0:0:0:0:0:0:127.0.0.1]/",
    "http://[::FFFF:7F00:1]/",
    "http://[::%31]/",
    "http://[::1]:0/",
    "http://1e3/",
    "http://00000000177.0.0.1/",
)
METADATA = (
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://169.16689662/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://metadata/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://METADATA.google.internal./",
    "http://metadata.goog/",
    "http://metadata.azure.com/",
    "http://metadata.tencentyun.com/",
    "http://instance-data/",
    "http://rancher-metadata/",
    "http://kubernetes/",
    "http://kubernetes.default.svc.cluster.local/",
    "http://kubernetes.default.svc/",
    "http://vault.service.consul/",
    "http://[::ffff:169.254.170.2]/",
    "http://[fd00:ec2:0::fe]/",
)
NOT_PUBLIC = (
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.1.1/",
    "http://192.0.0.9/",
    "http://192.0.2.1/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd12:3456::1]/",
    "http://[ff02::1]/",
    "http://[100::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://[4000::1]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[64:ff9b:1::10.0.0.1]/",
    "http://[fe80::1%25en0]:80/",
)
TRANSLATED = (
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::808:808]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[64:ff9b:1:ffff::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:53aa:64c:0:ffff:80ff:fffe]/",
    "http://[2607:f8b0::5efe:7f00:1]/",
    "http://[2607:f8b0::200:5efe:7f00:1]/",
    "http://[fe80::5efe:192.168.0.1]/",
    "http://[::ffff:8.8.8.8]/",
)
UNICODE = (
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://127\uff0e0\uff0e0\uff0e1/",
    "http://localhost。/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
    "http://loc\u00adalhost/",
    "http://local\u200bhost/",
    "http://metadata.google.internal\u3002/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://127.0.0.\u0661/",
    "http://xn--/",
    "http://xn--localhost-/",
    "http://xn--a\u0300/",
    "http://evil\u2024com/",
    "http://\u202eexample.com/",
    "http://example.com\uff0f@127.0.0.1/",
    "http://example.com:\uff18\uff10/",
    "http://example.com:443\u200b/",
    "http://example.com:\u0668\u0660/",
    "http://127\u30021/",
    "http://xn--fsq.xn--/",
    "http://ex\u0430mple.com\u2024/",
)
SPELLING = (
    "http://127.0.0.1%00.example.com/",
    "http://%31%32%37.0.0.1/",
    "http://%6c%6f%63alhost/",
    "http://example.com%2f@127.0.0.1/",
    "http://example.com%40127.0.0.1/",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1@example.com/",
    "http://example.com:80@127.0.0.1/",
    "http://@127.0.0.1/",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\.example.com/",
    "http:\\\\127.0.0.1\\",
    "http:/\\127.0.0.1/",
    "http:///127.0.0.1/",
    "http:127.0.0.1/",
    "http:/127.0.0.1/",
    "//127.0.0.1/",
    "127.0.0.1",
    "",
    "http://",
    "http://:80/",
    "http://?@127.0.0.1/",
    "http://example.com:80:80/",
    "http://[::1]x.example.com/",
    "http://example .com/",
    " http://example.com/",
    "http://example.com/\r\nHost: 127.0.0.1",
    "http://example.com/\tx",
    "ht\ntp://example.com/",
    "http://exam\tple.com/",
    "http://example.com\x00.evil/",
    "http://example.com/\x7f",
    "http://example.com/\x85",
    "http://example.com/\ud800",
    "http://-example.com/",
    "http://example..com/",
    "http://.example.com/",
    "http://exa*mple.com/",
    "http://example.com;127.0.0.1/",
    "http://localhost%2e/",
    "http://127.0.0.1:80@example.com/",
    "http://example.com:65537/",
    "http://example.com:0443x/",
    "http://example.com\x0b/",
    "http://example.com\u2028/",
    "http://example.com/\x1b[2J",
    "http:////127.0.0.1/",
    "http://[example.com]/",
    "http://example.com,127.0.0.1/",
    "http://" + "a." * 127 + "com/",
    "http://" + "a" * 64 + ".com/",
    "http://example.com/" + "a" * 8_192,
)
SCHEMES = (
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://example.com/",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/stat",
    "ldap://127.0.0.1/",
    "tftp://127.0.0.1/",
    "jar:http://127.0.0.1!/",
    "netdoc:///etc/passwd",
    "data:text/html,hello",
    "javascript:alert(1)",
    "ws://example.com/",
    "view-source:http://example.com/",
    "about:blank",
    "blob:http://127.0.0.1/x",
    "filesystem:http://127.0.0.1/temporary/x",
    "chrome://version/",
    "devtools://devtools/bundled/inspector.html",
    "httpx://example.com/",
    "wss://127.0.0.1/",
    "unix:///var/run/docker.sock",
    "http+unix://%2fvar%2frun%2fdocker.sock/",
)
NUMBERS = (0, 1, 22, 25, 53, 79, 81, 2375, 3306, 5432, 6379, 8080, 8443, 9200, 11211, 65536, 99999)
PORTS = tuple(f"http://example.com:{port}/" for port in (*NUMBERS, "+80", "-1", "0x50", "8_0"))
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ATTEMPTS = (*LOOPBACK, *METADATA, *NOT_PUBLIC, *TRANSLATED, *UNICODE, *SPELLING, *SCHEMES, *PORTS)


def test_there_are_as_many_attempts_as_are_promised() -> None:
    assert len(set(ATTEMPTS)) == len(ATTEMPTS) >= 80


@pytest.mark.parametrize("url", ATTEMPTS)
async def test_nothing_is_looked_up_or_opened(url: str) -> None:
    names = Names({"example.com": "93.184.215.14"})
    client = EgressClient(Guard(), resolve=names, certificates=NO_CERTIFICATES)
    with pytest.raises(AddressRefused):
        await client.get(url, limits=FetchLimits(time_s=5))
    assert names.asked == []


# What each name resolves to is refused, though the name is fine.
RESOLVED = (
    ("127.0.0.1",),
    ("10.1.2.3",),
    ("192.168.0.1",),
    ("169.254.169.254",),
    ("100.100.100.200",),
    ("168.63.129.16",),
    ("0.0.0.0",),
    ("::1",),
    ("::",),
    ("::ffff:127.0.0.1",),
    ("64:ff9b::a9fe:a9fe",),
    ("fd00:ec2::254",),
    ("fe80::1%eth0",),
    ("2002:7f00:1::",),
    ("93.184.215.14", "127.0.0.1"),
    ("127.0.0.1", "93.184.215.14"),
    ("2606:2800:21f::1", "::1"),
    ("no address",),
)


@pytest.mark.parametrize("addresses", RESOLVED, ids=" ".join)
async def test_a_name_is_refused_for_any_of_its_addresses(addresses: Sequence[str]) -> None:
    names = Names({"innocent.example.com": addresses})
    client = EgressClient(Guard(), resolve=names, certificates=NO_CERTIFICATES)
    with pytest.raises(AddressRefused, match=r"innocent\.example\.com"):
        await client.get("http://innocent.example.com/", limits=FetchLimits(time_s=5))
    assert names.asked == ["innocent.example.com"]
