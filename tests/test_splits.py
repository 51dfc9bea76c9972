import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.data import splits
from tlx.errors import UserError

# Labels of 2-5 classes with 4-12 images each, in random order.
LABELS = st.lists(st.integers(4, 12), min_size=2, max_size=5).flatmap(
    lambda sizes: st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())
)


@settings(max_examples=50, deadline=None)
@given(labels=LABELS, seed=st.integers(-(2**40), 2**40), count=st.integers(1, 2), validation=st.integers(0, 4))
def test_disjoint_covering_and_balanced(labels, seed, count, validation):
    labels = np.array(labels)
    made = splits.make_splits(labels, name="x", seed=seed, labels_per_class=count, validation=validation)
    parts = [made.labeled, made.unlabeled, made.validation]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert (np.bincount(labels[made.labeled]) == count).all()
    held_out = np.bincount(labels[made.validation], minlength=labels.max() + 1)
    assert held_out.sum() == validation and np.ptp(held_out) <= 1


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, seed=st.integers(0, 1000), validation=st.integers(0, 4))
def test_nested_and_deterministic(labels, seed, validation):
    make = lambda count: splits.make_splits(labels, name="x", seed=seed, labels_per_class=count, validation=validation)
    few, more, again = make(1), make(2), make(1)
    assert set(few.labeled) < set(more.labeled)
    np.testing.assert_array_equal(few.labeled, again.labeled)
    np.testing.assert_array_equal(few.validation, more.validation)


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, seeds=st.lists(st.integers(0, 1000), min_size=2, max_size=2), validation=st.integers(1, 4))
def test_validation_is_independent_of_the_seed_and_of_the_labels_per_class(labels, seeds, validation):
    first, second = (
        splits.make_splits(labels, name="x", seed=seed, labels_per_class=count, validation=validation).validation
        for seed, count in zip(seeds, (None, 2))
    )
    np.testing.assert_array_equal(first, second)


def test_seed_and_name_decide():
    labels = np.repeat(np.arange(10), 50)
    make = lambda name, seed: splits.make_splits(labels, name=name, seed=seed, labels_per_class=5, validation=100)
    a, b, c = make("x", 0), make("x", 1), make("y", 0)
    assert set(a.labeled) != set(b.labeled)
    assert set(a.validation) == set(b.validation) != set(c.validation)
    # NumPy's integers are the same seed, as a config or a command line may give either.
    np.testing.assert_array_equal(make("x", np.int64(1)).labeled, b.labeled)


def test_a_share_is_taken_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 10, 2])
    made = splits.make_splits(labels, name="x", seed=0, validation=0.2)
    np.testing.assert_array_equal(np.bincount(labels[made.validation]), [20, 2, 1])
    with pytest.raises(UserError, match="validation is 2.5"):
        splits.make_splits(labels, name="x", seed=0, validation=2.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), validation=st.integers(0, 50))
def test_five_of_each_class_lie_inside_ten_at_every_seed(seed, validation):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 20))
    five, ten = (
        splits.make_splits(labels, name="x", seed=seed, labels_per_class=count, validation=validation)
        for count in (5, 10)
    )
    assert set(five.labeled) < set(ten.labeled) and set(ten.unlabeled) < set(five.unlabeled)


def test_membership_never_changes():
    """Figures are compared over versions of tlx on the same images."""
    made = splits.make_splits(np.arange(20) % 2, name="digits", seed=0, labels_per_class=2, validation=4)
    assert made.validation.tolist() == [1, 4, 5, 12]
    assert made.labeled.tolist() == [0, 17, 18, 19]


def test_all_labeled():
    made = splits.make_splits([0, 1, 0, 1, 0, 1], name="x", seed=0, validation=2)
    assert len(made.labeled) == 4 and len(made.unlabeled) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels_per_class": 4},
            "labels_per_class wants 4 images of class 1, which has 3 that are not for validation",
        ),
        ({"labels_per_class": 3, "validation": 3}, "labels_per_class wants 3 images of class 1, which has 2"),
        ({"labels_per_class": 0}, "labels_per_class is 0: use 1 or more"),
        ({"labels_per_class": -3}, "labels_per_class is -3: use 1 or more"),
        ({"validation": -1}, "validation is -1: it takes 0 to 7 of 8"),
        ({"validation": 8}, "validation is 8"),
        ({"validation": 6}, "validation wants 3 images of class 1, which has 2 to spare for it: lower validation"),
    ],
)
def test_errors(options, message):
    labels = [0, 0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match=message):
        splits.make_splits(labels, name="x", seed=0, **options)


def test_save_and_load(tmp_path):
    made = splits.make_splits(np.arange(30) % 3, name="x", seed=0, labels_per_class=2, validation=6)
    splits.save(made, tmp_path / "splits.json")
    back = splits.load(tmp_path / "splits.json")
    for name in ("labeled", "unlabeled", "validation"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name), strict=True)


def parts(labeled):
    return f'{{"labeled": {labeled}, "unlabeled": [1], "validation": []}}'


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", '{"labeled": [0]}', '{"labeled": 1, "other": 2}', parts("[0]")[:-9]),
        *(parts(labeled) for labeled in ("0", "[0.5]", '["0"]', "[[0]]", "[true]", f"[{2**70}]")),
    ],
)
def test_load_of_something_else(tmp_path, content):
    with pytest.raises(UserError, match="no such file|No such file"):
        splits.load(tmp_path / "none.json")
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="holds no splits"):
        splits.load(tmp_path / "x.json")
