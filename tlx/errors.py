"""The errors that are the user's to mend: one line, the value at fault, and the fix."""

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Bad input. `tlx.main` prints it on one line, without a traceback, and exits with 2.

    Write the message as: what is wrong, the value, what to do. It is raised before anything is compiled wherever the
    input is known by then. A value may have line breaks in it (a file's name, a library's words); the message has none.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """Returns " (did you mean ...?)" with the nearest of `known`, or nothing if none is near."""
    near = difflib.get_close_matches(str(given), map(str, known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


@contextlib.contextmanager
def reading(path: str | os.PathLike, *, remedy: str = "is it damaged or cut off? Get the file again") -> Iterator[None]:
    """For reading a file of somebody else's: whatever a damaged one makes the parsers raise becomes one UserError.

    UserErrors from within pass as they are, but that one which does not name the path gets it in front.
    """
    try:
        yield
    except UserError as e:
        if str(path) in str(e):
            raise
        raise type(e)(f"{path}: {e}") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise UserError(f"{path} cannot be read ({e.strerror}): check the path") from None
    except Exception as e:  # zipfile and pickle raise a dozen types between them, and promise none
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:120]
        raise UserError(f"{path} cannot be read ({reason}): {remedy}") from None
