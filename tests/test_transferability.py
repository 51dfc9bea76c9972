"""Transferability: each figure against its definition worked out another way, its limits, and the inputs refused."""

import dataclasses
import json
import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlx.errors import UserError
from tlx.transferability import h_score, hscore, knn_accuracy, log_me, neighbours, probe_accuracy, score
from tlx.transferability.evidence import balanced_rows

SEEDS = st.integers(0, 2**32 - 1)
FIGURES = (log_me, h_score, knn_accuracy, probe_accuracy)


def task(count, dimensions, classes, *, noise, seed=0):
    """Class means plus noise, as many of each class (up to one), in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    means = rng.normal(size=(classes, dimensions))
    return means[labels] + noise * rng.normal(size=(count, dimensions)), labels


# LogME


def log_evidence(features, target, alpha, beta):
    """The density of y ~ N(0, I / beta + F F' / alpha) at the target: w integrated out, no mean of a posterior."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * (target @ np.linalg.solve(covariance, target) + logdet + len(target) * np.log(2 * np.pi))


def brute_force(features, labels, bounds=((-20, 25), (-5, 18))):
    """Mean over classes of the maximum over (alpha, beta), searched for from many starts, over N."""
    best = []
    for name in np.unique(labels):
        loss = lambda logs, target=(labels == name) * 1.0: -log_evidence(features, target, *np.exp(logs))
        starts = [(a + b, b) for a in (-6, -2, 2, 6, 10) for b in (0, 3, 6)]
        tries = [scipy.optimize.minimize(loss, s, method="L-BFGS-B", bounds=bounds) for s in starts]
        highest = min(tries, key=lambda tried: tried.fun)
        # The rest without gradients: by differences they end it up to 1e-5 too early, which depends on scipy's version.
        polish = {"method": "Nelder-Mead", "bounds": bounds, "options": {"xatol": 1e-6, "fatol": 1e-12}}
        best.append(-scipy.optimize.minimize(loss, highest.x, **polish).fun)
    return np.mean(best) / len(labels)


@pytest.mark.parametrize("count, dimensions", [(40, 5), (30, 30), (15, 40)])
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_log_me_is_the_maximum_over_alpha_and_beta(count, dimensions, noise):
    features, labels = task(count, dimensions, 3, noise=noise)
    assert log_me(features, labels) == pytest.approx(brute_force(features, labels), abs=1e-6)


def test_log_me_finds_the_higher_of_two_maxima():
    """One strong direction tells the class weakly; three, hundreds of times weaker, tell it well.

    Iterating the fixed point from alpha = beta = 1 stays with the strong one.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    strong, weak = (2 * labels - 1)[:, None] + rng.normal(size=(60, 1)), (2 * labels - 1)[:, None]
    features = np.concatenate([strong, 3e-3 * (weak + 0.3 * rng.normal(size=(60, 3))), np.ones((60, 1))], 1)
    value = log_me(features, labels)
    assert value == pytest.approx(brute_force(features, labels, bounds=((-9, 9), (-3, 8))), abs=1e-6)

    alpha = beta = 1.0
    for _ in range(200):
        mean = beta * np.linalg.solve(alpha * np.eye(5) + beta * features.T @ features, features.T @ labels)
        spectrum = beta * np.linalg.svd(features, compute_uv=False) ** 2
        gamma = np.sum(spectrum / (alpha + spectrum))
        alpha, beta = gamma / (mean @ mean), (60 - gamma) / np.sum((labels - features @ mean) ** 2)
    assert log_evidence(features, labels, alpha, beta) / 60 < -0.3 and value > 0.5


def test_log_me_without_signal_is_that_of_noise_alone():
    """Features orthogonal to every target leave N(0, 1 / beta), whose best 1 / beta is the mean square of y."""
    labels = np.arange(20) % 2
    features = np.zeros((20, 3))
    for column in range(3):  # of each class, one example with 1 and one with -1
        features[4 * column : 4 * column + 4, column] = (1, 1, -1, -1)
    for name in (0, 1):
        np.testing.assert_array_equal(features.T @ (labels == name), 0)
    assert log_me(features, labels) == pytest.approx(-0.5 * (math.log(2 * math.pi * 0.5) + 1), rel=1e-9)


def test_log_me_of_an_exact_fit_is_finite_and_the_highest():
    labels = np.arange(30) % 3
    exact = np.eye(3)[labels]
    noisy = exact + 1e-3 * np.random.default_rng(0).normal(size=exact.shape)
    assert math.isfinite(log_me(exact, labels)) and log_me(exact, labels) > log_me(noisy, labels) > 3


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, count=st.integers(6, 30), dimensions=st.integers(1, 30), noise=st.floats(0.01, 100))
def test_log_me_converges_and_knows_no_unit_nor_rotation(seed, count, dimensions, noise):
    features, labels = task(count, dimensions, 3, noise=noise, seed=seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = log_me(features, labels)
        assert log_me(1e-6 * features @ rotation, labels) == pytest.approx(value, abs=1e-5)
    for alpha, beta in 10.0 ** np.random.default_rng(seed).uniform(-4, 4, (20, 2)):
        some = np.mean([log_evidence(features, (labels == name) * 1.0, alpha, beta) for name in range(3)])
        assert some / count <= value + 1e-6


# H-score


def direct_h_score(features, labels, covariance, shrinkage):
    """(1 - a) tr(C^-1 cov(E[f|y])), as the definition has it: each row replaced by its class's mean."""
    means = np.stack([features[labels == label].mean(0) for label in labels])
    return (1 - shrinkage) * np.trace(np.linalg.solve(covariance, np.cov(means.T, bias=True)))


def no_shrinkage(centred, assume_centered):
    return centred.T @ centred / len(centred), 0.0


@pytest.mark.parametrize("count, dimensions", [(400, 6), (50, 30), (20, 40)])
def test_h_score_is_the_formula_with_ledoit_and_wolf(count, dimensions):
    from sklearn.covariance import ledoit_wolf

    features, labels = task(count, dimensions, 4, noise=2.0)
    value = h_score(features + 7, labels)
    assert value == pytest.approx(direct_h_score(features, labels, *ledoit_wolf(features)), rel=1e-9)
    assert 0 < value < 3


def test_h_score_without_shrinkage_is_the_same_under_invertible_maps(monkeypatch):
    features, labels = task(300, 6, 4, noise=1.5)
    mapped = features @ np.random.default_rng(1).normal(size=(6, 6)) + 5
    shrunk = h_score(features, labels)
    assert h_score(mapped, labels) != pytest.approx(shrunk, rel=1e-4)  # shrinkage is towards one particular basis
    monkeypatch.setattr("sklearn.covariance.ledoit_wolf", no_shrinkage)
    value = h_score(features, labels)
    assert value == pytest.approx(direct_h_score(features, labels, np.cov(features.T, bias=True), 0), rel=1e-9)
    assert h_score(mapped, labels) == pytest.approx(value, rel=1e-9)
    assert shrunk < value


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(8, 40), dimensions=st.integers(2, 40), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_h_score_bounds_rotation_shift_and_factor(seed, count, dimensions, scale):
    features, labels = task(count, dimensions, 3, noise=1.0, seed=seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))
    value = h_score(features, labels)
    assert -1e-9 <= value <= 2 + 1e-9
    assert h_score(scale * (features @ rotation + 3), labels) == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_h_score_of_separate_classes_is_nearly_k_minus_1():
    features, labels = task(500, 8, 5, noise=1e-3)
    assert 3.95 < h_score(features, labels) <= 4
    dead = np.concatenate([features, np.zeros((500, 2))], 1)  # units that never fire
    assert 3.95 < h_score(dead, labels) <= 4


