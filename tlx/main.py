"""Runs one config: `python -m tlx.main --config=configs/x.py[:arg,...] --workdir=runs/x [--config.key=value ...]`.

Exit codes: 0 the run has finished; 2 bad input, in one line; 143 stopped by SIGTERM after a checkpoint.
"""

import sys

from absl import flags
from ml_collections import config_flags

from tlx.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: its record, and where it goes on after a stop.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete the run that the workdir holds, and begin anew.")


def main(argv: list[str]) -> int:
    """Parses, runs, and turns what went wrong into one line and an exit code."""
    try:
        _parse(argv)
        # Imported here: a mistyped flag is answered at once, without waiting for jax.
        from tlx import progress, recipes
        from tlx.preemption import Preempted

        config = CONFIG.value
        recipe = recipes.load(config.get("recipe", ""))
        try:
            recipe.run(config, WORKDIR.value, overwrite=OVERWRITE.value)
        except Preempted:
            progress.say(f"stopped by SIGTERM; all is saved, go on with: {' '.join(['python -m tlx.main', *argv[1:]])}")
            return 143
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str]) -> None:
    try:
        rest = flags.FLAGS(argv)
        # A config file's own errors (a key that does not exist, say) come up when it is first looked at.
        config = CONFIG.value
    except UserError:
        raise
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as e:
        text = str(e.args[0] if isinstance(e, KeyError) and e.args else e).strip().splitlines()
        raise UserError(" ".join(text[:2]) if text else type(e).__name__) from None
    if rest[1:]:
        raise UserError(f"unknown argument {rest[1]!r}: flags begin with --, as in --workdir=runs/x")
    for name, value in (("config", config), ("workdir", WORKDIR.value)):
        if value is None:
            raise UserError(f"--{name} is missing: python -m tlx.main --config=configs/x.py --workdir=runs/x")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
