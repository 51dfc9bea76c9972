"""The ledger: seals by hand, the same generation twice, tampering, forgetting."""

import hashlib
import json

import numpy as np
import pytest

from tlx import ledger
from tlx.errors import UserError


def entry(generation, **changes):
    role = f"student {generation}" if generation else "teacher"
    return {"generation": generation, "role": role, "figures": {"validation_accuracy": 0.5}, "promoted": True} | changes


@pytest.fixture
def path(tmp_path):
    """Of a ledger with three generations."""
    for generation in range(3):
        ledger.add(tmp_path / "ledger.json", entry(generation))
    return tmp_path / "ledger.json"


def change(path, edit):
    """Does `edit` to the list in the file."""
    entries = json.loads(path.read_text())
    edit(entries)
    path.write_text(json.dumps(entries))


def test_no_file_is_no_generation(tmp_path):
    assert ledger.read(tmp_path / "ledger.json") == []
    ledger.forget(tmp_path / "ledger.json", 1)
    assert not (tmp_path / "ledger.json").exists()


def test_seals_by_hand(tmp_path):
    path, seal = tmp_path / "ledger.json", ""
    for generation in range(2):
        ledger.add(path, {"generation": generation, "b": np.float64(0.5), "a": (1, None)})
        text = f'{seal}{{"a":[1,null],"b":0.5,"generation":{generation}}}'
        seal = hashlib.sha256(text.encode()).hexdigest()
        assert ledger.read(path)[generation] == {"generation": generation, "b": 0.5, "a": [1, None], "seal": seal}


def test_the_same_generation_again_changes_nothing(path):
    before = path.read_bytes(), path.stat().st_mtime_ns
    for generation in range(3):
        ledger.add(path, dict(reversed(entry(generation).items())))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_another_generation_of_the_same_number(path):
    with pytest.raises(
        UserError, match=r"generation 1.figures.validation_accuracy = 0.5, and now it is 0.6.*--from_round=1"
    ):
        ledger.add(path, entry(1, figures={"validation_accuracy": 0.6}))
    with pytest.raises(ValueError, match="3 generations, and 4 is not the next"):
        ledger.add(path, entry(4))


@pytest.mark.parametrize(
    ("edit", "named", "remedy"),
    [
        (lambda e: e[0].update(promoted=False), r"entry 0 \(teacher\)", "restore the file, or start again"),
        (lambda e: e[1]["figures"].update(validation_accuracy=0.9), r"entry 1 \(student 1\)", "--from_round=1"),
        (lambda e: e[2].update(note="good"), r"entry 2 \(student 2\)", "--from_round=2"),
        (lambda e: e[2].pop("seal"), r"entry 2 \(student 2\)", "--overwrite"),
        (lambda e: e.pop(1), r"entry 1 \(student 2\)", "--from_round=1"),
        (lambda e: e.pop(0), r"entry 0 \(student 1\)", "--overwrite"),
        (lambda e: e.reverse(), r"entry 0 \(student 2\)", "--overwrite"),
        (lambda e: e.insert(1, dict(e[0])), r"entry 1 \(teacher\)", "--from_round=1"),
        (lambda e: e.append(3), "is no list of entries", "--overwrite"),
    ],
    ids=["first", "figure", "added", "unsealed", "removed", "first removed", "reversed", "copied", "no entry"],
)
def test_what_was_done_by_hand_is_found(path, edit, named, remedy):
    change(path, edit)
    for call in (ledger.read, lambda path: ledger.add(path, entry(3))):
        with pytest.raises(UserError, match=f"{named}.*{remedy}"):
            call(path)


def test_forget(path):
    whole = ledger.read(path)
    ledger.forget(path, 3)
    assert ledger.read(path) == whole
    change(path, lambda e: e[1].update(promoted=False))
    with pytest.raises(UserError, match="entry 1"):
        ledger.forget(path, 2)
    ledger.forget(path, 1)  # what is forgotten may be damaged
    assert ledger.read(path) == whole[:1]
    for generation in (1, 2):
        ledger.add(path, entry(generation))
    assert ledger.read(path) == whole