def test_h_score_of_a_full_factorial_design_by_hand():
    """Two features of variance 1 and covariance 0; the class is the first one's sign: tr = 1 + 0."""
    features = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]] * 5, float)
    assert hscore.between_classes(features, (features[:, 0] > 0).astype(int)) == pytest.approx(1)
    assert hscore.between_classes(features, (features.prod(1) > 0).astype(int)) == pytest.approx(0)


# Nearest neighbours


def cosine(k):
    return KNeighborsClassifier(k, metric="cosine", algorithm="brute")


@pytest.mark.parametrize("k, classes", [(1, 3), (3, 2), (5, 2)])  # odd votes of two classes never tie
def test_knn_is_sklearns_where_no_vote_ties(k, classes):
    features, labels = task(120, 10, classes, noise=2.5)
    expected = cross_val_predict(cosine(k), features, labels, cv=LeaveOneOut()) == labels
    assert 0.5 < expected.mean() < 1 and knn_accuracy(features, labels, k) == expected.mean()


def test_neighbours_are_sklearns():
    features, _ = task(200, 10, 4, noise=2.0)
    _, expected = cosine(6).fit(features, np.zeros(200)).kneighbors()
    np.testing.assert_array_equal(neighbours.nearest(features, 6), expected)


def test_ties_by_hand():
    duplicates = np.array([[1.0, 0], [2, 0], [3, 0], [0, 1], [0, 0]])
    near = neighbours.nearest(duplicates, 2)
    np.testing.assert_array_equal(near, [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]])  # the lower row first
    codes = np.array([0, 1, 1, 0, 2, 2])
    # One vote each: the nearest one's class wins, whatever its number; two votes beat a nearer one.
    assert neighbours.vote(np.array([[3, 1, 4], [4, 0, 2], [0, 5, 1], [1, 2, 0], [1, 4, 5], [0, 2, 4]]), codes) == 2 / 6


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(4, 30), rows=st.integers(1, 30))
def test_blocks_change_nothing(seed, count, rows):
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (count, 3)) * 0.1  # many duplicates and zeros
    with pytest.MonkeyPatch.context() as patch:
        whole = neighbours.nearest(features, 3)
        patch.setattr(neighbours, "BLOCK_BYTES", rows * count * 8)
        np.testing.assert_array_equal(neighbours.nearest(features, 3), whole)
    assert (whole != np.arange(count)[:, None]).all() and (np.diff(np.sort(whole)) > 0).all()


