"""A strategy of adapting as a config without one: the rules, groups and the rest that the regime stands for."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import models
from tlx.errors import UserError
from tlx.optim import FROZEN
from tlx.regimes import cut_level, regime

GROUPS = ("backbone", "head")


def write_out(config: ConfigDict, *, image_shape: Sequence[int], pretrained: bool) -> ConfigDict:
    """The config with its regime written out: who learns, the head's level, what begins anew, whether to cache.

    Args:
      config: of the recipe `supervised`, with a `strategy`.
      image_shape: (H, W, C) of what the network takes.
      pretrained: whether it starts from weights.

    Raises:
      UserError: rules beside the strategy, other groups than GROUPS, nothing to start from; see also `tlx.regimes`.
    """
    name, groups = config.strategy, dict(config.optim.groups)
    if config.optim.rules != config_lib.optim().rules:
        raise UserError(f"strategy is {name!r}, and optim.rules say who learns as well: leave one of them out")
    if set(groups) != set(GROUPS):
        raise UserError(
            f"strategy is {name!r}, so optim.groups must be {' and '.join(GROUPS)}, and not {', '.join(groups)}: give "
            "each its learning rate"
        )
    if not pretrained and name != "scratch":
        raise UserError(f"strategy is {name!r}, and there is nothing to start from: set init.run or init.weights")
    levels = models.levels(models.build(**config.model, num_classes=2), image_shape)
    rules, groups = regime(name, levels=levels, cut=config.cut, **groups)
    written = ConfigDict(config.to_dict())
    written.strategy, written.cut = "", ""
    written.optim = {"rules": rules, "groups": groups}
    if name == "early":
        written.model.head_level = cut_level(config.cut, levels)
    if name == "scratch":
        written.init.reset = (".*",)
    written.cache.features &= any(group == FROZEN for _, group in rules)
    return written.lock()
