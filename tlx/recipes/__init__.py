"""One module a method. Each has `default_config()` and `run(config, workdir, *, overwrite=False) -> result`.

Those that train in one phase also have `build(run) -> (learner, what its fit is given)`, which `tlx.lr_find` calls.
"""

import importlib
from types import ModuleType

from tlx.errors import UserError

RECIPES = ("supervised", "distill", "semi_supervised", "self_train")


def load(name: str) -> ModuleType:
    """The module of a recipe, or a UserError that lists them."""
    if name not in RECIPES:
        raise UserError(f"recipe is {name!r}: use one of {', '.join(RECIPES)}")
    return importlib.import_module(f"tlx.recipes.{name}")
