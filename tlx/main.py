"""Runs one config: `python -m tlx.main --config=configs/x.py[:arg,...] --workdir=runs/x [--config.key=value ...]`.

Exit codes: 0 the run has finished; 2 bad input, in one line; 143 stopped by SIGTERM after a checkpoint.
"""

import ast
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
        # A config file's own errors (it does not exist, say) come up when it is first looked into.
        config = CONFIG.value
        _ = config and config.get("recipe")
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(_one_line(e)) from None
    if rest[1:]:
        raise UserError(f"unknown argument {rest[1]!r}: flags begin with --, as in --workdir=runs/x")
    for name, value in (("config", config), ("workdir", WORKDIR.value)):
        if value is None:
            raise UserError(f"--{name} is missing: python -m tlx.main --config=configs/x.py --workdir=runs/x")


def _one_line(error: BaseException) -> str:
    """What is to be said of an error that passed through absl and ml_collections, which wrap and print tracebacks."""
    text = str(error.args[0] if error.args else error)
    if text.startswith(("'", '"')):
        text = str(ast.literal_eval(text))  # a KeyError's text, quoted once more on the way
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, OSError) or "Traceback" in text:
        return lines[-1].removeprefix("tlx.errors.UserError: ")
    return ("unknown config key " if isinstance(error, KeyError | AttributeError) else "") + " ".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
