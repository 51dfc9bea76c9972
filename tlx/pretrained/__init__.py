"""Networks that somebody has trained: how to read them, and how to put a new head on one."""

from tlx.pretrained.graft import graft
from tlx.pretrained.run import TrainedRun, load_run

__all__ = ["TrainedRun", "graft", "load_run"]
