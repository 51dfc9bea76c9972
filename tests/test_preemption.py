"""A stop that is asked for inside one run is heard by the sweep around it."""

import os
import signal

import pytest

from tlx.preemption import Preempted, Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_outer_hears_of_a_stop_that_the_inner_took(number):
    before = signal.getsignal(number)
    with Preemption() as outer:
        with Preemption() as inner:
            os.kill(os.getpid(), number)
        assert inner.requested == outer.requested == number
        with pytest.raises(Preempted):
            outer.check()
    assert signal.getsignal(number) is before


def test_nothing_asked_for_is_nothing_heard():
    with Preemption() as outer:
        with Preemption():
            pass
        outer.check()
