"""How often something may happen."""

import pytest

from pilothouse.kit.token_bucket import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_goes_through_and_then_the_rate(clock: Clock) -> None:
    bucket = TokenBucket(2, burst=3, clock=clock)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.5)
    clock.seconds += 0.5
    assert bucket.take() == 0
    assert bucket.take() == pytest.approx(0.5)


def test_it_holds_no_more_than_the_burst(clock: Clock) -> None:
    bucket = TokenBucket(2, burst=3, clock=clock)
    clock.seconds += 1000
    assert [bool(bucket.take()) for _ in range(4)] == [False, False, False, True]


def test_more_than_the_burst_counts_as_the_burst(clock: Clock) -> None:
    bucket = TokenBucket(2, burst=3, clock=clock)
    assert bucket.take(100) == 0
    assert bucket.take(100) == pytest.approx(1.5)


def test_it_is_full_again_after_a_rest(clock: Clock) -> None:
    bucket = TokenBucket(2, burst=3, clock=clock)
    bucket.take()
    assert not bucket.full
    clock.seconds += 0.5
    assert bucket.full


def test_what_has_happened_is_paid_for_later(clock: Clock) -> None:
    bucket = TokenBucket(2, burst=3, clock=clock)
    assert bucket.spend(2) == 0
    assert bucket.spend(5) == pytest.approx(2)
    assert bucket.spend(2) == pytest.approx(3)
    clock.seconds += 3
    assert bucket.spend(0) == 0
