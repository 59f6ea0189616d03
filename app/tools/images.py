"""Pictures that a request names by their address, fetched as the address guard allows."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

from app.core.context import ToolReport
from app.core.errors import AddressRefused, AppError, FetchFailed
from app.egress.client import Fetched, FetchLimits

LIMITS = FetchLimits(
    wire_bytes=20 << 20, decoded_bytes=20 << 20, time_s=20.0, redirects=5, media_types=("image/*",)
)
"""Of one picture. What it holds is bounded where it is decoded (`image_pixels`, `image_ratio`)."""


class Client(Protocol):
    async def get(
        self, url: str, *, limits: FetchLimits, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Fetched: ...


class ImageFetch:
    """Gets the file of a picture."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, url: str) -> tuple[bytes, ToolReport, AppError | None]:
        """The file (empty where it failed), what is reported of it, and what went wrong."""
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
            host=_host(fetched.url if fetched else url),
            target=url,
            status=fetched.status if fetched else 0,
            received_bytes=fetched.received_bytes if fetched else 0,
            started_ns=started_ns,
            duration_ns=time.monotonic_ns() - begun_ns,
            failure=type(error).__name__ if error else "",
            refused=isinstance(error, AddressRefused),
        )
        return (b"" if fetched is None or error else fetched.body), report, error


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "")[:253]
    except ValueError:
        return ""
