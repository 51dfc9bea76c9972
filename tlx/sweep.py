"""Runs an experiment's list of configs and seeds, and rebuilds its table: `python -m tlx.sweep experiments/x/sweep.py`.

A sweep file is the experiment's record of intent. It defines ::

    VARIANTS = [Variant("noisy student", "configs/digits_noisy_student.py", seeds=range(5)), ...]
    FIGURES = {"teacher": "rounds.0.test_accuracy", "final": "figures.test_accuracy"}

and beside it lie `results.json`, the figures of every run, and `README.md`, whose table between the two markers is made
from it. Finished runs are skipped, an interrupted one goes on, so the same command is right after any stop. Runs go
seed by seed, so that a stop leaves whole tables of fewer seeds.

`--keep` leaves out what `results.json` has, from another machine for example, unless its config has changed since.
`--part=1/3` does the first of three shares: three processes, each with its own, do one sweep and write one table.
"""

import argparse
import dataclasses
import fcntl
import importlib.util
import os
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from tlx import compiles, memory, progress, recipes, sweep_plan
from tlx import config as config_lib
from tlx.errors import UserError
from tlx.preemption import Preempted, Preemption
from tlx.sweep_plan import Planned
from tlx.sweep_table import table, update_table
from tlx.workdir import InUse, is_finished, read_json, write_json

RUNS = pathlib.Path("runs/experiments")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table: a config, run with several seeds.

    Attributes:
      label: the row's name, unique in the sweep.
      config: path of the config file, from the project's root.
      args: what follows the colon, without the seed; "{seed}" in it is the run's, as in "teacher=runs/x-seed{seed}".
      overrides: dotted key -> value.
      seeds: one run each.
      published: column -> the paper's figure, as text.
      seconds: a guess of one run's time, for `--dry_run`, until one has been measured.
    """

    label: str
    config: str
    args: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    published: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float | None = None


def load_config(path: str | os.PathLike, arg: str = "") -> ConfigDict:
    """`get_config(arg)` of a config file."""
    return _load_module(path, "get_config").get_config(arg)


def make_config(variant: Variant, seed: int) -> ConfigDict:
    """The config of one run; raises UserError for an override whose key or type is not the config's."""
    args = variant.args.replace("{seed}", str(seed))
    config = load_config(variant.config, ",".join(filter(None, (args, f"seed={seed}"))))
    config.lock()
    try:
        config.update_from_flattened_dict(dict(variant.overrides))
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(f"{variant.label}: overrides {dict(variant.overrides)}: {e.args[0] if e.args else e}") from None
    return config


def run_folder(root: pathlib.Path, variant: Variant, seed: int) -> pathlib.Path:
    """Where a run of a sweep lies; `root` is `RUNS / <the experiment's name>` unless another was given."""
    slug = "".join(c if c.isalnum() else "_" for c in variant.label.lower())
    return root / f"{slug}-seed{seed}"


