"""How many photos a minute a caller gets.

The counts are this process's own: they begin anew when the gateway is started.
"""

from __future__ import annotations

import ipaddress
import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import RateLimitedError, TooManyPhotosError

__all__ = ["Allowance", "RateLimits", "network_of"]

# What one IPv6 customer has at least: to count single addresses would be to count nothing.
_IPV6_PREFIX = 56


class Allowance:
    """What one caller may still ask for."""

    def __init__(
        self, limiter: MovingWindowRateLimiter, rate: RateLimitItem | None, caller: str
    ) -> None:
        self._limiter = limiter
        self._rate = rate
        self._caller = caller

    def take(self, photos: int, *, taken: int = 0) -> None:
        """Count photos; a request is one from its start, whether it brings any or not.

        Args:
            photos: how many more.
            taken: how many of the same request were counted before.

        Raises:
            RateLimitedError: they are more than what is left of the minute.
            TooManyPhotosError: the request holds more than a whole minute's.
        """
        if not photos or self._rate is None:
            return
        if taken + photos > self._rate.amount:
            raise TooManyPhotosError(
                f"You may send {self._rate.amount} photos a minute, and this request holds more. "
                "Send fewer at a time."
            )
        if not self._limiter.hit(self._rate, self._caller, cost=photos):
            wait = self._seconds_until_free(photos)
            raise RateLimitedError(
                f"You may send {self._rate.amount} photos a minute. Try again in {wait} s.", wait
            )

    def _seconds_until_free(self, photos: int) -> int:
        assert self._rate is not None  # noqa: S101 - for mypy: `take` has looked
        if photos > 1:
            return self._rate.get_expiry()  # the library knows of the oldest photo only
        reset = self._limiter.get_window_stats(self._rate, self._caller).reset_time
        return max(1, math.ceil(reset - time.time()))


class RateLimits:
    """Counts every caller's photos over the last minute."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def of(self, caller: str, per_minute: int | None) -> Allowance:
        """The allowance of a caller; `per_minute` None for one without a limit."""
        rate = None if per_minute is None else RateLimitItemPerMinute(per_minute)
        return Allowance(self._limiter, rate, caller)


def network_of(address: str) -> str:
    """Whom a client's address stands for: an IPv4 address for itself, IPv6 for its network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # a proxy may name something else, or nobody is named
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, _IPV6_PREFIX), strict=False))