# The probe


@pytest.mark.parametrize("inverse_l2", [1.0, 0.01])
def test_probe_is_sklearns(inverse_l2):
    features, labels = task(150, 20, 3, noise=3.0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_l2, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    expected = (cross_val_predict(model, features, labels, cv=folds) == labels).mean()
    assert 0.5 < expected < 1
    assert probe_accuracy(features, labels, seed=3, inverse_l2=inverse_l2) == pytest.approx(expected, abs=1e-12)


def test_probe_with_fewer_members_than_folds():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sizes in ((2, 2, 2), (2, 3, 40)):
            labels = np.repeat([4, 7, 9], sizes)
            features = (labels[:, None] == (4, 7, 9)) + 0.01 * np.random.default_rng(0).normal(size=(len(labels), 3))
            assert probe_accuracy(features, labels) == 1


# All four


def test_figures_fall_as_noise_rises():
    values = np.array([[figure(*task(300, 16, 4, noise=noise)) for figure in FIGURES] for noise in (0.5, 2, 4, 12)])
    assert (np.diff(values, axis=0) < 0).all(), values


@pytest.mark.parametrize("count, dimensions", [(400, 10), (60, 100)])
def test_shuffled_labels_give_chance(count, dimensions):
    evidence = score(*task(count, dimensions, 4, noise=1.0), shuffles=4)
    for figure in (evidence.knn, evidence.probe):
        assert figure.shuffled == pytest.approx(0.25, abs=0.08)
        assert figure.normalised > 0.7 and figure.gap == figure.value - figure.shuffled
    assert evidence.log_me.gap > 0.2 and evidence.log_me.normalised is None
    assert evidence.h_score.normalised == pytest.approx(evidence.h_score.gap / (3 - evidence.h_score.shuffled))


def test_noise_has_no_gap():
    features, labels = np.random.default_rng(0).normal(size=(300, 20)), np.arange(300) % 3
    evidence = score(features, labels)
    assert abs(evidence.log_me.gap) < 0.02
    assert all(abs(figure.normalised) < 0.12 for figure in (evidence.h_score, evidence.knn, evidence.probe))


def test_score_holds_the_four_figures_and_is_deterministic():
    features, labels = task(60, 8, 3, noise=2.0)
    evidence = score(features, labels, seed=5)
    assert evidence.log_me.value == log_me(features, labels)
    assert evidence.h_score.value == h_score(features, labels)
    assert evidence.knn.value == knn_accuracy(features, labels)
    assert evidence.probe.value == probe_accuracy(features, labels, seed=5)
    assert (evidence.classes, evidence.dimensions, evidence.available, evidence.examples) == (3, 8, 60, 60)
    assert score(features, labels, seed=5) == evidence
    assert score(jnp.asarray(features, jnp.float32), 10 - 3 * jnp.asarray(labels), seed=5).knn.value > 0.5
    assert json.loads(json.dumps(dataclasses.asdict(evidence)))["k"] == 5
    other = score(features, labels, seed=6)
    assert other.log_me.value == evidence.log_me.value and other.log_me.shuffled != evidence.log_me.shuffled


def test_score_of_few_examples_a_class():
    features, labels = task(6, 20, 3, noise=0.1)
    evidence = score(features, labels)
    assert evidence.k == 1 and evidence.knn.value == 1 and math.isfinite(evidence.log_me.gap)


def test_subsample_is_balanced_and_said():
    labels = np.repeat([0, 1, 2], [300, 100, 5])
    features = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).normal(size=(405, 3))
    evidence = score(features, labels, limit=105, shuffles=1)
    assert (evidence.available, evidence.examples) == (405, 105)
    # 50 + 50 + 5: shuffled labels are right for 0.48 of them, and of all 405 for 0.61.
    assert evidence.probe.value == 1 and evidence.knn.shuffled == pytest.approx(0.48, abs=0.12)
    assert score(features, labels, limit=105, shuffles=1) == evidence
    assert score(features, labels, limit=105, shuffles=1, seed=1).log_me.value != evidence.log_me.value


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(2, 30), min_size=2, max_size=6), data=st.data(), seed=SEEDS)
def test_each_class_gets_an_equal_share_or_all_it_has(sizes, data, seed):
    limit = data.draw(st.integers(2 * len(sizes), sum(sizes)))
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = balanced_rows(codes, limit, np.random.default_rng(seed))
    assert len(rows) == limit and (np.diff(rows) > 0).all()
    taken = np.bincount(codes[rows], minlength=len(sizes))
    cut = taken < sizes  # the classes that could have given more
    assert taken.min() >= 2 and all(taken[cut] >= taken.max() - 1)


