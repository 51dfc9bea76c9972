"""orbax's writes, when one of them fails, are waited for: no traceback beside the error that is raised."""

import asyncio
import gc
import threading

import pytest
import tensorstore
from orbax.checkpoint._src import asyncio_utils

import tlx.checkpoint


def test_writes_that_fail_later_print_nothing(capfd):
    writes = [tensorstore.Promise.new() for _ in range(2)]

    async def write(future):
        await future

    async def save():
        await asyncio.gather(*(write(future) for _, future in writes), fail())

    async def fail():
        raise ValueError("the disk is full")

    later = [threading.Timer(0.05, promise.set_exception, [ValueError("this array too")]) for promise, _ in writes]
    for timer in later:
        timer.start()
    with pytest.raises(ValueError, match="the disk is full"):
        asyncio_utils.run_sync(save())  # what orbax calls
    assert all(future.done() for _, future in writes)
    for timer in later:
        timer.join()
    gc.collect()
    assert capfd.readouterr().err == ""
    assert asyncio_utils._run_sync_via_new_loop is tlx.checkpoint.event_loop.run_to_the_end
