"""What a compression user wants to see of teacher, student and others: how good, how faithful, how large, how fast.

result |= compression.compare(
    [
        Entry("teacher", "cnn", teacher_logits, [(teacher_apply, teacher_variables)]),
        Entry("student", "mlp", logits, [(apply, variables)]),
    ],
    labels=labels,
    image_shape=(28, 28, 1),
)
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tlx import calibration, fidelity, latency, models
from tlx.errors import UserError
from tlx.latency import Network
from tlx.multiply_adds import multiply_adds
from tlx.pretrained.run import network_only

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network of the comparison, or one ensemble.

    Attributes:
      role: its name there, such as "teacher", "student", "student without a teacher"; each once.
      model: what it is, for people.
      logits: float [N, K], what it says of the test images; an ensemble's, averaged as it averages.
      networks: (apply, variables) of each member, `apply(variables, images, train=False) -> (logits, ...)`. What they
        cost is added up. Empty where only the logits are known: no costs then.
    """

    role: str
    model: str
    logits: np.ndarray
    networks: Sequence[Network] = ()


def compare(entries: Sequence[Entry], *, labels: np.ndarray, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Compares networks on the same test images.

    Args:
      entries: all of them, so that their speeds are measured alternately. The one whose role is "teacher", if there is
        one, is what the others are held against.
      labels: int [N].
      image_shape: (H, W, C) of the images that the networks are given.

    Returns:
      What `result.json` has of it: {"compression": a `row` an entry, in order, "reliability": role -> the curve of
      `calibration.reliability`}.

    Raises:
      UserError: a role given twice, or logits of another number of images or classes.
    """
    for i, entry in enumerate(entries):
        if entry.role in [other.role for other in entries[:i]]:
            raise UserError(f"the role {entry.role!r} is given twice: each network needs one of its own")
        found, expected = np.shape(entry.logits), (len(labels), np.shape(entries[0].logits)[-1])
        if found != expected:
            raise UserError(
                f"the logits of {entry.role!r} are of shape {list(found)} and not {list(expected)}: give one row for "
                "each test image and one column for each class"
            )
    whole = {entry.role: ensemble(entry.networks) for entry in entries if entry.networks}
    speed = latency.compare(whole, image_shape)
    costs = {role: size(*network, image_shape) | speed[role] for role, network in whole.items()}
    taught = next((entry.logits for entry in entries if entry.role == "teacher"), None)
    told = {entry.role: None if entry.role == "teacher" else taught for entry in entries}
    return {
        "compression": [
            row(entry, labels, teacher_logits=told[entry.role]) | costs.get(entry.role, {}) for entry in entries
        ],
        "reliability": {entry.role: calibration.reliability(entry.logits, labels) for entry in entries},
    }


def row(entry: Entry, labels: np.ndarray, *, teacher_logits: np.ndarray | None = None) -> dict[str, Any]:
    """How good an entry is, and how faithful to a teacher if there is one.

    Args:
      entry: of which the networks are not looked at.
      labels: int [N].
      teacher_logits: float [N, K].

    Returns:
      {"role", "model", "accuracy", "nll", "ece"}, and with a teacher {"agreement_1", "agreement_5", "kl_to_teacher"};
      units and averages are those of `tlx.calibration` and `tlx.fidelity`.
    """
    scores = {
        "role": entry.role,
        "model": entry.model,
        "accuracy": float(np.mean(np.argmax(entry.logits, -1) == labels)),
        "nll": calibration.negative_log_likelihood(entry.logits, labels),
        "ece": calibration.expected_calibration_error(entry.logits, labels),
    }
    if teacher_logits is None:
        return scores
    faithful = fidelity.agreement(entry.logits, teacher_logits)
    return scores | faithful | {"kl_to_teacher": fidelity.kl_to_teacher(entry.logits, teacher_logits)}


def size(apply: Callable, variables: Mapping[str, PyTree], image_shape: tuple[int, int, int]) -> dict[str, float]:
    """What a network takes: {"parameters", "multiply_adds" (for one image), "megabytes"}.

    A megabyte is 10^6 bytes, of the float32 weights and BatchNorm statistics that `tlx.export` writes as safetensors.
    """
    values = models.parameter_count(variables)
    return {
        "parameters": models.parameter_count(variables["params"]),
        "multiply_adds": multiply_adds(apply, variables, image_shape),
        "megabytes": 4 * values / 1e6,
    }


def ensemble(networks: Sequence[Network]) -> Network:
    """Several networks as one, without what training alone uses; one (apply, variables) is an ensemble too.

    Returns:
      (apply, variables): `apply(variables, images, train=False) -> (logits [M, B, K], {})`, not averaged yet.
    """
    members = [network_only(variables) for _, variables in networks]
    # One tree for each kind, so that it can be counted like any network's.
    variables = {kind: {str(i): member[kind] for i, member in enumerate(members)} for kind in ("params", "batch_stats")}

    def apply(variables: PyTree, images: Any, *, train: bool) -> tuple[Any, PyTree]:
        of = lambda i: {kind: tree[str(i)] for kind, tree in variables.items()}
        return jnp.stack([run(of(i), images, train=train)[0] for i, (run, _) in enumerate(networks)]), {}

    return apply, variables
