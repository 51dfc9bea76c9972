"""Free memory goes back, and not too often."""

import ctypes
import os
import subprocess
import sys

import pytest

from tlx import memory


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_at_most_once_in_a_while(monkeypatch):
    trimmed, now = [], [1000.0]

    class Library:
        def __init__(self, name):
            self.malloc_trim = trimmed.append

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory, "_last", now[0])
    for now[0], times in ((1059.0, 0), (1061.0, 1), (1062.0, 1), (1122.0, 2)):
        memory.trim()
        assert len(trimmed) == times


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(memory, "_last", -memory.EVERY)
    memory.trim()
    assert memory._last > 0


FAULTS = """
import ctypes, resource
from tlx import memory
memory.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    buffer = libc.malloc(100 * 2**20)
    ctypes.memset(buffer, 1, 100 * 2**20)
    libc.free(buffer)
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
@pytest.mark.parametrize(("said", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_a_large_buffer_that_was_freed_is_there_for_the_next(said, kept):
    """25,600 pages are otherwise fetched anew at each step; where the environment has its own settings, they hold."""
    bare = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    found = subprocess.run([sys.executable, "-c", FAULTS], env=bare | said, capture_output=True, text=True, check=True)
    assert (int(found.stdout) < 100) == kept
