"""Whether a student takes its teacher's place: a paired comparison on the validation images, never on the test set."""

import dataclasses

import numpy as np

from tlx.errors import UserError, did_you_mean

TESTS = ("better", "mcnemar", "bootstrap")
RESAMPLES = 10_000  # of the validation images


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`promoted`, the `reason` in words, and the p-value of the test that was made; None where nothing was compared."""

    promoted: bool
    reason: str
    p_value: float | None


def compare(
    teacher: np.ndarray,
    student: np.ndarray,
    *,
    teacher_loss: float,
    student_loss: float,
    test: str = "better",
    level: float = 0.05,
) -> Verdict:
    """Promotes a student that is better than its teacher.

    Args:
      teacher, student: bool [V], whether each is right on the same V images.
      teacher_loss, student_loss: mean cross-entropy on them, nats.
      test: what "better" takes.
        "better": more images right, or as many with a lower loss: the rule that also chooses checkpoints, since a few
          hundred images tie often. The p-value is McNemar's, is printed, and does not decide.
        "mcnemar": more images right, and a p-value of `mcnemar` below `level`.
        "bootstrap": more images right, and a p-value of `bootstrap` below `level`.
      level: of the test, in (0, 1).

    Raises:
      UserError: an unknown test, or a level out of range.
    """
    check_options(test=test, level=level)
    if len(teacher) != len(student):
        raise ValueError(f"teacher and student were judged on {len(teacher)} and {len(student)} images")
    gained, lost = int(np.sum(student & ~teacher)), int(np.sum(teacher & ~student))
    lower = student_loss < teacher_loss
    if gained == lost:
        word = f"as many right, {'lower' if lower else 'no lower'} loss {student_loss:.3f} (was {teacher_loss:.3f})"
    else:
        word = "better" if gained > lost else "worse"
    counts = f"{word}: {gained} gained, {lost} lost"
    if test == "better":
        p_value = mcnemar(gained, lost)
        return Verdict((gained, lower) > (lost, False), f"{counts}, p = {p_value:.2g}", p_value)
    two_sided = test == "mcnemar"
    p_value = mcnemar(gained, lost) if two_sided else bootstrap(gained, lost, len(teacher))
    promoted = gained > lost and p_value < level
    sides = "two" if two_sided else "one"
    doubt = ", not enough" if gained > lost and not promoted else ""
    reason = f"{counts}{doubt}: p = {p_value:.3g} ({test}, {sides}-sided, level {level:g})"
    return Verdict(promoted, reason, p_value)


def check_options(*, test: str, level: float) -> None:
    """Raises UserError unless there is such a test, and a level that it can be passed at."""
    if test not in TESTS:
        raise UserError(f"promotion.test is {test!r}{did_you_mean(test, TESTS)}: use one of {', '.join(TESTS)}")
    if not 0 < level < 1:
        raise UserError(f"promotion.level is {level}: a test's level is between 0 and 1, such as 0.05")


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test (McNemar 1947; not checked against the paper).

    The probability, were both networks equally good, of a split at least as uneven of the images that only one of the
    two gets right: a binomial test of `gained` among `gained + lost` at 1/2; 1 if both are 0.
    """
    if gained + lost == 0:
        return 1.0
    import scipy.stats  # slow to import, and needed once a round

    return float(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue)


def bootstrap(gained: int, lost: int, images: int) -> float:
    """One-sided paired percentile bootstrap: the probability that the student is not better.

    Efron & Tibshirani (1993), chapter 13; the form (r + 1) / (B + 1) is Davison & Hinkley's (1997), chapter 4. Neither
    was checked against the book.

    Args:
      gained, lost: images that only the student, and only the teacher, gets right.
      images: all that the two were judged on.

    Returns:
      Of B = RESAMPLES resamples of the images, drawn with replacement, the share r / B in which the student gets no
      more right than the teacher; as (r + 1) / (B + 1), so that it is never 0. The same for the same counts.
    """
    # A resample is no more than how many of its images are gained, lost and neither: one draw of a multinomial.
    shares = np.array([gained, lost, images - gained - lost]) / images
    drawn = np.random.default_rng(0).multinomial(images, shares, size=RESAMPLES)  # [B, 3]
    return (int(np.sum(drawn[:, 0] <= drawn[:, 1])) + 1) / (RESAMPLES + 1)
