"""Re-entry: a self-training run begun anew from one of its rounds, with another config, in a copy of its folder.

    cp -r runs/x runs/y
    python -m tlx.main --config=configs/x.py --workdir=runs/y --from_round=2 --config.student.train.steps=2000

What the rounds before it made stays, and counts as made by the config that made it; what was made from it on is
forgotten. `reentry.json` says that this was done:

    {"from_round": 2, "config": sha256 of the config, "changes": {dotted key: [old, new]},
     "kept": [{"before": 2, "config": {...}}]}    the rounds before 2 are of this config

It is written when all is forgotten, and `config.json` after it. So the same command ends a re-entry that was killed,
and goes on with one that was not. Nor can a kill mix two runs: until config.json is replaced the folder is an
unfinished run of the old config, every part of it whole or absent.
"""

import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from tlx import ledger
from tlx.errors import UserError
from tlx.metrics import MetricWriter
from tlx.record import flatten
from tlx.workdir import RESTORE, as_read, canonical, read_json, remove, write_json

Config = Mapping[str, Any]
# Of these the whole run is made: with another one the rounds that are kept would be another run's.
FIXED = ("recipe", "seed", "data", "unlabeled", "teacher")
# What a run makes of all its rounds together. The result goes first: a run that has one is finished.
_WHOLE = ("result.json", "report.html", "gallery.npz", "plots", "export")


def check(workdir: pathlib.Path, config: Config, from_round: int) -> None:
    """Raises UserError unless the run in this folder can be begun anew, with `config`, from this round on.

    The rounds before it must be finished, of the same data, seed and teacher, and in the ledger as they were written.
    """
    if from_round < 1:
        raise UserError(f"--from_round={from_round}: rounds count from 1 (0 = not at all)")
    if not (workdir / "config.json").exists():
        raise UserError(f"--from_round={from_round}: workdir {workdir} holds no run; copy one there first (cp -r)")
    if done(workdir, config, from_round):
        return
    changes = _changes(read_json(workdir / "config.json"), config)
    for key, (old, new) in changes.items():
        if key.split(".")[0] in FIXED:
            raise UserError(
                f"--from_round={from_round} keeps rounds that were made with {key} = {old!r}, this config has {new!r}: "
                "set it back, or choose another --workdir"
            )
    if not (workdir / "phases" / "teacher.json").exists():
        raise UserError(f"--from_round={from_round}: the first teacher of the run in {workdir} is not finished")
    finished = 0
    while (workdir / "phases" / f"round_{finished + 1}.json").exists():
        finished += 1
    if from_round > finished + 1:
        has = {0: "no round", 1: "round 1 alone"}.get(finished, f"rounds 1 to {finished}")
        raise UserError(
            f"--from_round={from_round}: the run in {workdir} has finished {has}, so {finished + 1} is the last that "
            "it can be begun anew from"
        )
    if from_round > config["rounds"]:
        raise UserError(
            f"--from_round={from_round}: this config has rounds = {config['rounds']}; raise it, or name an "
            "earlier round"
        )
    ledger.read(workdir / "ledger.json", before=from_round)


def done(workdir: pathlib.Path, config: Config, from_round: int) -> bool:
    """Whether this re-entry is behind us."""
    mark = _mark(workdir)
    same = (mark.get("from_round"), mark.get("config")) == (from_round, _sha256(config))
    return same and read_json(workdir / "config.json") == as_read(config)


def enter(workdir: pathlib.Path, config: Config, from_round: int) -> bool:
    """Forgets the rounds from this one on and makes the folder an unfinished run of `config`; False if that is done.

    Raises:
      UserError: see `check`; nothing is touched then.
    """
    check(workdir, config, from_round)
    if done(workdir, config, from_round):
        return False
    old = read_json(workdir / "config.json")
    made_by = kept(workdir, config, from_round)
    _forget(workdir, from_round, old["rounds"])
    mark = {
        "from_round": from_round,
        "config": _sha256(config),
        "changes": _changes(made_by[-1]["config"], config),
        "kept": made_by,
    }
    write_json(workdir / "reentry.json", mark, seal=True)
    write_json(workdir / "config.json", config)
    return True


def kept(workdir: pathlib.Path, config: Config, from_round: int) -> list[dict[str, Any]]:
    """The configs of rounds that were made by another one than `config.json`, or will have been after this re-entry.

    Returns:
      [{"before": round, "config": {...}}], by rising round: rounds before it, unless before an earlier one, are of that
      config. Empty for a run that was never begun anew.
    """
    earlier = _mark(workdir)["kept"]
    if not from_round or done(workdir, config, from_round):
        return earlier
    last = config_of(earlier, from_round - 1) or read_json(workdir / "config.json")
    return [*(part for part in earlier if part["before"] < from_round), {"before": from_round, "config": last}]


def config_of(kept: Iterable[Mapping[str, Any]], number: int) -> dict[str, Any] | None:
    """The config that made round `number`, as `kept` has it; None: the run's own."""
    return next((part["config"] for part in kept if number < part["before"]), None)


def _forget(workdir: pathlib.Path, first: int, last: int) -> None:
    """Removes what these rounds made; a phase's mark before its checkpoints, which it says are there."""
    phases = [f"round_{number}" for number in range(first, last + 1)]
    for name in _WHOLE:
        remove(workdir / name)
    ledger.forget(workdir / "ledger.json", first)
    for phase in phases:
        remove(workdir / "phases" / f"{phase}.json")
    for phase in phases:
        for path in sorted((workdir / "pseudo_labels").glob(f"{phase}.*")):
            remove(path)
        remove(workdir / "checkpoints" / phase)
        remove(workdir / "tensorboard" / phase)
        MetricWriter(workdir).rewind(phase, 0)


def _changes(old: Config, new: Config) -> dict[str, list[Any]]:
    """{dotted key: [old, new]} of what differs."""
    old, new = flatten(as_read(old)), flatten(as_read(new))
    both = {key: [old.get(key, "(absent)"), new.get(key, "(absent)")] for key in [*old, *new]}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _mark(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / "reentry.json"
    mark = read_json(path) if path.exists() else {"kept": []}
    parts = mark.get("kept") if isinstance(mark, dict) else None
    if not isinstance(parts, list) or not all(
        isinstance(p, dict) and type(p.get("before")) is int and isinstance(p.get("config"), dict) for p in parts
    ):
        raise UserError(f"{path} does not say which rounds were kept, and of which config: {RESTORE}")
    return mark


def _sha256(config: Config) -> str:
    return hashlib.sha256(canonical(config).encode()).hexdigest()
