"""Runs an experiment's list of configs and seeds, and rebuilds its table: `python -m tlx.sweep experiments/x/sweep.py`.

A sweep file is the experiment's record of intent. It defines ::

    VARIANTS = [Variant("noisy student", "configs/digits_noisy_student.py", seeds=range(5)), ...]
    FIGURES = {"teacher": "rounds.0.test_accuracy", "final": "figures.test_accuracy"}

and beside it lie `results.json`, the figures of every run, and `README.md`, whose table between the two markers is made
from it. Finished runs are skipped, an interrupted one goes on, so the same command is right after any stop.
"""

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from tlx.errors import UserError
from tlx.workdir import read_json, write_bytes, write_json

BEGIN, END = "<!-- table: made by tlx.sweep -->", "<!-- end of table -->"
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


def run_sweep(path: str | os.PathLike, *, runs: str | os.PathLike = "", dry_run: bool = False) -> list[dict[str, Any]]:
    """Runs what is not finished and rebuilds `results.json` and the table.

    Args:
      path: the sweep file.
      runs: the folder of the runs' folders; "" = `runs/experiments/<the experiment's name>`.
      dry_run: print what would run, with an estimate of the time, and change nothing.

    Returns:
      A record for each finished run.
    """
    path = pathlib.Path(path)
    sweep = _load_module(path, "VARIANTS")
    figures = getattr(sweep, "FIGURES", {"test": "figures.test_accuracy"})
    root = pathlib.Path(runs) if runs else RUNS / path.parent.name
    labels = [variant.label for variant in sweep.VARIANTS]
    if len(set(labels)) < len(labels):
        raise UserError(f"{path}: two variants have the same label: {', '.join(labels)}")
    committed = {(r["variant"], r["seed"]): r for r in _read_results(path.parent / "results.json")}
    todo = [(variant, seed) for variant in sweep.VARIANTS for seed in variant.seeds]
    if dry_run:
        _print_plan(todo, root, committed)
        return []

    from tlx import progress, recipes  # here, so that --dry_run is quick
    from tlx.preemption import Preemption

    records, failed = {}, []
    with Preemption() as preemption:
        for number, (variant, seed) in enumerate(todo, 1):
            preemption.check()  # asked for while a run was ending, which then ended
            progress.say(f"[bold]{number} of {len(todo)}: {variant.label}, seed {seed}[/bold]")
            config = make_config(variant, seed)
            try:
                result = recipes.load(config.recipe).run(config, run_folder(root, variant, seed))
            except UserError as e:
                failed.append(f"{variant.label}, seed {seed}: {e}")
                progress.say(f"[red]failed: {e}[/red]")
                continue
            records[variant.label, seed] = _record(variant, seed, result, figures)
            # After each run: a sweep that is stopped leaves the table of what it has.
            done = [records.get(key) or committed.get(key) for key in ((v.label, s) for v, s in todo)]
            write_json(path.parent / "results.json", [record for record in done if record])
            update_table(path.parent / "README.md", table(sweep.VARIANTS, list(filter(None, done)), figures))
    if failed:
        raise UserError(f"{len(failed)} of {len(todo)} runs failed, the first: {failed[0]}")
    return list(records.values())


def table(variants: Sequence[Variant], records: Sequence[Mapping[str, Any]], figures: Mapping[str, str]) -> str:
    """Markdown: a row a variant; for each column published (where any is) beside measured, mean ± sample deviation."""
    published = {column for variant in variants for column in variant.published}
    head = ["variant", "n"]
    for column in figures:
        head += [f"{column}, published"] * (column in published) + [column]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for variant in variants:
        mine = [record for record in records if record["variant"] == variant.label]
        cells = [variant.label, str(len(mine))]
        for column in figures:
            values = [r["figures"][column] for r in mine if r["figures"].get(column) is not None]
            cells += [variant.published.get(column, "-")] * (column in published) + [mean_and_spread(values)]
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """ "0.9823 ± 0.0021": mean and sample standard deviation (ddof = 1); no spread for one value."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def update_table(page: pathlib.Path, content: str, *, begin: str = BEGIN) -> None:
    """Puts the table between the page's markers, `begin` and END; a page without them gets them at its end."""
    text = page.read_text() if page.exists() else f"# {page.parent.name}\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{END}\n"
    before, _, rest = text.partition(begin)
    if END not in rest:
        raise UserError(f"{page}: {begin!r} has no {END!r} after it; put it back")
    write_bytes(page, f"{before}{begin}\n{content}\n{END}{rest.partition(END)[2]}".encode())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tlx.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", help="experiments/<name>/sweep.py")
    parser.add_argument("--runs", default="", help="where the runs' folders go (runs/experiments/<name>)")
    parser.add_argument("--dry_run", action="store_true", help="list the runs, with a time estimate")
    options = parser.parse_args(argv)
    from tlx.preemption import Preempted

    try:
        run_sweep(options.sweep, runs=options.runs, dry_run=options.dry_run)
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


def _read_results(path: pathlib.Path) -> list[dict[str, Any]]:
    return read_json(path) if path.exists() else []


def _record(variant: Variant, seed: int, result: Mapping[str, Any], figures: Mapping[str, str]) -> dict[str, Any]:
    return {
        "variant": variant.label,
        "seed": seed,
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


def _print_plan(todo: list, root: pathlib.Path, committed: Mapping) -> None:
    total, unknown = 0.0, 0
    for variant, seed in todo:
        measured = [r["seconds"] for (label, _), r in committed.items() if label == variant.label]
        seconds = statistics.median(measured) if measured else variant.seconds
        folder = run_folder(root, variant, seed)
        done = (folder / "result.json").exists()
        state = "finished" if done else "unfinished" if folder.exists() else "to run"
        guess = "?" if seconds is None else f"{seconds:.0f} s"
        print(f"{state:<11} {guess:>8}  {variant.label}, seed {seed}  ({folder})")
        if not done:
            total, unknown = total + (seconds or 0), unknown + (seconds is None)
    print(f"about {total / 60:.0f} minutes to run" + (f", and {unknown} runs of unknown length" if unknown else ""))


if __name__ == "__main__":
    sys.exit(main())
