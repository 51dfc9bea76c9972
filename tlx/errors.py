"""The errors that are the user's to mend: one line, the value at fault, and the fix."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. `tlx.main` prints it on one line, without a traceback, and exits with 2.

    Write the message as: what is wrong, the value, what to do. It is raised before anything is compiled wherever the
    input is known by then.
    """


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """Returns " (did you mean ...?)" with the nearest of `known`, or nothing if none is near."""
    near = difflib.get_close_matches(str(given), map(str, known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
