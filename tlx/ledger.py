"""The ledger of a self-training run: its generations, who taught whom, and what became of each. `ledger.json`.

An entry is a generation, in their order, as the recipe writes it:

    {"generation": 1, "phase": "round_1", "role": "student 1", "taught_by": "teacher", "teacher_digest": ...,
     "digest": ..., "model": {options}, "parameters": ..., "start": "fresh" or "teacher",
     "data": {"labeled", "unlabeled", "drawn": images, "fingerprint", "pseudo_labels": sha256 of their file},
     "noise": {options}, "options": {"pseudo_label", "consistency", "loss"}, as the round's config has them,
     "figures": {name: value}, "promoted": ..., "reason": ..., "p_value": ...}

It holds no times and no names of machines: a run that was interrupted makes the same bytes as one that was not.

Each entry has a seal, the sha256 of the seal before it and of all that the entry says. So an entry that was changed,
removed or moved by hand is found by the first one whose seal no longer fits. (That the last entries are gone is not
found, nor needs to be: a run that goes on writes them again. Nor is this a signature: who means to can seal anew.)
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from tlx.errors import UserError
from tlx.workdir import as_read, canonical, first_difference, read_json, write_json

Entry = dict[str, Any]


def read(path: pathlib.Path, *, before: int | None = None) -> list[Entry]:
    """The entries, each with its "seal"; none where there is no file.

    Args:
      path: of the ledger.
      before: a generation: only the earlier ones are looked at, whatever was done to the rest.

    Raises:
      UserError: not JSON, no ledger, or an entry that was changed, removed or moved since it was written.
    """
    entries = _load(path)[:before]
    seal = ""
    for number, entry in enumerate(entries):
        said = {name: value for name, value in entry.items() if name != "seal"}
        seal = _seal(seal, said)
        if entry.get("seal") != seal or entry.get("generation") != number:
            raise UserError(
                f"{path}: entry {number} ({entry.get('role', 'nameless')}) does not fit its seal: it, or the order of "
                f"the entries, was changed by hand: {_remedy(number)}"
            )
    return entries


def add(path: pathlib.Path, entry: Mapping[str, Any]) -> None:
    """Appends a generation and its seal. One that is there already, and says the same, is left as it is.

    (A run that goes on walks through its story from the beginning, and comes by each generation again.)

    Raises:
      UserError: the ledger is damaged, or holds another generation of this number.
      ValueError: the generation is not the next one.
    """
    entries, number = read(path), entry["generation"]
    if number > len(entries):
        raise ValueError(f"{path} has {len(entries)} generations, and {number} is not the next")
    sealed = as_read({**entry, "seal": _seal(entries[number - 1]["seal"] if number else "", entry)})
    if number == len(entries):
        write_json(path, [*entries, sealed])
    elif sealed["seal"] != entries[number]["seal"]:
        key, old, new = first_difference(entries[number], sealed, f"generation {number}")
        raise UserError(f"{path} has {key} = {old!r}, and now it is {new!r}: {_remedy(number)}")


def forget(path: pathlib.Path, generation: int) -> None:
    """Drops this generation and the later ones, whatever was done to them.

    Raises:
      UserError: an earlier entry was changed, removed or moved since it was written.
    """
    kept = read(path, before=generation)
    if len(kept) < len(_load(path)):
        write_json(path, kept)


def _load(path: pathlib.Path) -> list[Entry]:
    entries = read_json(path) if path.exists() else []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} is no list of entries: {_remedy(0)}")
    return entries


def _remedy(number: int) -> str:
    again = f"begin anew from there with --from_round={number}, " if number else ""
    return f"restore the file, {again}or start again with --overwrite"


def _seal(previous: str, entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{previous}{canonical(entry)}".encode()).hexdigest()
