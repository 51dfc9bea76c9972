"""The evidence of every cell of the grid, without training anything: `python -m experiments.freeze_rule.evidence`.

Writes `evidence.json` beside this file, and goes on where it stopped. Needs the rows "source: ..." of the sweep, and
the folder of solar cells that experiments/elpv/prepare.py writes.
"""

import argparse
import dataclasses
import itertools
import pathlib

from experiments.elpv import config as elpv
from experiments.freeze_rule import config as grid
from tlx.recipes import supervised
from tlx.workdir import read_json, write_json

PATH = pathlib.Path(__file__).with_name("evidence.json")
CELLS = (*grid.CELLS, *(("imagenet_to_elpv", labels) for labels in grid.STEPS))
TASKS = (*grid.TASKS, "imagenet_to_elpv")
SEEDS = range(3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.freeze_rule.evidence", description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="the folder of mnist/ and fashion_mnist/")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    options = parser.parse_args()
    records = read_json(PATH) if PATH.exists() else []
    done = {(r["task"], r["labels"], r["seed"]) for r in records}
    for (task, labels), seed in itertools.product(CELLS, SEEDS):
        if task not in options.tasks or (task, labels, seed) in done:
            continue
        if task == "imagenet_to_elpv":
            config = elpv.get_config(f"labels={labels},regime=auto,seed={seed}")
        else:
            config = grid.get_config(f"task={task},labels={labels},regime=auto,seed={seed},data={options.data}")
        facts = supervised.facts(config)
        records.append({"task": task, "labels": labels, "seed": seed, "facts": dataclasses.asdict(facts)})
        records.sort(key=lambda r: (CELLS.index((r["task"], r["labels"])), r["seed"]))
        write_json(PATH, records)
        print(task, labels, seed, f"probe {facts.top.probe.value:.3f}", flush=True)


if __name__ == "__main__":
    main()
