"""tlx side by side with PyTorch: one command a suite, one run, ratios of medians over alternating turns.

    python -m experiments.speed.run --suite=gpu              # writes experiments/speed/gpu.json and prints the table
    python -m experiments.speed.run --suite=gpu --tiny       # the same programs, small enough for a CPU

It needs, beside requirements.txt: torch, torchvision, timm. Case by case; each side is a process of its own, and only
one of them works at a time. A task that fails, or never ends, is written down as failed, and the others go on.
"""

import argparse
import json
import os
import pathlib
import time
from typing import Any

from experiments.speed import gpu, rivals

HERE = pathlib.Path(__file__).parent
MACHINE = "machine"  # the case that is of no network
STREAMED = (224, 600, 128)  # pixels, photographs, of a batch
MATMUL = 8192  # the side of the matrices
DTYPES = ("bfloat16", "float32")


def cases_of(args: argparse.Namespace) -> tuple[gpu.Case, ...]:
    cases = gpu.TINY if args.tiny else gpu.CASES
    return tuple(case for case in cases if args.only in case.name)


def serve(args: argparse.Namespace) -> None:
    """One side of one case; of the case "machine", what the networks are held against."""
    answer, device = rivals.claim_output(), "cpu"
    if args.serve == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        tasks, about = gpu.torch_tasks(gpu.of(cases_of(args), args.case), device, compiled=not args.eager)
    elif args.case == MACHINE:
        side, photos = (512, (32, 64, 16)) if args.tiny else (MATMUL, STREAMED)
        tasks, about = {f"matmul {dtype}": gpu.matmul_task(dtype, side) for dtype in DTYPES}, {}
        tasks |= gpu.stream_tasks(*photos)
    else:
        case = gpu.of(cases_of(args), args.case)
        gpu.vary(case.variant)
        tasks, about = gpu.tlx_tasks(case)
    rest = torch.cuda.empty_cache if device == "cuda" else lambda: None
    rivals.serve(answer, tasks, {**about, **gpu.about_machine(args.serve)}, threads=args.threads, rest=rest)


def measure(args: argparse.Namespace, out: pathlib.Path) -> dict[str, Any]:
    """All rows, and what the sides say of themselves: written down after each case."""
    if args.logs:
        pathlib.Path(args.logs).mkdir(parents=True, exist_ok=True)
    common = [f"--suite={args.suite}", f"--threads={args.threads}", *["--tiny"] * args.tiny, *["--eager"] * args.eager]
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "said": {}, "rows": {}}
    result["arguments"] = {name: getattr(args, name) for name in ("repeats", "seconds", "tiny", "eager")}

    def begin(side: str, case: str, **env: str) -> rivals.Side:
        log = pathlib.Path(args.logs, f"{side}_{case}.log".replace(" ", "_")) if args.logs else None
        return rivals.Side(side, "experiments.speed.run", *common, f"--serve={side}", f"--case={case}", log=log, **env)

    for case in (None, *cases_of(args)):  # None: the machine
        name, began = case.name if case else MACHINE, time.monotonic()
        sides = [begin("tlx", name, XLA_PYTHON_CLIENT_MEM_FRACTION="0.45")]  # PyTorch needs some of it too
        if case and not case.variant and set(case.ways) & set(gpu.RIVALS):
            sides.append(begin("torch", name))
        # One after the other: both choose kernels by timing them.
        said = {side.name: side.ask(do="prepare", patience=args.patience) for side in reversed(sides)}
        result["said"][name] = said
        print(f"{name}: ready after {time.monotonic() - began:.0f} s", flush=True)
        for way in case.ways if case else said["tlx"].get("first", ()):
            players = [(side, way) for side in sides if way in said[side.name].get("first", ())]
            found = rivals.take_turns(players, seconds=args.seconds, repeats=args.repeats)
            result["rows"][f"{name}/{way}"] = {side: row for (side, _), row in found.items()}
            print(name, way, json.dumps(result["rows"][f"{name}/{way}"]), flush=True)
        for side in sides:
            side.close()
        out.write_text(json.dumps(result, indent=1) + "\n")
    return result


COLUMNS = (
    *("network", "way", "tlx, images/s", "PyTorch, images/s", "tlx's time / PyTorch's"),
    *("tlx, of the matmul peak", "PyTorch, of the peak"),
)


def table(result: dict[str, Any]) -> list[str]:
    """Markdown: images a second of both sides, the ratio of times, and the share of the measured peak."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * 5]
    tiny, machine = result["arguments"]["tiny"], {}
    side, batch = (512, 16) if tiny else (MATMUL, STREAMED[2])
    for row, said in result["rows"].items():
        if row.startswith(MACHINE) and "seconds" in said["tlx"]:
            machine[row.partition("/")[2]] = said["tlx"]["seconds"]
    peaks = {dtype: 2 * side**3 / machine[f"matmul {dtype}"] for dtype in DTYPES if f"matmul {dtype}" in machine}
    for case in gpu.TINY if tiny else gpu.CASES:
        for way in case.ways:
            if row := result["rows"].get(f"{case.name}/{way}"):
                about = result["said"][case.name]["tlx"]
                least = gpu.flops(way, about.get("multiply_adds", 0)) / peaks.get(case.dtype, float("inf"))
                cells = _cells(row, case.batch, 0 if case.small else least)
                lines.append("| " + " | ".join([case.name, way, *cells]) + " |")
    lines += ["", "Peak of a matrix product, measured, TFLOP/s: "]
    lines[-1] += ", ".join(f"{peak / 1e12:,.1f} in {dtype}" for dtype, peak in peaks.items())
    rates = {name: batch / seconds for name, seconds in machine.items() if name.startswith("streamed")}
    return [*lines, "Images/s from array_record: " + ", ".join(f"{name}: {rate:,.0f}" for name, rate in rates.items())]


def _cells(row: dict[str, Any], batch: int, least: float) -> list[str]:
    """`least`: seconds an image at the peak, 0 = not to be said."""
    sides = ("tlx", "torch")
    rate = {side: batch / said["seconds"] for side, said in row.items() if "seconds" in said}
    ratio = f"{row['tlx']['seconds'] / row['torch']['seconds']:.2f}" if len(rate) == 2 else ""
    rates = [f"{rate[side]:,.0f}" if side in rate else "failed" * (side in row) for side in sides]
    shares = [f"{rate[side] * least:.0%}" if side in rate and least else "" for side in sides]
    return [*rates, ratio, *shares]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", choices=("gpu",), required=True)
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a turn, about")
    parser.add_argument("--patience", type=float, default=300, help="seconds that a side may take to compile")
    parser.add_argument("--threads", type=int, default=4, help="programs of tlx that compile at the same time")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--show", action="store_true", help="only print the table of what was measured")
    parser.add_argument("--logs", default="", help="a folder for what the sides print")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    out = args.out or HERE / f"{args.suite}{'_tiny' if args.tiny else ''}.json"
    result = json.loads(out.read_text()) if args.show else measure(args, out)
    print("\n".join(table(result)))


if __name__ == "__main__":
    main()
