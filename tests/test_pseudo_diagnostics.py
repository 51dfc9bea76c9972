"""What pseudo-labels are worth against the truth: counts, bins and confusions by hand, the file, and the page."""

import json
import re

import numpy as np
import pytest

from tlx import calibration, pseudo_diagnostics, pseudo_label, report
from tlx.errors import UserError

# Taken for a, a, a, b, b, c with confidences 0.9, 0.8, 0.7, 0.9, 0.4 and 0.8; image 4 is dropped, of c is one copied.
PROBABILITIES = np.array(
    [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]]
)
INDEX = np.array([7, 6, 5, 3, 2, 1])
TRUTH = np.array([-1, 2, 9, -1, 0, 0, 1, 0])  # of the six: a, b, a, unknown, class 9, c
NAMES = ("a", "b", "c")


@pytest.fixture
def labels():
    options = {"threshold": 0.75, "drop_below": 0.5, "per_class": 2}
    return pseudo_label.make(INDEX, np.log(PROBABILITIES), teacher="t", **options)


def test_by_hand(labels):
    # Of a the two surest are drawn, the one of b and the one of c twice. All four count.
    found = pseudo_diagnostics.diagnose(labels, TRUTH, NAMES, bins=2)
    counts = {"unlabeled": 6, "known": 5, "dropped": 1, "distinct": 4, "drawn": 6, "copies": 2, "used": 4}
    assert found["counts"] == counts
    assert [tuple(row.values()) for row in found["classes"]] == [
        ("a", 3, 2, 0, 0.75, 0.5),
        ("b", 2, 1, 1, 0.75, None),  # whose truth is not known
        ("c", 1, 1, 1, 0.75, 1.0),
    ]
    assert found["bins"]["count"] == [1, 5]
    np.testing.assert_allclose(found["bins"]["confidence"], [0.4, 4.1 / 5], rtol=1e-6)
    assert found["bins"]["accuracy"] == [0.0, 0.75]  # of the one that is dropped, and of a, b, a, c
    # Of the five known: one in the lower bin, |0 - 0.4|, and four in the upper one, |3/4 - 0.8|.
    assert found["calibration_error"] == pytest.approx((0.4 + 4 * 0.05) / 5, rel=1e-6)
    (confusion,) = found["confusions"]
    assert confusion.pop("confidence") == pytest.approx(0.8, rel=1e-6)
    assert confusion == {"true": "b", "taken_for": "a", "count": 1}
    assert found["dropped"] == {"known": 1, "wrong": 1, "classes": [{"name": "9", "count": 1}]}
    assert (found["threshold"], found["drop_below"]) == (0.75, 0.5)
    assert json.loads(json.dumps(found)) == found


def test_an_unknown_truth_leaves_the_counts():
    labels = pseudo_label.make(INDEX, np.log(PROBABILITIES), teacher="t")
    found = pseudo_diagnostics.diagnose(labels, np.full(8, -1), NAMES)
    assert found["counts"]["known"] == 0 and found["counts"]["used"] == 6
    assert found["bins"]["accuracy"] == [None] * 10 and sum(found["bins"]["count"]) == 6
    assert found["calibration_error"] is None and found["confusions"] == []
    assert [row["accuracy"] for row in found["classes"]] == [None] * 3


def test_no_label_counts():
    labels = pseudo_label.make(INDEX, np.log(PROBABILITIES), teacher="t", threshold=0.95)
    found = pseudo_diagnostics.diagnose(labels, TRUTH, NAMES)
    assert found["counts"]["used"] == 0 and found["counts"]["drawn"] == 6 and found["confusions"] == []
    assert [row["accuracy"] for row in found["classes"]] == [None] * 3
    known = INDEX[TRUTH[INDEX] >= 0]
    rows = np.isin(INDEX, known)
    expected = calibration.expected_calibration_error(labels.logits[rows], TRUTH[known], 10)
    assert found["calibration_error"] == expected


