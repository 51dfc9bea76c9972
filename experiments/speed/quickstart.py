"""README's quickstart from process start to table: with an empty compilation cache, with a full one, and in PyTorch.

    python -m experiments.speed.quickstart [--repeats=3] [--tiny]      # writes experiments/speed/quickstart.json

tlx keeps its record (checkpoints, curves, TensorBoard, a report) and PyTorch's file (`torch_quickstart.py`) none. Each
is a new process; they take turns. Wall and CPU seconds, and the test accuracy of the promoted network.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

OUT = pathlib.Path(__file__).with_suffix(".json")
TINY_STEPS = 8  # of `tlx.config.run_local`


def run(way: str, seed: int, folder: pathlib.Path, tiny: bool) -> dict[str, float]:
    """One process: {"wall", "cpu", "accuracy"}."""
    workdir = folder / f"{way}-{seed}-{time.monotonic_ns()}"
    environment = dict(os.environ)
    if way == "torch":
        command = ["experiments.speed.torch_quickstart", f"--seed={seed}", *[f"--steps={TINY_STEPS}"] * tiny]
    else:
        config = f"configs/digits_noisy_student.py:seed={seed}" + ",runlocal" * tiny
        command = ["tlx.main", f"--config={config}", f"--workdir={workdir}"]
        environment["JAX_COMPILATION_CACHE_DIR"] = str(
            workdir.with_suffix(".cache") if way == "cold" else folder / "kept"
        )
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if way == "torch":
        accuracy = json.loads(said.stdout.splitlines()[-1])["test"]
    else:
        accuracy = json.loads((workdir / "result.json").read_text())["figures"]["test_accuracy"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3, help="seeds")
    parser.add_argument("--tiny", action="store_true", help="of a few steps, to test this")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    options = parser.parse_args()
    ways: dict[str, list[dict[str, float]]] = {"cold": [], "warm": [], "torch": []}
    with tempfile.TemporaryDirectory(prefix="tlx-quickstart-") as name:
        folder = pathlib.Path(name)
        run("warm", 0, folder, options.tiny)  # fills the cache, and prepares the digits where they are not yet
        for seed in range(options.repeats):
            for way, found in ways.items():
                found.append(run(way, seed, folder, options.tiny))
                print(way, seed, found[-1], flush=True)
    middle = lambda way, what: statistics.median(found[what] for found in ways[way])
    result: dict[str, Any] = {"runs": ways}
    result["median_seconds"] = {way: {what: middle(way, what) for what in ("wall", "cpu")} for way in ways}
    result["over_torch"] = {way: middle(way, "wall") / middle("torch", "wall") for way in ("cold", "warm")}
    result |= {"cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]}
    result |= {library: metadata.version(library) for library in ("jax", "torch")}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("median_seconds", "over_torch")}, indent=1))


if __name__ == "__main__":
    main()
