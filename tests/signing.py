"""Signs requests as Ollama's command line does with OLLAMA_AUTH=1 (docs/reference 19.3)."""

import base64
import struct
import time
from collections.abc import Callable, Generator

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Signer(httpx.Auth):
    """One person with a key; as the `auth` of a client it signs each request.

    `seed` is 32 bytes, `clock` the person's, in unix seconds.
    """

    def __init__(self, seed: bytes, clock: Callable[[], float] = time.time) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._clock = clock
        key = self._private.public_key().public_bytes_raw()
        wire = struct.pack(">I11sI32s", 11, b"ssh-ed25519", 32, key)
        self._wire = base64.b64encode(wire).decode()

    @property
    def public_key(self) -> str:
        """A line of a `.pub` file."""
        return f"ssh-ed25519 {self._wire} somebody@somewhere"

    def header(self, target: str) -> str:
        """The `Authorization` of a request; `target` is `METHOD,PATH?ts=N`."""
        return f"{self._wire}:{base64.b64encode(self._private.sign(target.encode())).decode()}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        at = int(self._clock())
        target = f"{request.method},{request.url.path}?ts={at}"
        request.url = request.url.copy_merge_params({"ts": str(at)})
        request.headers["authorization"] = self.header(target)
        yield request
