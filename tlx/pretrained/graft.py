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


def graft(target: PyTree, source: PyTree, *, reset: Sequence[str] = ("head/.*",)) -> Grafted:
    """Puts pre-trained weights into freshly initialised ones.

    Args:
      target: {"params", "batch_stats"} as the model initialises them; gives names and shapes.
      source: the same of the pre-trained model.
      reset: regexes of whole paths ("head/kernel") that keep their fresh values.

    Raises:
      UserError: a parameter that is neither reset nor in the source, with its name; or is of another shape there, with
        both shapes; or a regex that matches nothing.
    """
    new, loaded, fresh, unused = {}, [], [], []
    everything = [path for part in target.values() for path in traverse_util.flatten_dict(part, sep="/")]
    for regex in reset:
        if not any(re.fullmatch(regex, path) for path in everything):
            raise UserError(f"init.reset: {regex!r} matches no parameter, such as {everything[0]!r}")
    for part, tree in target.items():
        flat = traverse_util.flatten_dict(tree, sep="/")
        given = traverse_util.flatten_dict(source.get(part, {}), sep="/")
        for path in flat:
            if any(re.fullmatch(regex, path) for regex in reset):
                fresh.append(path)
            elif path not in given:
                raise UserError(f"the pre-trained model has no {part} {path!r}: is it another architecture?")
            elif given[path].shape != flat[path].shape:
                raise UserError(
                    f"{part} {path!r} is of shape {list(given[path].shape)} in the pre-trained model and "
                    f"{list(flat[path].shape)} in this one: use the same model options, or add it to init.reset"
                )
            else:
                flat[path] = given[path]
                loaded.append(path)
        unused += [path for path in given if path not in flat]
        new[part] = traverse_util.unflatten_dict(flat, sep="/")
    return Grafted(new, tuple(loaded), tuple(fresh), tuple(unused))
