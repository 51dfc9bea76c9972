"""Which runs of a sweep are run, in what order, and by whom, when several processes or machines share them.

A run whose config names the folder of another, its teacher's say, *needs* it. What is needed comes first, stays in the
same share, and is run where it is missing.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.markup

from tlx import progress
from tlx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run to be: the row's label and the seed; the resolved config, as plain dicts; and the run's folder."""

    label: str
    seed: int
    config: dict[str, Any]
    folder: pathlib.Path

    @property
    def key(self) -> tuple[str, int]:
        """What the run's record in results.json is known by."""
        return self.label, self.seed

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the sha256 of the config's JSON; a recipe that gains a key changes it."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]

    def needs(self, runs: Iterable["Planned"]) -> list["Planned"]:
        """Those of `runs` whose folder is a value in this run's config."""
        values = set(_strings(self.config))
        return [run for run in runs if str(run.folder) in values]


def in_order(rows: Sequence[Sequence[Planned]]) -> list[Planned]:
    """Every row's first run, then every row's second, ...: what was stopped has whole tables of fewer seeds.

    A run comes before those that need it, also where its row is further on with its seeds.
    """
    everything = [run for row in rows for run in row]
    ordered: dict[tuple[str, int], Planned] = {}

    def add(run: Planned) -> None:
        for needed in run.needs(everything):
            if needed.key not in ordered and needed is not run:
                add(needed)
        ordered.setdefault(run.key, run)

    for place in range(max(map(len, rows), default=0)):
        for row in rows:
            if place < len(row):
                add(row[place])
    return list(ordered.values())


def share(runs: Sequence[Planned], part: str) -> list[Planned]:
    """Every third run from the second on for "2/3"; all for "".

    A run that needs others goes where the first of these went. Whatever else it needs may be in another share.

    Raises:
      UserError: `part` is not of this form.
    """
    if not part:
        return list(runs)
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--part is {part!r}: write 1/3, 2/3 or 3/3 for the shares of three processes")
    shares: dict[tuple[str, int], int] = {}
    dealt = 0
    for run in runs:
        needed = run.needs(runs)
        shares[run.key] = shares[needed[0].key] if needed else dealt % int(count)
        dealt += not needed
    return [run for run in runs if shares[run.key] == int(number) - 1]


def left(runs: Sequence[Planned], records: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[Planned]:
    """The runs without a record, those whose record is of another config, which is said, and what these need.

    Args:
      runs: in an order in which what is needed comes first.
      records: by key; one without "config" does not say what made it, and counts as made by today's.
    """
    chosen: list[Planned] = []
    for run in reversed(runs):
        made_by = records[run.key].get("config", run.digest) if run.key in records else None
        if made_by not in (None, run.digest):
            was = rich.markup.escape(made_by)
            progress.say(f"{run.label}, seed {run.seed}: run again, its config was {was} and is {run.digest}")
        if made_by != run.digest or any(other.needs([run]) for other in chosen):
            chosen.append(run)
    return chosen[::-1]


def _strings(value: Any) -> Iterator[str]:
    """All strings among the values of a config."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | tuple | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
