"""Start from pre-trained weights: which are taken over, which begin anew, and no mismatch passed over in silence."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from tlx.errors import UserError

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Grafted:
    """`variables` to train from, and the names of what was loaded, reset (as initialised) and unused (source only)."""

    variables: PyTree
    loaded: tuple[str, ...]
    reset: tuple[str, ...]
    unused: tuple[str, ...]


def graft(target: PyTree, source: PyTree, *, reset: Sequence[str] = ("head/.*",), all_used: bool = False) -> Grafted:
    """Puts pre-trained weights into freshly initialised ones.

    Args:
      target: {"params", "batch_stats"} as the model initialises them; gives names and shapes.
      source: the same of the pre-trained model.
      reset: regexes of whole paths ("head/kernel") that keep their fresh values.
      all_used: whether everything in the source, but what `reset` names, must have its place in the target: so that a
        deeper network's weights are not taken for a shallower one's.

    Raises:
      UserError: a parameter that is neither reset nor in the source, with its name and shape; or is of another shape
        there, with both shapes; or a regex that matches nothing; or, with `all_used`, what has no place in the target.
    """
    new, loaded, fresh, unused = {}, [], [], []
    everything = [path for part in target.values() for path in traverse_util.flatten_dict(part, sep="/")]
    for regex in reset:
        if not any(re.fullmatch(regex, path) for path in everything):
            raise UserError(f"init.reset: {regex!r} matches no parameter, such as {everything[0]!r}")
    for part in sorted(target, key=lambda part: part != "params"):  # the first difference is said: rather a kernel's
        flat = traverse_util.flatten_dict(target[part], sep="/")
        given = traverse_util.flatten_dict(source.get(part, {}), sep="/")
        for path in flat:
            if any(re.fullmatch(regex, path) for regex in reset):
                fresh.append(path)
            elif path not in given:
                raise UserError(
                    f"the pre-trained model has no {part} {path!r}, of shape {list(flat[path].shape)} in this one: "
                    "is it another architecture?"
                )
            elif given[path].shape != flat[path].shape:
                raise UserError(
                    f"{part} {path!r} is of shape {list(given[path].shape)} in the pre-trained model and "
                    f"{list(flat[path].shape)} in this one: use the same model options, or add it to init.reset"
                )
            else:
                flat[path] = given[path]
                loaded.append(path)
        extra = [path for path in given if path not in flat]
        unneeded = [path for path in extra if not any(re.fullmatch(regex, path) for regex in reset)]
        if all_used and unneeded:
            raise UserError(
                f"the pre-trained model has {part} {unneeded[0]!r}, of shape {list(given[unneeded[0]].shape)}, "
                "and this one has not: is it another architecture?"
            )
        unused += extra
        new[part] = traverse_util.unflatten_dict(flat, sep="/")
    return Grafted(new, tuple(loaded), tuple(fresh), tuple(unused))
