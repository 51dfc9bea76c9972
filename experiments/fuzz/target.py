"""What a fuzzing target is."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
      valid: an example that is read.
      examples: a strategy of examples, most of them damaged.
      read: gives an example to the reader; it may write in the target's folder only.
      names: a refusal must have one of these in its message.
    """

    valid: Any
    examples: st.SearchStrategy
    read: Callable[[Any], Any]
    names: tuple[str, ...]


def put(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes an input anew: to truncate the file that is there makes some file systems flush each time."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def one_of_files(files: dict[pathlib.Path, st.SearchStrategy], read: Callable[[], Any], *, names: tuple[str, ...]):
    """A target whose examples are (path, content): one file of several is another for a while; None: it is missing."""
    whole = {path: path.read_bytes() for path in files}
    paths = list(files)
    choose = lambda path: st.tuples(st.just(path), st.one_of(*[files[path]] * 19, st.none()))

    def read_changed(example: tuple[pathlib.Path, bytes | None]) -> Any:
        path, content = example
        try:
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            return read()
        finally:
            put(path, whole[path])

    return Target((paths[0], whole[paths[0]]), st.sampled_from(paths).flatmap(choose), read_changed, names)
