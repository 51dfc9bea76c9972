"""Every reader and the config parser under damaged input, for a fixed time: what is read, refused, or a finding.

    PYTHONPATH=/tmp/atheris-site python -m experiments.fuzz.campaign --seconds=30 --seed=0

Each target runs in a process of its own, so that one that dies (of a crash in a library, say) is a finding, too: all of
`targets.py` by hypothesis, then those of `fed.py` by atheris, where that is installed. Writes `results.json` and the
tables in `README.md`, and the first input of each finding into `runs/fuzz/`; ends with 1 if there are findings. What
--engine or --targets leaves out keeps its results.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from experiments.fuzz import process
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
INPUTS = pathlib.Path("runs/fuzz")
MODULES = {"hypothesis": "experiments.fuzz.campaign", "atheris": "experiments.fuzz.coverage"}
BEGIN = "<!-- table of {engine}: made by experiments.fuzz.campaign -->"
_START = 15  # seconds that a process takes to start where nothing else runs; about so, and of processor time


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.fuzz.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=MODULES, help="both if left out")
    parser.add_argument("--targets", default="", help="names, separated by commas; all if left out")
    for name in ("target", "folder", "into"):  # of a process for one target: its name, its folder, its record
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.into:
        _one(options.target, pathlib.Path(options.folder), options.seconds, options.seed, pathlib.Path(options.into))
        return 0
    from experiments.fuzz.fed import FED
    from experiments.fuzz.targets import TARGETS

    known = {"hypothesis": list(TARGETS), "atheris": list(FED)}
    names = [*TARGETS, *FED]
    wanted = options.targets.split(",") if options.targets else names
    if unknown := [name for name in wanted if name not in names]:
        print(f"error: unknown target {unknown[0]!r}: use {', '.join(names)}", file=sys.stderr)
        return 2
    plan = [(engine, name) for engine in MODULES for name in known[engine] if name in wanted]
    plan = [(engine, name) for engine, name in plan if options.engine in (None, engine)]
    if any(engine == "atheris" for engine, _ in plan) and not importlib.util.find_spec("atheris"):
        print("atheris is not installed, and its part is left out: experiments/fuzz/coverage.py has the command")
        plan = [(engine, name) for engine, name in plan if engine != "atheris"]
    print(f"{len(plan)} targets, about {len(plan) * (options.seconds + _START) / 60:.0f} minutes", flush=True)
    found = 0
    for engine, name in plan:
        record = process.run(MODULES[engine], name, seconds=options.seconds, seed=options.seed)
        found += len(record["findings"])
        _show(engine, name, record)
        _write(engine, list(known[engine]), name, record)
    return 1 if found else 0


def _show(engine: str, name: str, record: Mapping[str, Any]) -> None:
    """A line, and one for each finding, whose input is taken from the record into a file."""
    counts = f"{record['tried']:7,} tried, {record['refused']:7,} refused, {len(record['findings'])} findings"
    print(f"{engine:10} {name:18} {counts}", flush=True)
    for number, finding in enumerate(record["findings"]):
        INPUTS.mkdir(parents=True, exist_ok=True)
        (INPUTS / f"{engine}-{name}-{number}.txt").write_text(finding.pop("example", ""), errors="replace")
        print(f"    {finding['count']:5} x {finding['where']}: {finding['said']}", flush=True)


def _write(engine: str, order: list[str], name: str, record: Mapping[str, Any]) -> None:
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    of = results.get(engine, {}) | {name: record}
    results[engine] = {n: of[n] for n in order if n in of}
    path.write_text(json.dumps(results, indent=1) + "\n")
    update_table(HERE / "README.md", table(results[engine]), begin=BEGIN.format(engine=engine))


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a target, and their sum; atheris's with the edges that were reached by the seeds and at last."""
    columns = ("tried", "read", "refused")
    edges = any("edges" in record for record in results.values())
    head = ["target", *columns, "findings", "changes around", "kinds of messages", "seconds"]
    head += ["edges, seeds", "edges, last"] if edges else []
    rows = []
    for name, r in results.items():
        row = [name, *(f"{r[column]:,}" for column in columns), str(len(r["findings"])), str(r["changed_around"])]
        row += [str(r["kinds"]), f"{r['seconds']:.0f}"]
        rows.append(row + ([f"{n:,}" for n in r.get("edges", (0, 0))] if edges else []))
    total = lambda value: f"{sum(value(r) for r in results.values()):,.0f}"
    last = ["all", *(total(lambda r, c=column: r[c]) for column in columns), total(lambda r: len(r["findings"]))]
    last += [total(lambda r: r["changed_around"]), "", total(lambda r: r["seconds"])]
    rows.append(last + ["", ""] * edges)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _one(name: str, folder: pathlib.Path, seconds: float, seed: int, into: pathlib.Path) -> None:
    from experiments.fuzz.tally import keeper, run_target
    from experiments.fuzz.targets import TARGETS

    tally = run_target(TARGETS[name], folder, seconds=seconds, seed=seed, each=keeper(into))
    into.write_text(json.dumps(tally.record()))


if __name__ == "__main__":
    sys.exit(main())
