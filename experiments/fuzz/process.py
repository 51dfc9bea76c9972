"""A target in a process of its own, which may die or hang, with all that it can write into by mistake under watch."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]
_GRACE = 120.0  # seconds that a process has to start, and to end its last input


def run(module: str, name: str, *, seconds: float, seed: int) -> dict[str, Any]:
    """A target's record; with a finding if its process died or had to be stopped.

    Args:
      module: is run with --target, --seconds, --seed, --into (a file for `Tally.record()`) and --folder (an empty one
        for the target). Its working directory and its folder for temporary files lie beside that, under watch.
      name: of the target.
      seconds, seed: as `tally.run_target`.
    """
    with tempfile.TemporaryDirectory(prefix="tlx-fuzz-") as top:
        into, errors, around = (pathlib.Path(top, part) for part in ("record.json", "errors.txt", "around"))
        for part in ("inputs", "work", "temporary"):
            (around / part).mkdir(parents=True)
        (around / "elsewhere").write_text("what nobody should touch")
        command = [sys.executable, "-m", module, f"--target={name}", f"--into={into}", f"--folder={around / 'inputs'}"]
        command += [f"--seconds={seconds}", f"--seed={seed}"]
        # Each thread's arena of malloc takes address space, which is what the memory limit counts.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "JAX_PLATFORMS": "cpu"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        environment["HYPOTHESIS_STORAGE_DIRECTORY"] = str(_ROOT / ".hypothesis")  # what it knows of the code, kept
        environment["TMPDIR"] = str(around / "temporary")
        started = time.monotonic()
        with open(errors, "w") as log:
            streams = {"stdout": subprocess.DEVNULL, "stderr": log}
            process = subprocess.Popen(command, env=environment, cwd=around / "work", **streams)
            while (died := process.poll()) is None:
                time.sleep(0.2)
                if time.monotonic() - started - _waited(process.pid) > seconds + _GRACE:
                    process.kill()
                    died = process.wait() and "a hang: the process was stopped"
                    break
        said = errors.read_text(errors="replace")
        record = json.loads(into.read_text()) if into.exists() else {}
    empty = {"tried": 0, "read": 0, "refused": 0, "findings": [], "changed_around": 0, "kinds": 0, "messages": {}}
    record = empty | record
    if died or not record["tried"]:
        last = "; ".join(said.splitlines()[-3:])
        died = (
            (died if isinstance(died, str) else f"the process ended with {died}: {last}") if died else "tried nothing"
        )
        record["findings"].append({"where": "the process", "count": 1, "said": died[:600]})
    if edges := re.findall(r"cov: (\d+)", said):  # libFuzzer's: after the seeds, and at last
        record["edges"] = [int(edges[0]), int(edges[-1])]
    return record | {"seconds": round(time.monotonic() - started, 1), "seed": seed}


def _waited(pid: int) -> float:
    """Seconds that a process was ready to run and had no processor: on a busy machine it may be most of its time."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