# What is refused


@pytest.mark.parametrize("figure", [*FIGURES, score])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f, y: (f[:, :, None], y), r"features have shape \(12, 3, 1\): give \[N, D\]"),
        (lambda f, y: (f[:, :0], y), r"features have shape \(12, 0\)"),
        (lambda f, y: (f, y[:-1]), r"labels have shape \(11,\): give one for each of the 12 rows"),
        (lambda f, y: (f, np.eye(2)[y]), r"labels have shape \(12, 2\)"),
        (lambda f, y: (f, y * 1.0), "labels are float64: give class indices"),
        (lambda f, y: (np.where(np.arange(3) == 1, np.nan, f), y), r"features\[0, 1\] is nan: they must be finite"),
        (lambda f, y: (f, 0 * y + 7), "labels name 1 class: a task has 2 or more"),
        (lambda f, y: (f[:0], y[:0]), "labels name 0 classes"),
        (lambda f, y: (0 * f + 3, y), "features are the same for all 12 examples"),
    ],
)
def test_bad_input(figure, change, message):
    features, labels = task(12, 3, 2, noise=1.0)
    with pytest.raises(UserError, match=message):
        figure(*change(features, labels))


@pytest.mark.parametrize("figure", [knn_accuracy, probe_accuracy, score])
def test_a_class_with_one_example(figure):
    features, labels = task(12, 3, 2, noise=1.0)
    labels[4] = 9
    assert math.isfinite(log_me(features, labels)) and h_score(features, labels) >= 0
    with pytest.raises(UserError, match="class 9 has 1 example, and .* needs 2, .*: add one, or leave the class out"):
        figure(features, labels)


def test_bad_options():
    data = task(12, 3, 2, noise=1.0)
    for call, message in (
        (lambda: knn_accuracy(*data, k=0), "k is 0: .* use 1 to 11"),
        (lambda: knn_accuracy(*data, k=12), "k is 12: each of 12 examples has 11 others"),
        (lambda: probe_accuracy(*data, folds=1), "folds is 1"),
        (lambda: probe_accuracy(*data, seed=-1), "seed is -1"),
        (lambda: probe_accuracy(*data, inverse_l2=0.0), "inverse_l2 is 0.0"),
        (lambda: score(*data, seed=2**32), "seed is 4294967296"),
        (lambda: score(*data, shuffles=0), "shuffles is 0"),
        (lambda: score(*data, limit=3), "limit is 3: 2 classes need 4"),
    ):
        with pytest.raises(UserError, match=message):
            call()
