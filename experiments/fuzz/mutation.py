"""Hypothesis strategies that damage something valid: bytes, and JSON values."""

import copy
import json
import re
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What a length, a shape, an offset or a count may be set to.
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**40)
NUMBERS += (2**63 - 1, 2**64 - 1)
NUMBERS += (-(2**63), 10**30)

# What may stand in a record where something else belongs.
ODD = (
    *(None, True, "", "x", "$x$ \\frac", "../../elsewhere", "/", "a\x00b", "\ud800", "two\nlines", []),
    *({}, [[]], [None]),
    *(0, -1, 0.5, 1e308, 2**31, 2**63, 10**400, float("nan"), float("inf"), "9" * 5000, [1, "x"], {"name": 1}),
    *([[1, 2], [3]], "x" * 5000),
)


def damaged(*samples: bytes, most: int = 3) -> st.SearchStrategy[bytes]:
    """One of the samples after up to `most` edits: bits flipped, cut off, parts removed, inserted, doubled, taken from
    another sample, lengths and numbers in text set to extremes. Half of the places are in the first 256 bytes.
    """
    place = st.tuples(st.sampled_from(("start", "end", "any", "any")), st.integers(0, 2**20))
    edit = st.tuples(st.sampled_from(tuple(_EDITS)), place, st.integers(0, 2**20), st.binary(min_size=1, max_size=8))
    return st.builds(
        lambda sample, edits: _edit(sample, edits, samples), st.sampled_from(samples), st.lists(edit, max_size=most)
    )


def _edit(content: bytes, edits: Sequence[tuple], samples: Sequence[bytes]) -> bytes:
    for kind, (side, at), number, some in edits:
        size = len(content)
        place = {"start": at % min(size + 1, 256), "end": size - at % min(size + 1, 128), "any": at % (size + 1)}[side]
        content = _EDITS[kind](content, min(max(place, 0), size), number, some, samples)
    return content


def _flip(content, place, number, some, samples):
    return content[:place] + bytes(b ^ (1 << number % 8) for b in content[place : place + 1]) + content[place + 1 :]


def _extreme(content, place, number, some, samples):
    """A length in a header, of 2, 4 or 8 bytes, in either order."""
    form = ("<H", ">H", "<I", ">I", "<Q", ">Q")[number % 6]
    width = struct.calcsize(form)
    value = NUMBERS[number // 6 % len(NUMBERS)] % 256**width
    return content[:place] + struct.pack(form, value) + content[place + width :]


def _decimal(content, place, number, some, samples):
    """A number in text, the next one after the place."""
    found = re.compile(rb"\d+").search(content, place)
    new = str(NUMBERS[number % len(NUMBERS)]).encode()
    return content[: found.start()] + new + content[found.end() :] if found else content


def _splice(content, place, number, some, samples):
    other = samples[number % len(samples)]
    return content[:place] + other[number % (len(other) + 1) :]


_EDITS = {
    "flip": _flip,
    "extreme": _extreme,
    "decimal": _decimal,
    "splice": _splice,
    "cut off": lambda content, place, number, some, samples: content[:place],
    "remove": lambda content, place, number, some, samples: content[:place] + content[place + 1 + number % 64 :],
    "insert": lambda content, place, number, some, samples: content[:place] + some + content[place:],
    "overwrite": lambda content, place, number, some, samples: content[:place] + some + content[place + len(some) :],
    "double": lambda content, place, number, some, samples: (
        content[:place] + 2 * content[place : place + 1 + number % 64] + content[place + 1 + number % 64 :]
    ),
}


def records(value: Any, *, lines: bool = False) -> st.SearchStrategy[bytes]:
    """The text of a JSON value (or, with `lines`, of a list, one entry a line) in which something was replaced or
    removed; or the text itself damaged; or one that is nested very deep.
    """
    text = lambda value: "\n".join(map(json.dumps, value)) if lines and isinstance(value, list) else json.dumps(value)
    whole = text(value).encode()
    edit = st.tuples(st.integers(0, 2**20), st.sampled_from(range(len(ODD) + 2)), st.integers(0, 2**20))
    edited = st.lists(edit, min_size=1, max_size=2).map(lambda edits: text(_edit_record(value, edits)).encode())
    deep = st.sampled_from((b"[" * 100_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500, b"1" * 5000, b"", b"null"))
    return st.one_of(edited, edited, edited, edited, damaged(whole), deep)


def _edit_record(value: Any, edits: Sequence[tuple[int, int, int]]) -> Any:
    holder = [copy.deepcopy(value)]
    for at, what, other in edits:
        spots = list(_spots(holder))
        container, key = spots[at % len(spots)]
        if what < len(ODD):
            container[key] = copy.deepcopy(ODD[what])
        elif what == len(ODD) and container is not holder:
            del container[key]
        else:  # something from elsewhere in the record
            source, name = spots[other % len(spots)]
            container[key] = copy.deepcopy(source[name])
    return holder[0]


def _spots(container: Any) -> Any:
    for key in list(container if isinstance(container, dict) else range(len(container))):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _spots(container[key])
