"""tlx side by side with PyTorch: one command a suite, one run, ratios of medians over alternating turns.

    python -m experiments.speed.run --suite=gpu              # writes experiments/speed/gpu.json and prints the table
    python -m experiments.speed.run --suite=gpu --tiny       # the same programs, small enough for a CPU

It needs, beside requirements.txt: torch, torchvision, timm. Each side is a process of its own, and only one of them
works at a time while the clock runs. Before that each compiles all that it will run: PyTorch's processes at the same
time, then tlx's. A task that fails is written down as failed, and the others go on.
"""

import argparse
import json
import os
import pathlib
import time
from typing import Any

from experiments.speed import gpu, rivals

HERE = pathlib.Path(__file__).parent
STREAMED = (224, 600, 128)  # pixels, photographs, of a batch
MATMUL = {"bfloat16": "matmul bfloat16", "float32": "matmul float32"}


def cases_of(args: argparse.Namespace) -> tuple[gpu.Case, ...]:
    cases = gpu.TINY if args.tiny else gpu.CASES
    return tuple(case for case in cases if args.only in case.name)


def serve(args: argparse.Namespace) -> None:
    """One side: "tlx" has all cases of a variant, "torch" one case."""
    answer, cases = rivals.claim_output(), cases_of(args)
    if args.serve == "tlx":
        gpu.vary(args.variant)
        cases = tuple(case for case in cases if case.variant == args.variant)
        tasks: dict[str, Any] = {}
        about: dict[str, Any] = {"cases": {}}
        for case in cases:
            made, about["cases"][case.name] = gpu.tlx_tasks(case)
            tasks |= {f"{case.name}/{way}": task for way, task in made.items()}
        if not args.variant:
            tasks |= gpu.stream_tasks(*((32, 64, 16) if args.tiny else STREAMED))
            tasks |= {name: gpu.matmul_task(dtype, 512 if args.tiny else 8192) for dtype, name in MATMUL.items()}
        return rivals.serve(answer, tasks, about | gpu.about_machine("tlx"), threads=args.threads)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tasks, about = gpu.torch_tasks(gpu.of(cases, args.case), device, compiled=not args.eager)
    rest = torch.cuda.empty_cache if device == "cuda" else lambda: None
    rivals.serve(answer, tasks, about | gpu.about_machine("torch"), rest=rest)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rows, and what the sides say of themselves."""
    module, logs = "experiments.speed.run", pathlib.Path(args.logs) if args.logs else None
    if logs:
        logs.mkdir(parents=True, exist_ok=True)
    log = lambda name: logs / f"{name.replace(' ', '_')}.log" if logs else None
    common = [f"--suite={args.suite}", f"--only={args.only}", f"--threads={args.threads}"]
    common += ["--tiny"] * args.tiny + ["--eager"] * args.eager
    cases, began = cases_of(args), time.monotonic()

    def tlx(variant: str) -> rivals.Side:
        name = f"tlx {variant}".strip()
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.12" if variant else "0.25"}  # PyTorch's processes need some too
        return rivals.Side(name, module, *common, "--serve=tlx", f"--variant={variant}", log=log(name), **memory)

    ours = {"": tlx("")}
    torch = {
        case.name: rivals.Side(case.name, module, *common, "--serve=torch", f"--case={case.name}", log=log(case.name))
        for case in cases
        if not case.variant and set(case.ways) & set(gpu.RIVALS)
    }
    said = rivals.prepare(torch.values())
    print(f"PyTorch is ready after {time.monotonic() - began:.0f} s", flush=True)
    said |= rivals.prepare(ours.values())  # alone: XLA chooses kernels by timing them
    for variant in sorted({case.variant for case in cases if case.variant}):
        ours[variant] = tlx(variant)
        said |= rivals.prepare([ours[variant]])
    print(f"tlx is ready after {time.monotonic() - began:.0f} s", flush=True)
    result: dict[str, Any] = {"said": said, "rows": {}, "batch_streamed": 16 if args.tiny else STREAMED[2]}
    for case in cases:
        for way in case.ways:
            mine, task = ours[case.variant], f"{case.name}/{way}"
            players = [(mine, task)]
            if case.name in torch and way in gpu.RIVALS:
                players.append((torch[case.name], way))
            if time.monotonic() - began > args.budget:
                print(f"the budget is spent: {case.name}, {way} is left out", flush=True)
                continue
            found = rivals.take_turns(players, seconds=args.seconds, repeats=args.repeats)
            row = {"tlx": found[mine.name, task]} | ({"torch": found[case.name, way]} if players[1:] else {})
            result["rows"][task] = row
            print(case.name, way, json.dumps(row), flush=True)
    for dtype, name in MATMUL.items():
        result["rows"][name] = {"tlx": rivals.take_turns([(ours[""], name)], seconds=0.3, repeats=3)["tlx", name]}
        result[f"peak_{dtype}"] = 2.0 * (512 if args.tiny else 8192) ** 3 / result["rows"][name]["tlx"]["seconds"]
    for name in [name for name in said["tlx"]["first"] if name.startswith("streamed")]:
        # Turns long enough that the batches which were read ahead do not count for much.
        result["rows"][name] = {"tlx": rivals.take_turns([(ours[""], name)], seconds=4, repeats=1)["tlx", name]}
    for side in (*torch.values(), *ours.values()):
        side.close()
    return result


COLUMNS = (
    *("network", "way", "tlx, images/s", "PyTorch, images/s", "tlx's time / PyTorch's"),
    *("tlx, of the matmul peak", "PyTorch, of the peak"),
)


def table(result: dict[str, Any], cases: tuple[gpu.Case, ...]) -> list[str]:
    """Markdown: images a second of both sides, the ratio of times, and the share of the measured peak."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * 5]
    for case in cases:
        for way in case.ways:
            if row := result["rows"].get(f"{case.name}/{way}"):
                lines.append("| " + " | ".join([case.name, way, *_cells(result, case, way, row)]) + " |")
    peaks = ", ".join(f"{result[f'peak_{dtype}'] / 1e12:,.0f} TFLOP/s in {dtype}" for dtype in MATMUL)
    lines += ["", f"Measured peak of a matrix product: {peaks}. Images/s read from array_record:"]
    batch = result["batch_streamed"]
    streamed = {name: row["tlx"] for name, row in result["rows"].items() if name.startswith("streamed")}
    lines += [f"{name}: {batch / said['seconds']:,.0f}" for name, said in streamed.items() if "seconds" in said]
    return lines


