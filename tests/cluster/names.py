"""The cluster's names: a resolver that asks the API, for Services with an address and without one.

`python -m tests.cluster.names API TOKEN ADDRESS` answers on port 53 of ADDRESS, by UDP and TCP.
"""

import json
import ssl
import sys
import threading
import time
import urllib.request
from typing import Any

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSServer

DOMAIN = "svc.cluster.local."
EVERY_S = 1.0
"""How often the API is asked: as late as an answer can be."""
TTL_S = 1


UNCHECKED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNCHECKED.check_hostname, UNCHECKED.verify_mode = False, ssl.CERT_NONE
"""The API server signs its own certificate. Made once, and without the certificates of this machine."""


class Names(BaseResolver):
    """Addresses by full name: a Service's own, or those of its ready pods, which may have names too."""

    def __init__(self, api: str, token: str) -> None:
        self._api, self._token = api, token
        self._known: dict[str, list[str]] = {}

    def refresh(self) -> None:
        services, endpoints = self._list("services"), self._list("endpoints")
        known: dict[str, list[str]] = {}
        headless = set[str]()
        for service in services:
            name = _name(service)
            address = service["spec"].get("clusterIP")
            if address == "None":
                headless.add(name)
            elif address:
                known[name] = [address]
        for endpoint in endpoints:
            if (name := _name(endpoint)) not in headless:
                continue
            for subset in endpoint.get("subsets", ()):
                for address in subset.get("addresses", ()):
                    known.setdefault(name, []).append(address["ip"])
                    if host := address.get("hostname"):
                        known[f"{host}.{name}"] = [address["ip"]]
            known.setdefault(name, [])
        self._known = known

    def resolve(self, request: DNSRecord, handler: Any) -> DNSRecord:
        reply = request.reply()
        name = str(request.q.qname).lower()
        if name not in self._known:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in self._known[name]:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=TTL_S))
        return reply

    def _list(self, kind: str) -> list[dict[str, Any]]:
        return ask(self._api, self._token, f"/api/v1/{kind}")["items"]


def ask(api: str, token: str, path: str) -> Any:
    """What the API server answers."""
    asked = urllib.request.Request(f"{api}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, context=UNCHECKED, timeout=10) as answer:
        return json.load(answer)


def _name(thing: dict[str, Any]) -> str:
    about = thing["metadata"]
    return f"{about['name']}.{about['namespace']}.{DOMAIN}"


def main(api: str, token: str, address: str) -> None:
    names = Names(api, token)
    for tcp in (False, True):
        server = DNSServer(names, address=address, port=53, tcp=tcp)
        threading.Thread(target=server.server.serve_forever, daemon=True).start()
    while True:
        try:
            names.refresh()
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
