"""Free memory goes back, and not too often."""

import ctypes

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