def test_the_eight_most_frequent_confusions():
    # Of class k, k + 1 images are taken for class 0, all with the same confidence.
    truth = np.repeat(np.arange(12), np.arange(1, 13))
    logits = np.tile(np.log([0.45] + [0.05] * 11), (len(truth), 1))
    labels = pseudo_label.make(np.arange(len(truth)), logits, teacher="t")
    found = pseudo_diagnostics.diagnose(labels, truth, list(range(12)))["confusions"]
    assert [(row["true"], row["taken_for"], row["count"]) for row in found] == [
        (str(k), "0", k + 1) for k in range(11, 3, -1)
    ]
    np.testing.assert_allclose([row["confidence"] for row in found], 0.45, rtol=1e-6)


def test_save_and_load(tmp_path, labels):
    assert pseudo_diagnostics.load(tmp_path) == {}
    found = pseudo_diagnostics.diagnose(labels, TRUTH, NAMES)
    for number in (10, 2):
        pseudo_diagnostics.save(found, tmp_path, number)
    assert list(pseudo_diagnostics.load(tmp_path).items()) == [(2, found), (10, found)]
    for content, says in (("{", "is not valid JSON"), ('{"counts": {}}', "delete it"), ("[]", "delete it")):
        (tmp_path / "pseudo_labels" / "round_2.json").write_text(content)
        with pytest.raises(UserError, match=f"round_2.json .*{says}"):
            pseudo_diagnostics.load(tmp_path)


def written_page(path, *diagnoses):
    path.mkdir()
    (path / "config.json").write_text('{"name": "digits"}')
    for number, diagnosis in enumerate(diagnoses, 1):
        pseudo_diagnostics.save(diagnosis, path, number)
    assert report.main([str(path)]) == 0
    return (path / "report.html").read_text()


def test_section_of_the_report(tmp_path, labels):
    logits = np.log(PROBABILITIES)
    first = pseudo_label.make(INDEX, logits, teacher="t", threshold=0.85, flexible=True)
    diagnoses = [
        pseudo_diagnostics.diagnose(first, np.full(8, -1), NAMES),
        pseudo_diagnostics.diagnose(labels, TRUTH, ["<i>a</i>", *NAMES[1:]], bins=2),
    ]
    html = written_page(tmp_path / "run", *diagnoses)
    section = re.search(r"<section><h2>What the teachers said</h2>.*?</section>", html, re.DOTALL)[0]
    last, earlier = section.split("<details><summary>Round 1</summary>")
    for text in (
        "<h3>Round 2</h3>",
        "never used in training, selection or promotion",
        "4 of 6 pseudo-labels count (threshold 0.75).",
        "Images dropped for a confidence below 0.5: 1.",
        "To balance the classes, images left out: 1, copies drawn: 2.",
        "Expected calibration error: 12.00\u00a0%.",
        "<td>b</td><td>&lt;i&gt;a&lt;/i&gt;</td><td class=n>1</td><td class=n>0.800</td>",
        "1 of 1 would have been labelled wrong",
        "<td>9</td><td class=n>1</td>",
        "<td class=n>0.75</td><td class=n>50.00\u00a0%</td>",
    ):
        assert text in last, text
    # sigma = (1, 1, 0) and 4 of 6 do not reach it: beta = 1/4, and 1/4 / (2 - 1/4) * 0.85 = 0.121.
    assert "6 of 6 pseudo-labels count (threshold 0 to 0.121, by class)." in earlier
    assert "calibration" not in earlier and "dropped" not in earlier and "<td class=n>–</td>" in earlier
    drawn = {path.stem for path in (tmp_path / "run" / "plots").glob("*.png")}
    assert drawn == {"pseudo_labels_1", "pseudo_labels_2"}


def test_many_classes_are_folded(tmp_path):
    labels = pseudo_label.make(np.arange(30), np.eye(30) * 9, teacher="t")
    html = written_page(tmp_path / "run", pseudo_diagnostics.diagnose(labels, np.arange(30), range(30)))
    assert "<summary>30 classes</summary>" in html and "None among the labels that count" in html


def test_without_diagnoses_there_is_no_section(tmp_path):
    assert "What the teachers said" not in written_page(tmp_path / "run")
