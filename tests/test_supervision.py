"""The arithmetic of restart policies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svcframework._types import Restart
from svcframework.supervision import Again, GiveUp, Supervisor, backoff


def no_chance() -> float:
    return 0.0


def test_delays_double_up_to_the_limit():
    """Each restart of a window waits twice as long, but never longer than max_delay."""
    policy = Restart.transient(max_restarts=4, delay=1.0, max_delay=5.0)
    supervisor = Supervisor(policy, no_chance)
    found = [supervisor.after_crash(error=True, now=0.0) for _ in range(5)]
    assert [Again(1, 1.0), Again(2, 2.0), Again(3, 4.0), Again(4, 5.0), GiveUp(4, 60.0)] == found


def test_old_restarts_are_forgotten():
    """Only restarts inside of the sliding window count, so a rare crash never exhausts a policy."""
    supervisor = Supervisor(Restart.transient(max_restarts=1, within=10.0, delay=1.0), no_chance)
    found = [supervisor.after_crash(error=True, now=now) for now in (0.0, 10.5, 21.0, 22.0)]
    assert [Again(1, 1.0), Again(1, 1.0), Again(1, 1.0), GiveUp(1, 10.0)] == found


@pytest.mark.parametrize(
    ("policy", "on_error", "on_return"),
    [
        (Restart.permanent(delay=1.0), Again(1, 1.0), Again(1, 1.0)),
        (Restart.transient(delay=1.0), Again(1, 1.0), GiveUp(0, 60.0)),
        (Restart.temporary(), GiveUp(0, 60.0), GiveUp(0, 60.0)),
    ],
)
def test_policy_decides_by_kind_of_end(policy, on_error, on_return):
    """Permanent restarts always, transient after an error, temporary never."""
    assert on_error == Supervisor(policy, no_chance).after_crash(error=True, now=0.0)
    assert on_return == Supervisor(policy, no_chance).after_crash(error=False, now=0.0)


def test_failed_starts_are_tried_for_ever():
    """An optional service is tried without end, later each time, and from the beginning once it has run."""
    supervisor = Supervisor(Restart.transient(max_restarts=0, delay=1.0, max_delay=8.0), no_chance)
    assert [1.0, 2.0, 4.0, 8.0, 8.0] == [supervisor.after_failed_start().delay for _ in range(5)]
    supervisor.came_up()
    assert Again(1, 1.0) == supervisor.after_failed_start()


@settings(derandomize=True, deadline=None, database=None)
@given(attempt=st.integers(1, 10_000), draw=st.floats(0.0, 1.0, exclude_max=True), jitter=st.floats(0.0, 1.0))
def test_delay_stays_in_its_bounds(attempt, draw, jitter):
    """A delay is never longer than max_delay and never shorter than its share that isn't left to chance."""
    policy = Restart.transient(delay=0.1, max_delay=30.0, jitter=jitter)
    longest = min(0.1 * 2.0 ** min(attempt - 1, 60), 30.0)
    assert longest * (1.0 - jitter) <= backoff(policy, attempt, draw) <= longest
