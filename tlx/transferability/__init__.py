"""How well frozen features of a pre-trained network suit a new task: the evidence for a freeze rule."""

from tlx.transferability.evidence import Evidence, Figure, score
from tlx.transferability.hscore import h_score
from tlx.transferability.logme import log_me
from tlx.transferability.neighbours import knn_accuracy
from tlx.transferability.probe import probe_accuracy

__all__ = ["Evidence", "Figure", "h_score", "knn_accuracy", "log_me", "probe_accuracy", "score"]
