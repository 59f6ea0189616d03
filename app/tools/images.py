"""Pictures that a request names by their address, fetched as the address guard allows."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from app.core.context import ToolReport
from app.core.errors import AddressRefused, AppError, FetchFailed, Overloaded
from app.egress.client import Fetched, FetchLimits
from app.tools.words import host_of

LIMITS = FetchLimits(
    wire_bytes=20 << 20, decoded_bytes=20 << 20, time_s=20.0, redirects=5, media_types=("image/*",)
)
"""Of one picture. What it holds is bounded where it is decoded (`image_pixels`, `image_ratio`)."""


class Client(Protocol):
    async def get(
        self, url: str, *, limits: FetchLimits, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Fetched: ...


class ImageFetch:
    """Gets the file of a picture, at most `at_once` at a time: each is held in memory."""

    def __init__(self, client: Client, *, at_once: int = 16) -> None:
        self._client, self._left = client, at_once

    async def get(self, url: str) -> tuple[bytes, ToolReport, AppError | None]:
        """The file (empty where it failed), what is reported of it, and what went wrong.

        Raises:
            Overloaded: where as many are fetched as may be.
        """
        if not self._left:
            raise Overloaded("too many images are being fetched, please try again")
        self._left -= 1
        try:
            return await self._get(url)
        finally:
            self._left += 1

    async def _get(self, url: str) -> tuple[bytes, ToolReport, AppError | None]:
        started_ns, begun_ns = time.time_ns(), time.monotonic_ns()
        error: AppError | None = None
        fetched: Fetched | None = None
        try:
            fetched = await self._client.get(url, limits=LIMITS, headers={"accept": "image/*"})
            if fetched.status != 200:
                error = FetchFailed(f"the image at this address cannot be had: status {fetched.status}")
            elif fetched.is_truncated:
                error = FetchFailed(f"the image is larger than {LIMITS.decoded_bytes} bytes")
        except AppError as failed:
            error = failed
        report = ToolReport(
            "image_fetch",
            host=host_of(fetched.url if fetched else url),
            target=url,
            status=fetched.status if fetched else 0,
            received_bytes=fetched.received_bytes if fetched else 0,
            started_ns=started_ns,
            duration_ns=time.monotonic_ns() - begun_ns,
            failure=type(error).__name__ if error else "",
            refused=isinstance(error, AddressRefused),
        )
        return (b"" if fetched is None or error else fetched.body), report, error
