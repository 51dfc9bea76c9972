"""Whether a student takes its teacher's place: a paired comparison on the validation images, never on the test set."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`promoted`, the `reason` in words, and the p-value of McNemar's test."""

    promoted: bool
    reason: str
    p_value: float


def compare(teacher: np.ndarray, student: np.ndarray, *, teacher_loss: float, student_loss: float) -> Verdict:
    """Promotes a student that is better than its teacher by the rule that also chooses checkpoints.

    That is: it classifies more validation images rightly, or as many with a lower loss. A few hundred images tie often.

    Args:
      teacher, student: bool [V], whether each is right on the same V images.
      teacher_loss, student_loss: mean cross-entropy on them, nats.

    Returns:
      The verdict. `p_value` is printed with it and does not decide: it is the two-sided exact McNemar test (McNemar
      1947) on the images that only one of the two gets right, i.e. the probability, were both equally good, of a split
      at least as uneven.
    """
    if len(teacher) != len(student):
        raise ValueError(f"teacher and student were judged on {len(teacher)} and {len(student)} images")
    gained, lost = int(np.sum(student & ~teacher)), int(np.sum(teacher & ~student))
    lower = student_loss < teacher_loss
    if gained == lost:
        word = f"as many right, {'lower' if lower else 'no lower'} loss {student_loss:.3f} (was {teacher_loss:.3f})"
    else:
        word = "better" if gained > lost else "worse"
    p_value = mcnemar(gained, lost)
    reason = f"{word}: {gained} gained, {lost} lost, p = {p_value:.2g}"
    return Verdict(promoted=(gained, lower) > (lost, False), reason=reason, p_value=p_value)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: a binomial test of `gained` among `gained + lost` at 1/2; 1 if both are 0."""
    if gained + lost == 0:
        return 1.0
    import scipy.stats  # slow to import, and needed once a round

    return float(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue)
