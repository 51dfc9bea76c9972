"""An event loop that is run to its end: for orbax, which leaves its own while writes are still under way."""

import asyncio
from collections.abc import Coroutine
from typing import Any

PATIENCE = 60.0  # seconds for what is under way; it is doomed as a rule, and ends at once


def run_to_the_end(coroutine: Coroutine) -> Any:
    """What the coroutine returns or raises; where it raises, once all that it began has ended too.

    Where a disk is full every array's write fails. orbax raises the first one's error and closes the loop; those that
    come later find it closed, or nobody to tell, and Python prints a traceback for each, past every hook, around the
    one line that says what to do.
    """
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(coroutine)
    except Exception:
        if begun := asyncio.all_tasks(loop):
            ended, _ = loop.run_until_complete(asyncio.wait(begun, timeout=PATIENCE))
            for task in ended:
                _ = task.cancelled() or task.exception()  # heard: it failed of the same, and the first one is raised
        raise
    finally:
        asyncio.set_event_loop(None)
        loop.close()
