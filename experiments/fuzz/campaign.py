"""Every reader and the config parser under damaged input, for a fixed time: what is read, refused, or a finding.

    python -m experiments.fuzz.campaign --seconds=600 --seed=0 [--targets=npz,images]

Each target runs in a process of its own, so that one that dies (of a crash in a library, say) is a finding, too.
Writes `results.json` and the table in `README.md`, and the first input of each finding into `runs/fuzz/`; ends with 1
if there are findings. With --targets the others' results stay as they are.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
INPUTS = pathlib.Path("runs/fuzz")
BEGIN = "<!-- table: made by experiments.fuzz.campaign -->"
_GRACE = 120.0  # seconds that a process has to start, and to end its last input


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.fuzz.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default="", help="names, separated by commas; all if left out")
    parser.add_argument("--into", default="", help=argparse.SUPPRESS)  # of a process for one target: its record
    options = parser.parse_args(argv)
    if options.into:
        _one(options.targets, options.seconds, options.seed, pathlib.Path(options.into))
        return 0
    from experiments.fuzz.targets import TARGETS

    names = options.targets.split(",") if options.targets else list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"error: unknown target {unknown[0]!r}: use {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    path, found = HERE / "results.json", 0
    for name in names:
        record = _in_a_process(name, options.seconds / len(names), options.seed)
        found += len(record["findings"])
        print(
            f"{name:20} {record['tried']:7,} tried, {record['refused']:7,} refused, {len(record['findings'])} findings"
        )
        for number, finding in enumerate(record["findings"]):
            INPUTS.mkdir(parents=True, exist_ok=True)
            (INPUTS / f"{name}-{number}.txt").write_text(finding.pop("example", ""), errors="replace")
            print(f"    {finding['count']:5} x {finding['where']}: {finding['said']}", flush=True)
        results = json.loads(path.read_text()) if path.exists() else {}
        results[name] = record | {"seed": options.seed}
        path.write_text(json.dumps({n: results[n] for n in TARGETS if n in results}, indent=1) + "\n")
        update_table(HERE / "README.md", table(results), begin=BEGIN)
    return 1 if found else 0


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a target, and their sum."""
    columns = ("tried", "read", "refused")
    rows = [
        [
            name,
            *(f"{r[column]:,}" for column in columns),
            str(len(r["findings"])),
            str(r["kinds"]),
            f"{r['seconds']:.0f}",
        ]
        for name, r in results.items()
    ]
    total = [f"{sum(r[column] for r in results.values()):,}" for column in columns]
    found = sum(len(r["findings"]) for r in results.values())
    rows.append(["all", *total, str(found), "", f"{sum(r['seconds'] for r in results.values()):.0f}"])
    head = ["target", *columns, "findings", "kinds of messages", "seconds"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _in_a_process(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """A target's record; with a finding if its process died or had to be stopped."""
    with tempfile.TemporaryDirectory(prefix="tlx-fuzz-") as folder:
        into = pathlib.Path(folder) / "record.json"
        command = [sys.executable, "-m", "experiments.fuzz.campaign", f"--targets={name}", f"--into={into}"]
        command += [f"--seconds={seconds}", f"--seed={seed}"]
        # Each thread's arena of malloc takes address space, which is what the memory limit counts.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "JAX_PLATFORMS": "cpu"}
        started, errors = time.monotonic(), into.with_name("errors.txt")
        with open(errors, "w") as log:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
            while (died := process.poll()) is None:
                time.sleep(0.2)
                if time.monotonic() - started - _waited(process.pid) > seconds + _GRACE:
                    process.kill()
                    died = process.wait() and "a hang: the process was stopped"
                    break
        record = json.loads(into.read_text()) if into.exists() else {}
        record = {"tried": 0, "read": 0, "refused": 0, "findings": [], "kinds": 0, "messages": {}} | record
        if died:
            last = "; ".join(errors.read_text(errors="replace").splitlines()[-3:])
            said = died if isinstance(died, str) else f"the process ended with {died}: {last}"
            record["findings"].append({"where": "the process", "count": 1, "said": said[:600]})
        return record | {"seconds": round(time.monotonic() - started, 1)}


def _waited(pid: int) -> float:
    """Seconds that a process was ready to run and had no processor: on a busy machine it may be most of its time."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _one(name: str, seconds: float, seed: int, into: pathlib.Path) -> None:
    from experiments.fuzz.tally import Tally, run_target
    from experiments.fuzz.targets import TARGETS

    folder = into.parent / "inputs"
    folder.mkdir()
    written = time.monotonic()

    def keep(tally: Tally) -> None:  # now and then: what is known when the process dies
        nonlocal written
        if time.monotonic() > written + 2:
            into.write_text(json.dumps(tally.record()))
            written = time.monotonic()

    tally = run_target(TARGETS[name], folder, seconds=seconds, seed=seed, each=keep)
    into.write_text(json.dumps(tally.record()))


if __name__ == "__main__":
    sys.exit(main())