def run_sweep(
    path: str | os.PathLike,
    *,
    runs: str | os.PathLike = "",
    keep: bool = False,
    part: str = "",
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Runs what is not finished and rebuilds `results.json` and the table.

    Args:
      path: the sweep file.
      runs: the folder of the runs' folders; "" = `runs/experiments/<the experiment's name>`.
      keep: leave out runs that have a record made by today's config, or one that does not say by which.
      part: "1/3" = the first of three shares, see `tlx.sweep_plan.share`; "" = all.
      dry_run: print what would run, with an estimate of the time, and change nothing.

    Returns:
      A record for each run that this call finished, or found finished.

    Raises:
      UserError: a config or an argument is wrong, before anything is run; or runs failed, when all others have ended.
    """
    path = pathlib.Path(path)
    sweep = _load_module(path, "VARIANTS")
    figures = getattr(sweep, "FIGURES", {"test": "figures.test_accuracy"})
    root = pathlib.Path(runs) if runs else RUNS / path.parent.name
    labels = [variant.label for variant in sweep.VARIANTS]
    if len(set(labels)) < len(labels):
        raise UserError(f"{path}: two variants have the same label: {', '.join(labels)}")
    rows = [[_plan(variant, seed, root) for seed in variant.seeds] for variant in sweep.VARIANTS]
    todo = sweep_plan.share(sweep_plan.in_order(rows), part)
    committed = _read_results(path.parent)
    if keep:
        todo = sweep_plan.left(todo, committed)
    if dry_run:
        _print_plan(todo, committed, {variant.label: variant.seconds for variant in sweep.VARIANTS})
        return []

    records, failed, skipped = [], [], 0
    with Preemption() as preemption:
        for number, run in enumerate(todo, 1):
            preemption.check()  # asked for while a run was ending, which then ended
            progress.say(f"[bold]{number} of {len(todo)}: {run.label}, seed {run.seed}[/bold]")
            missing = [str(other.folder) for row in rows for other in run.needs(row) if not is_finished(other.folder)]
            if missing:
                skipped += 1
                progress.say(f"[yellow]skipped: it needs {missing[0]}, which is not finished[/yellow]")
                continue
            try:
                result = recipes.load(run.config["recipe"]).run(run.config, run.folder)
            except InUse as e:
                skipped += 1
                progress.say(f"[yellow]skipped: {e}[/yellow]")
                continue
            except UserError as e:
                failed.append(f"{run.label}, seed {run.seed}: {e}")
                progress.say(f"[red]failed: {e}[/red]")
                continue
            records.append(_record(run, result, figures))
            # After each run: a sweep that is stopped leaves the table of what it has.
            _publish(path.parent, records[-1], variants=sweep.VARIANTS, figures=figures)
    if skipped:
        progress.say(f"[yellow]{skipped} of {len(todo)} runs skipped; the same command goes on with them[/yellow]")
    if failed:
        raise UserError(f"{len(failed)} of {len(todo)} runs failed, the first: {failed[0]}")
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tlx.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", help="experiments/<name>/sweep.py")
    parser.add_argument("--runs", default="", help="where the runs' folders go (runs/experiments/<name>)")
    parser.add_argument("--keep", action="store_true", help="run nothing again that results.json has")
    parser.add_argument("--part", default="", help="1/3 = the first of three shares of the runs")
    parser.add_argument("--dry_run", action="store_true", help="list the runs, with a time estimate")
    options = vars(parser.parse_args(argv))
    if not options["dry_run"]:
        memory.keep()
        compiles.keep_on_disk()
    try:
        run_sweep(options.pop("sweep"), **options)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except Preempted as e:
        print(f"stopped by {e}; the same command goes on", file=sys.stderr)
        return e.exit_code
    return 0


def _load_module(path: str | os.PathLike, wanted: str) -> ModuleType:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a Python file that defines {wanted}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, wanted):
        raise UserError(f"{path} defines no {wanted}")
    return module


def _plan(variant: Variant, seed: int, root: pathlib.Path) -> Planned:
    config = make_config(variant, seed)
    config = config_lib.resolve(config, recipes.load(config.recipe).default_config())
    return Planned(variant.label, seed, config_lib.to_dict(config), run_folder(root, variant, seed))


def _publish(
    folder: pathlib.Path, record: dict[str, Any], *, variants: Sequence[Variant], figures: Mapping[str, str]
) -> None:
    """Adds a record to `results.json` and the table, and keeps those that other processes added meanwhile."""
    handle = os.open(folder, os.O_RDONLY)  # the lock is on the folder itself, so no file of its own is left behind
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = _read_results(folder) | {(record["variant"], record["seed"]): record}
        keys = [(variant.label, seed) for variant in variants for seed in variant.seeds]
        done = [found[key] for key in keys if key in found]
        write_json(folder / "results.json", done)
        update_table(folder / "README.md", table(variants, done, figures))
    finally:
        os.close(handle)


def _read_results(folder: pathlib.Path) -> dict[tuple[str, int], dict[str, Any]]:
    path = folder / "results.json"
    records = read_json(path) if path.exists() else []
    if not isinstance(records, list) or not all(map(_is_record, records)):
        raise UserError(f"{path} is no list of a sweep's records: restore it, or delete it and run the sweep again")
    return {(record["variant"], record["seed"]): record for record in records}


def _is_record(record: Any) -> bool:
    """Whether it has what `_record` writes, as far as anybody reads it back."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("variant"), str)
        and type(record.get("seed")) is int
        and isinstance(record.get("config", ""), str)
        and isinstance(record.get("seconds"), int | float)
        and 0 <= record["seconds"] < 1e9
        and isinstance(record.get("figures"), dict)
        and all(isinstance(value, int | float | None) for value in record["figures"].values())
    )


def _record(run: Planned, result: Mapping[str, Any], figures: Mapping[str, str]) -> dict[str, Any]:
    return {
        "variant": run.label,
        "seed": run.seed,
        "config": run.digest,
        "figures": {column: _look_up(result, dotted) for column, dotted in figures.items()},
        "seconds": round(result["time"]["total"], 1),
        "digest": result["selected"]["digest"],
        "versions": result["versions"],
        "git": result["git"],
        "devices": result["devices"],
    }


def _look_up(tree: Any, dotted: str) -> Any:
    """ "rounds.0.test_accuracy" in a result; None where a run has no such figure (a sweep may mix recipes)."""
    for key in dotted.split("."):
        if isinstance(tree, list) and key.lstrip("-").isdigit():
            tree = tree[int(key)] if -len(tree) <= int(key) < len(tree) else None
        else:
            tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _print_plan(todo: Sequence[Planned], committed: Mapping, guesses: Mapping[str, float | None]) -> None:
    total, unknown = 0.0, 0
    for run in todo:
        measured = [r["seconds"] for (label, _), r in committed.items() if label == run.label]
        seconds = statistics.median(measured) if measured else guesses[run.label]
        done = is_finished(run.folder)
        state = "finished" if done else "unfinished" if run.folder.exists() else "to run"
        guess = "?" if seconds is None else f"{seconds:.0f} s"
        print(f"{state:<11} {guess:>8}  {run.label}, seed {run.seed}  ({run.folder})")
        if not done:
            total, unknown = total + (seconds or 0), unknown + (seconds is None)
    print(f"about {total / 60:.0f} minutes to run" + (f", and {unknown} runs of unknown length" if unknown else ""))


if __name__ == "__main__":
    sys.exit(main())
