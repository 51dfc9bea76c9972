"""Networks that somebody has trained: how to read them, and how to put a new head on one."""

from tlx.pretrained.graft import Grafted, graft
from tlx.pretrained.published import Published, load_published
from tlx.pretrained.run import TrainedRun, load_run, rebuild

__all__ = ["Grafted", "Published", "TrainedRun", "graft", "load_published", "load_run", "rebuild"]
