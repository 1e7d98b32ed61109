"""The count of photos a minute, on a clock that can be set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RateLimitedError, TooManyPhotosError
from gateway.rate_limits import RateLimits, network_of

WINDOW_S = 60


class Clock:
    """Stands in for `time.time`."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def set_clock() -> Iterator[Clock]:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", clock)
        yield clock


@given(
    per_minute=st.integers(1, 8),
    calls=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 8)), max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_no_minute_holds_more_than_the_limit_and_the_wait_is_true(
    per_minute: int, calls: list[tuple[float, int]]
) -> None:
    with set_clock() as clock:
        limits = RateLimits()
        taken: list[float] = []
        for pause, photos in calls:
            clock.now += pause
            allowance = limits.of("someone", per_minute)
            recent = [moment for moment in taken if moment > clock.now - WINDOW_S]
            try:
                allowance.take(photos)
            except TooManyPhotosError:
                assert photos > per_minute
            except RateLimitedError as error:
                assert len(recent) + photos > per_minute, "refused what would fit"
                wait = error.retry_after or 0
                assert 1 <= wait <= WINDOW_S
                clock.now += wait + 0.001
                allowance.take(photos)
                taken += [clock.now] * photos
            else:
                taken += [clock.now] * photos
                assert len(recent) + photos <= per_minute


@pytest.mark.parametrize(("per_minute", "photos"), [(1, 2), (2, 3), (5, 6), (5, 32)])
def test_what_never_fits_into_a_minute_is_no_matter_of_waiting(
    per_minute: int, photos: int
) -> None:
    allowance = RateLimits().of("someone", per_minute)
    allowance.take(1)
    with pytest.raises(TooManyPhotosError, match=f"{per_minute} photos a minute"):
        allowance.take(photos - 1, taken=1)


def test_a_whole_minutes_photos_in_one_request_fit() -> None:
    for per_minute in (1, 2, 32):
        allowance = RateLimits().of(f"{per_minute}", per_minute)
        allowance.take(1)
        allowance.take(per_minute - 1, taken=1)


def test_callers_do_not_share_an_allowance() -> None:
    limits = RateLimits()
    limits.of("one", 1).take(1)
    limits.of("another", 1).take(1)
    with pytest.raises(RateLimitedError):
        limits.of("one", 1).take(1)


def test_no_limit_is_no_limit() -> None:
    allowance = RateLimits().of("anyone", None)
    for _ in range(1000):
        allowance.take(32)


@given(address=st.ip_addresses(v=6), host=st.integers(0, 2**72 - 1))
def test_addresses_of_one_ipv6_customer_are_one(address: object, host: int) -> None:
    number = int(address)  # type: ignore[call-overload]
    if number >> 32 == 0xFFFF:
        return  # an IPv4 address in IPv6's clothes
    neighbour = type(address)((number >> 72 << 72) | host)  # type: ignore[call-arg]
    assert network_of(str(address)) == network_of(str(neighbour))


@given(address=st.ip_addresses(v=4))
def test_each_ipv4_address_is_one_however_it_is_written(address: object) -> None:
    assert network_of(str(address)) == network_of(f"::ffff:{address}") == str(address)


@pytest.mark.parametrize("odd", ["", "unknown", "_hidden", "203.0.113.1:1234:5"])
def test_what_is_no_address_is_taken_as_it_is(odd: str) -> None:
    assert network_of(odd) == odd
