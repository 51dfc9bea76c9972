"""Generations: what is said, and kept, of each network of a self-training run."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx import hosts, ledger, progress
from tlx.promotion import Verdict
from tlx.pseudo_label import PseudoLabels
from tlx.recipes.labels import labels_path
from tlx.recipes.learner import Trained
from tlx.recipes.run import Run
from tlx.recipes.unlabeled import Pool


def record(
    run: Run,
    number: int,
    trained: Trained,
    verdict: Verdict,
    *,
    images: Pool,
    labels: PseudoLabels | None = None,
    teacher: Trained | None = None,
) -> dict[str, Any]:
    """Says how a generation did, enters it in the run's ledger, and returns its row of the table of rounds.

    Args:
      number: 0 for the first teacher, else the round.
      trained, verdict: the network, and whether it is the best now.
      images: what it learned from.
      labels, teacher: what it was told, and by whom; None for the first.
    """
    role = f"student {number}" if teacher else "teacher"
    about = {
        "role": role,
        "parameters": trained.learner.parameters,
        **dataclasses.asdict(verdict),
        "phase": trained.phase,
        "digest": trained.digest,
    }
    row = {"round": number, "model": trained.learner.options["name"], "step": trained.step, **trained.figures, **about}
    if teacher:
        row |= {"taught_by": teacher.phase, **labels.summary(images.truth)}
    progress.say(_line(row))
    config = run.config_of(number)
    section = config.student if teacher else config.teacher
    entry = {
        "generation": number,
        "taught_by": teacher.phase if teacher else None,
        "teacher_digest": teacher.digest if teacher else None,
        "model": trained.learner.options,
        "start": section.get("start", "fresh"),
        "data": _data(run, number, images, labels),
        "noise": _noise(section, trained.learner.options),
        "options": {k: config[k].to_dict() for k in ("pseudo_label", "consistency", "loss")} if teacher else {},
        "figures": trained.figures,
        **about,
    }
    if hosts.is_first():
        ledger.add(run.workdir / "ledger.json", entry)
    return row


def _data(run: Run, number: int, images: Pool, labels: PseudoLabels | None) -> dict[str, Any]:
    """What it learned from: how many images, and which labels of its teacher's."""
    kept = hashlib.sha256(labels_path(run, number).read_bytes()).hexdigest() if labels else None
    return {
        "labeled": len(images.labeled),
        "unlabeled": len(labels.index) if labels else 0,
        "drawn": len(labels.drawn) if labels else 0,
        "fingerprint": images.fingerprint,
        "pseudo_labels": kept,
    }


def _noise(section: ConfigDict, options: Mapping[str, Any]) -> dict[str, Any]:
    """What was on of it: the images', and the network's own."""
    own = {key: options[key] for key in ("dropout", "stochastic_depth") if options.get(key)}
    return dict(section.augment) | own | ({"mixup": section.mixup} if section.get("mixup") else {})


def _line(row: dict[str, Any]) -> str:
    verdict = "[green]promoted[/green]" if row["promoted"] else "[yellow]refused[/yellow]"
    return (
        f"round {row['round']}: {row['role']}  validation {row['validation_accuracy']:.4f}  "
        f"test {row['test_accuracy']:.4f}  {verdict}: {row['reason']}"
    )
