"""tlx side by side with PyTorch and Keras: one command a suite, one run, ratios of medians over alternating turns.

    python -m experiments.speed.run --suite=cpu              # writes experiments/speed/cpu.json and prints the table
    python -m experiments.speed.run --suite=gpu
    python -m experiments.speed.run --suite=gpu --tiny       # the same programs, small enough for any CPU

It needs, beside requirements.txt: torch, torchvision, timm; and keras for the CPU. Case by case; each side is a process
of its own, and only one of them works at a time. A task that fails, or never ends, is written down as failed, and the
others go on. What is not of a network has commands of its own: `experiments.speed.quickstart`, `seeds` and `input`.
"""

import argparse
import json
import os
import pathlib
import time
from typing import Any

from experiments.speed import cases, rivals, tables

HERE = pathlib.Path(__file__).parent
MACHINE = "machine"  # the case that is of no network
SEEDS = 3  # of what is learnt


def cases_of(args: argparse.Namespace) -> tuple[cases.Case, ...]:
    suites = cases.TINY if args.tiny else cases.SUITES
    return tuple(case for case in suites[args.suite] if any(part in f"{case.name}$" for part in args.only.split(",")))


def serve(args: argparse.Namespace) -> None:
    """One side of one case; of the case "machine", what the networks are held against."""
    answer, rest = rivals.claim_output(), lambda: None
    case = None if args.case == MACHINE else cases.of(cases_of(args), args.case)
    if args.serve == "torch":
        from experiments.speed import torch_side as side

        tasks, about = side.tasks(case, compiled=not args.eager)
        rest = side.rest
    elif args.serve == "keras":
        from experiments.speed import keras_side as side

        tasks, about = side.tasks(case)
    elif case:
        from experiments.speed import tlx_side as side
        from tlx import memory

        memory.keep()  # as tlx.main does
        side.vary(case.variant)
        tasks, about = side.tasks(case)
    else:
        from experiments.speed import tlx_side as side

        tasks, about = side.machine_tasks(tables.MATMUL[args.tiny], tables.STREAMED[args.tiny]), {}
    rivals.serve(answer, tasks, {**about, **side.about()}, threads=args.threads, rest=rest)


def measure(args: argparse.Namespace, out: pathlib.Path) -> dict[str, Any]:
    """All rows, and what the sides say of themselves: written down after each case."""
    if args.logs:
        pathlib.Path(args.logs).mkdir(parents=True, exist_ok=True)
    common = [f"--suite={args.suite}", f"--threads={args.threads}", *["--tiny"] * args.tiny, *["--eager"] * args.eager]
    kept = json.loads(out.read_text()) if args.only and out.exists() else {"said": {}, "rows": {}}
    result: dict[str, Any] = kept | {"cores": len(os.sched_getaffinity(0))}
    result["arguments"] = {name: getattr(args, name) for name in ("suite", "repeats", "seconds", "tiny", "eager")}
    result["load_average"] = os.getloadavg()[0]

    def begin(side: str, case: str, **env: str) -> rivals.Side:
        log = pathlib.Path(args.logs, f"{side}_{case}.log".replace(" ", "_")) if args.logs else None
        return rivals.Side(side, "experiments.speed.run", *common, f"--serve={side}", f"--case={case}", log=log, **env)

    machine = (None,) if args.suite == "gpu" else ()
    for case in (*machine, *cases_of(args)):
        name, began = case.name if case else MACHINE, time.monotonic()
        sides = [begin("tlx", name, XLA_PYTHON_CLIENT_MEM_FRACTION="0.45")]  # PyTorch needs some of it too
        sides += [
            begin(rival, name) for rival in (case.rivals if case else ()) if set(case.ways) & set(cases.RIVALS[rival])
        ]
        # One after the other: they choose kernels by timing them. If tlx is not ready there is nothing to compare.
        said: dict[str, Any] = {}
        for side in sides:
            if "error" not in said.get("tlx", {}):
                said[side.name] = side.ask(do="prepare", patience=args.patience)
        result["said"][name] = said
        print(f"{name}: ready after {time.monotonic() - began:.0f} s", flush=True)
        for way in case.ways if case else said["tlx"].get("first", ()):
            players = [(side, way) for side in sides if way in said.get(side.name, {}).get("first", ())]
            found = rivals.take_turns(players, seconds=args.seconds, repeats=args.repeats)
            if case and case.learn:
                for key, values in rivals.accuracies(players, seeds=SEEDS, patience=args.patience).items():
                    found[key]["accuracies"] = values
            if case and args.profile and ("tlx", way) in found:
                folder = str(pathlib.Path(args.profile, f"{name}_{way}".replace(" ", "_")))
                asked = sides[0].ask(do="profile", task=way, folder=folder, patience=args.patience)
                found["tlx", way]["operations"] = asked.get("found", asked)
            result["rows"][f"{name}/{way}"] = {side: row for (side, _), row in found.items()}
            print(name, way, json.dumps(result["rows"][f"{name}/{way}"]), flush=True)
        for side in sides:
            side.close()
        out.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", choices=tuple(cases.SUITES), required=True)
    parser.add_argument("--tiny", action="store_true", help="sizes for any CPU")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument(
        "--only",
        default="",
        help="cases whose name has this, or this, ... in it, or ends with `this$`; the other rows stay",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a turn, about")
    parser.add_argument("--patience", type=float, default=300, help="seconds that a side may take to compile")
    parser.add_argument("--threads", type=int, default=0, help="programs of tlx that compile at once; 0 = 4 on a GPU")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--show", action="store_true", help="only print the table of what was measured")
    parser.add_argument("--logs", default="", help="a folder for what the sides print")
    parser.add_argument("--profile", default="", help="a folder for traces of tlx's steps; then rows name operations")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.threads = args.threads or (4 if args.suite == "gpu" else 1)
    if args.serve:
        return serve(args)
    out = args.out or HERE / f"{args.suite}{'_tiny' if args.tiny else ''}.json"
    result = json.loads(out.read_text()) if args.show else measure(args, out)
    print("\n".join(tables.of(result)))


if __name__ == "__main__":
    main()
