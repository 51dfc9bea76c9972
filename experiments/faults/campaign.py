"""A self-training run, disturbed in every way that machines know: does it end as if nothing had happened?

    python -m experiments.faults.campaign --seed=0 [--kills=50] [--damages=3] [--faults=kills,writes] [--short]

Every fault must end in the same final parameters as an undisturbed run, or in one clear line with nothing lost: when
what it names is mended, the same command ends there too. Writes `results.json` and the tables in `README.md`, and ends
with 1 if anything was lost. With --faults the others' results stay as they are, and with `--faults=` all of them: only
the tables are made. --short is what the tests do, and mounts nothing. Best as root: only root can mount the small disks
that run full, and elsewhere they are skipped, and said to be.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from experiments.faults import damage, kills, surroundings
from experiments.faults.child import start
from experiments.faults.small_run import where
from experiments.faults.trial import LOST, OUTCOMES, SKIPPED, Trial
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.faults.campaign -->"
SEEN = ["checkpoints/teacher/*tmp*", "checkpoints/round_1/4.*tmp*", "checkpoints/round_2/6*tmp*"]
SEEN += ["checkpoints/round_1/*tmp*/state/*tmp*", "pseudo_labels/.round_2.npz.*", "phases/round_1.json", "result.json"]


@dataclasses.dataclass(frozen=True)
class Given:
    """What the faults are given: a folder, an undisturbed run, an interrupted one, and what is asked for."""

    folder: pathlib.Path
    whole: pathlib.Path
    half: pathlib.Path
    end: dict[str, Any]
    seconds: float
    seed: int
    kills: int
    damages: int

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, *name.encode()))


def _damages(given: Given) -> Iterator[Trial]:
    rng, counts = given.rng("damages"), {"flips": given.damages, "cuts": -(-given.damages // 3)}
    for state, whole in (("interrupted", given.half), ("finished", given.whole)):
        yield from damage.files(given.folder, whole, state, given.end, kinds=[*damage.KINDS], rng=rng, **counts)


def _a_few_damages(given: Given) -> Iterator[Trial]:
    damaged = functools.partial(damage.files, given.folder, given.half, "interrupted", given.end)
    rng = given.rng("damages")
    yield from damaged(kinds=["checkpoint, arrays", "pseudo_labels/*.npz"], flips=1, cuts=0, rng=rng)
    yield from damaged(kinds=["phases/*.json"], flips=0, cuts=1, rng=rng)


FAULTS: dict[str, Callable[[Given], Iterator[Trial]]] = {
    "kills": lambda g: kills.at_random(g.folder, g.end, seconds=g.seconds, count=g.kills, rng=g.rng("kills")),
    "writes": lambda g: kills.in_writes(g.folder, g.end),
    "sights": lambda g: kills.while_it_lies_there(g.folder, g.end, SEEN),
    "damages": _damages,
    "disk": lambda g: surroundings.full_disk(g.folder, g.whole, g.end, count=-(-g.kills // 5), rng=g.rng("disk")),
    "quota": lambda g: surroundings.no_large_files(g.folder, g.end, [10_000, 50_000]),
    "permissions": lambda g: surroundings.read_only(g.folder, g.half, g.end),
    "clocks": lambda g: surroundings.jumping_clocks(g.folder, g.end, [3 * g.seed + i for i in range(3)]),
    "second": lambda g: surroundings.second_process(
        g.folder, g.end, ["config.json", "checkpoints/round_1/2", "phases/round_2.json"]
    ),
    "hosts": lambda g: kills.one_of_two_hosts(
        g.folder, [(1, "checkpoints/round_1/2"), (0, "checkpoints/round_1/2"), (1, "checkpoints/round_2/*tmp*")]
    ),
    "hosts_damages": lambda g: damage.of_two_hosts(
        g.folder, [(i, how) for i in range(2) for how in ("a bit flipped", "cut off")], g.rng("hosts_damages")
    ),
}
# What the tests do of it.
SHORT: dict[str, Callable[[Given], Iterator[Trial]]] = {
    "kills": lambda g: kills.at_random(g.folder, g.end, seconds=g.seconds, count=1, rng=g.rng("kills")),
    "writes": FAULTS["writes"],
    "damages": _a_few_damages,
    "quota": lambda g: surroundings.no_large_files(g.folder, g.end, [10_000]),
    "permissions": lambda g: surroundings.read_only(g.folder, g.half, g.end, mounts=False),
    "clocks": lambda g: surroundings.jumping_clocks(g.folder, g.end, [3 * g.seed]),
    "second": lambda g: surroundings.second_process(g.folder, g.end, ["checkpoints/round_1/2"]),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.faults.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=50, help="at random moments")
    parser.add_argument("--damages", type=int, default=3, help="bits flipped in each kind of file of each run")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, separated by commas; all if left out")
    parser.add_argument("--short", action="store_true", help="what the tests do of it")
    parser.add_argument("--into", type=pathlib.Path, default=HERE / "results.json", help="the results")
    options = parser.parse_args(argv)
    names = [*SHORT] if options.short else [name for name in options.faults.split(",") if name]
    faults = SHORT if options.short else FAULTS
    if unknown := [name for name in names if name not in faults]:
        print(f"error: unknown fault {unknown[0]!r}: use {', '.join(faults)}", file=sys.stderr)
        return 2
    results = json.loads(options.into.read_text()) if options.into.exists() else {}
    with tempfile.TemporaryDirectory(prefix="tlx-faults-") as folder:
        given = _prepare(pathlib.Path(folder), options) if names else None
        for name in names:
            started = time.monotonic()
            inside = dataclasses.replace(given, folder=given.folder / name)
            trials = []
            for trial in faults[name](inside):
                trials.append(dataclasses.asdict(trial))
                print(f"{trial.fault}: {trial.what} [{trial.hit}]: {trial.outcome} {trial.said}", flush=True)
            results[name] = {"seed": options.seed, "seconds": round(time.monotonic() - started), "trials": trials}
            ordered = {name: results[name] for name in faults if name in results}
            options.into.write_text(json.dumps(ordered, indent=1) + "\n")
    if options.into == HERE / "results.json":
        update_table(HERE / "README.md", table(results), begin=BEGIN)
    lost = [trial for name in names for trial in results[name]["trials"] if trial["outcome"] == LOST]
    return 1 if lost else 0


def table(results: dict[str, Any]) -> str:
    """Markdown: a row a fault, and their sum; what was skipped; and how often SIGKILL hit each phase."""
    trials = [trial for record in results.values() for trial in record["trials"]]
    tried = [trial for trial in trials if trial["outcome"] != SKIPPED]
    of = {fault: Counter(t["outcome"] for t in tried if t["fault"] == fault) for fault in _in_order(tried)}
    of["all"] = sum(of.values(), Counter())
    lines = [["fault", "tried", *OUTCOMES], ["---", *["---:"] * (1 + len(OUTCOMES))]]
    lines += [[fault, str(counts.total()), *(str(counts[o]) for o in OUTCOMES)] for fault, counts in of.items()]
    skipped = [f"{trial['fault']}, {trial['what']} ({trial['said']})" for trial in trials if trial not in tried]
    hits = Counter(phase for trial in tried if trial["fault"].startswith("SIGKILL") for phase in _phases(trial["hit"]))
    said = f"Skipped, and counted nowhere: {'; '.join(skipped) or 'none'}."
    places = [["where SIGKILL hit", *hits], ["---", *["---:"] * len(hits)], ["times", *map(str, hits.values())]]
    return "\n\n".join([_markdown(lines), said, _markdown(places)])


def _phases(hit: str) -> list[str]:
    """Where each kill of a trial hit: the phase that the run was in, or between which."""
    return [where.split(",")[0] for where in hit.split("; ")]


def _in_order(trials: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(trial["fault"] for trial in trials))


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _prepare(folder: pathlib.Path, options: argparse.Namespace) -> Given:
    """An undisturbed run, a second one to know how long it takes when all is compiled, and one that is interrupted."""
    os.environ["TFDS_DATA_DIR"], os.environ["TMPDIR"] = str(folder / "data"), str(folder)
    tempfile.tempdir = str(folder)
    jax.config.update("jax_compilation_cache_dir", os.environ.get("TLX_FAULTS_CACHE") or str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    whole = start(folder / "whole").wait()
    again = start(folder / "again").wait()
    half = start(folder / "half", kills.PLACES["a checkpoint of the second student"]).wait()
    if not (whole.end and whole.end == again.end and half.killed):
        raise SystemExit(f"undisturbed runs do not end alike: {whole.last_line}; {again.last_line}; {half.last_line}")
    print(f"undisturbed: {again.seconds:.1f} s; interrupted: {where(folder / 'half')}", flush=True)
    given = {"seed": options.seed, "kills": options.kills, "damages": options.damages}
    return Given(folder, folder / "whole", folder / "half", whole.end, again.seconds, **given)


if __name__ == "__main__":
    sys.exit(main())
