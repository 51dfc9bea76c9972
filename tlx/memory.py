"""The process's memory: free pieces go back to the system now and then.

glibc keeps a heap for every few threads, and checkpoints are written by new threads each time: what they free stays,
scattered over sixteen heaps by a few bytes that live on. A long run grew by 14 MB an hour (measured, experiments/soak).
"""

import ctypes
import time

EVERY = 60.0  # seconds: it takes some milliseconds, and what goes back must be fetched again
_last = time.monotonic()


def trim() -> None:
    """Gives free memory back, at most once in EVERY seconds; does nothing where the C library is not glibc."""
    global _last
    if time.monotonic() < _last + EVERY:
        return
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
    _last = time.monotonic()
