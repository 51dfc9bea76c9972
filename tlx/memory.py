"""The process's memory: one heap that keeps what a step frees, and gives it back to the system now and then.

Left to itself glibc gives every large buffer back at once, and the next step gets it anew, page after page, each zeroed
by the system: a fourth of the time of an EfficientNet-Lite0's step on a CPU (experiments/speed). And it has a heap for
every few threads; checkpoints are written by new threads each time, and what they freed stayed, scattered over sixteen
heaps: a long run grew by 14 MB an hour (experiments/soak).
"""

import atexit
import ctypes
import gc
import os
import time

EVERY = 60.0  # seconds: it takes some milliseconds, and what goes back must be fetched again
# mallopt's names and values, of <malloc.h>: one heap; all of it there, no buffers beside it; its free end stays.
_HEAPS, _BUFFERS, _END = (-8, 1), (-4, 0), (-1, -1)
_last = time.monotonic()


def keep() -> None:
    """Asks for that heap, for the whole process: for commands, before they start threads (jax does).

    The heap stays as it is where the C library is not glibc, or where the environment says how it is to allocate. At
    its end the process leaves its objects to the system: Python's last collection takes 0.9 s.
    """
    atexit.register(gc.freeze)  # run last: what was registered after it has its say
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for name, value in (_HEAPS, _BUFFERS, _END):
            mallopt(name, value)


def trim() -> None:
    """Gives free memory back, at most once in EVERY seconds; does nothing where the C library is not glibc."""
    global _last
    if time.monotonic() < _last + EVERY:
        return
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)
    _last = time.monotonic()
