"""What the commands that take a config have in common: the flag --config, and every mistake in one line."""

import ast
import contextlib
import sys
from collections.abc import Callable, Mapping

from absl import flags
from ml_collections import config_flags

from tlx.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file.", lock_config=True)


def call(
    body: Callable[[], int], argv: list[str], *, usage: str, required: Mapping[str, flags.FlagHolder] | None = None
) -> int:
    """Parses the flags, calls `body` for the exit code, and turns a UserError into one line and a 2.

    Args:
      argv: the program's name and its arguments.
      usage: the shortest right command, for whom a flag is missing.
      required: name -> flag that must be given, beside --config.
    """
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{(sys.modules['__main__'].__doc__ or '').strip()}\n\n{usage}")
        return 0
    try:
        _parse(argv, usage, {"config": CONFIG} | dict(required or {}))
        return body()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped at once: the last checkpoint is where the same command goes on", file=sys.stderr)
        return 130


def _parse(argv: list[str], usage: str, required: Mapping[str, flags.FlagHolder]) -> None:
    try:
        rest = flags.FLAGS(argv)
        # A config file's own errors (it does not exist, say) come up when it is first looked into.
        config = CONFIG.value
        _ = config and config.get("recipe")
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(_one_line(e)) from None
    if rest[1:]:
        raise UserError(f"unknown argument {rest[1]!r}: flags begin with --, as in {usage.split()[-1]}")
    for name, flag in required.items():
        if flag.value is None:
            raise UserError(f"--{name} is missing: {usage}")


def _one_line(error: BaseException) -> str:
    """What is to be said of an error that passed through absl and ml_collections, which wrap and print tracebacks."""
    text = str(error.args[0] if error.args else error)
    # A KeyError's text is quoted once more on the way; but one of several lines only begins with a quoted name.
    with contextlib.suppress(SyntaxError, ValueError):
        text = str(ast.literal_eval(text)) if text.startswith(("'", '"')) else text
    if "Traceback" in text and "UserError: " in text:  # ours, whose message is one line, with the way to it in front
        return text.rpartition("UserError: ")[2].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, OSError) or "Traceback" in text:
        return lines[-1]
    return ("unknown config key " if isinstance(error, KeyError | AttributeError) else "") + " ".join(lines)
