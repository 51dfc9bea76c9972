"""Runs one config: `python -m tlx.main --config=configs/x.py[:arg,...] --workdir=runs/x [--config.key=value ...]`.

The same command goes on with a run that was stopped. --overwrite deletes the run that the workdir holds. --from_round=2
begins a self-training run anew from its round 2, with this config, and forgets that round and the later ones: work in a
copy of its folder (cp -r). --profile traces some steps, and prints which operations take the most of them.

On several hosts, the same command on each, with a workdir that all of them see: --distributed finds the others by the
cluster's environment (TPU pods, SLURM, Open MPI, GKE); or name them, --coordinator=10.0.0.1:1234 --num_processes=2
--process_id=0 (on the other 1). A SIGTERM to one of them makes all save and stop.

Exit codes: 0 the run has finished; 2 bad input, in one line; 143 or 130 stopped by SIGTERM or Ctrl-C, all saved.
"""

import contextlib
import pathlib
import shlex
import sys

from absl import flags

from tlx import command, memory

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: its record, and where it goes on after a stop.")
FROM_ROUND = flags.DEFINE_integer(
    "from_round",
    0,
    "Begin the self-training run that the workdir holds anew from this round, with this config; 0 = off. The round and "
    "all later ones are forgotten: work in a copy of the folder (cp -r).",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete the run that the workdir holds, and begin anew.")
PROFILE = flags.DEFINE_bool("profile", False, "Trace some steps, and print which operations take the most of them.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other hosts, by the cluster's environment.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "Join the other hosts: HOST:PORT of the process 0.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "With --coordinator: how many there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "With --coordinator: this one's number, from 0.")
USAGE = "python -m tlx.main --config=configs/x.py --workdir=runs/x"


def main(argv: list[str]) -> int:
    """Parses, runs, and turns what went wrong into one line and an exit code."""
    return command.call(lambda: _run(argv), argv, usage=USAGE, required={"workdir": WORKDIR})


def _run(argv: list[str]) -> int:
    memory.keep()
    # Imported here: a mistyped flag is answered at once, without waiting for jax.
    from tlx import compiles, hosts, profile, progress, recipes
    from tlx.errors import UserError
    from tlx.preemption import Preempted

    named = {"coordinator": COORDINATOR, "num_processes": NUM_PROCESSES, "process_id": PROCESS_ID}
    if DISTRIBUTED.value or any(flag.present for flag in named.values()):
        hosts.join(**{name: flag.value for name, flag in named.items()})
    compiles.keep_on_disk()
    config = command.CONFIG.value
    recipe = recipes.load(config.get("recipe", ""))
    options = {"from_round": FROM_ROUND.value} if FROM_ROUND.value else {}
    if options and config.recipe != "self_train":
        raise UserError(f"--from_round={FROM_ROUND.value}: the recipe {config.recipe} has no rounds; leave it out")
    tracing = profile.on(pathlib.Path(WORKDIR.value, "profile")) if PROFILE.value else contextlib.nullcontext()
    try:
        with tracing:
            recipe.run(config, WORKDIR.value, overwrite=OVERWRITE.value, **options)
    except Preempted as e:
        progress.say(f"stopped by {e}; all is saved, go on with: python -m tlx.main {shlex.join(argv[1:])}")
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