def _cells(result: dict[str, Any], case: gpu.Case, way: str, row: dict[str, Any]) -> list[str]:
    about = result["said"][f"tlx {case.variant}".strip()]["cases"][case.name]
    work = gpu.flops(way, about["multiply_adds"]) / result[f"peak_{case.dtype}"]  # seconds an image, at least
    rate = {side: case.batch / said["seconds"] for side, said in row.items() if "seconds" in said}
    ratio = f"{row['tlx']['seconds'] / row['torch']['seconds']:.2f}" if len(rate) == 2 else ""
    sides = ("tlx", "torch")
    rates = [f"{rate[side]:,.0f}" if side in rate else "failed" * (side in row) for side in sides]
    shares = [f"{rate[side] * work:.0%}" if side in rate and work and not case.small else "" for side in sides]
    return [*rates, ratio, *shares]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", choices=("gpu",), required=True)
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a turn, about")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no further row is begun")
    parser.add_argument("--threads", type=int, default=4, help="programs of tlx that compile at the same time")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--logs", default="", help="a folder for what the sides print")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--variant", default="", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    result = measure(args)
    result |= {"cores": len(os.sched_getaffinity(0)), "arguments": {"repeats": args.repeats, "seconds": args.seconds}}
    out = args.out or HERE / f"{args.suite}{'_tiny' if args.tiny else ''}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(table(result, cases_of(args))))


if __name__ == "__main__":
    main()
