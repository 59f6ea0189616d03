"""The seam to the network."""

from collections.abc import Mapping
from typing import Protocol

from app.egress.client import Fetched, FetchLimits


class Client(Protocol):
    """What fetches: `egress.client.EgressClient`, or a double of it."""

    async def get(self, url: str, *, limits: FetchLimits, headers: Mapping[str, str]) -> Fetched:
        """The answer at the end of redirects.

        Raises:
            AddressRefused: where the address or one that it leads to is not opened.
            FetchFailed: where there is no answer within the limits.
        """
        ...
