"""The comparison of teacher and students: its rows, costs that add up, alternating timings, its table and section."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from tlx import calibration, compression, latency, models, report
from tlx.compression import Entry
from tlx.errors import UserError

SHAPE = (4, 4, 1)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "_SECONDS", 0.0)
        yield


def network(*widths):
    model = models.build("mlp", num_classes=7, widths=widths)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False))
    return models.make_apply(model), jax.tree.map(lambda x: np.full(x.shape, 0.1, np.float32), dict(shapes))


@pytest.fixture(scope="module")
def compared():
    """A teacher of two networks, a student with a projector, and a teacher's file of logits for a student."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200)
    logits = 3 * np.eye(7)[labels] + rng.normal(size=(3, 200, 7))
    apply, variables = network(4)
    training = {"params": variables["params"] | {"projector": {"kernel": np.ones((9, 9), np.float32)}}}
    entries = [
        Entry("teacher", "2 x mlp", logits[0], [network(8), network(16)]),
        Entry("student", "mlp", logits[1], [(apply, training)]),
        Entry("student without a teacher", "mlp", logits[2]),
    ]
    return entries, labels, compression.compare(entries, labels=labels, image_shape=SHAPE)


def test_rows(compared):
    entries, labels, result = compared
    teacher, student, alone = result["compression"]
    assert [r["role"] for r in (teacher, student, alone)] == [entry.role for entry in entries]
    for entry, row in zip(entries, result["compression"]):
        assert row["accuracy"] == np.mean(entry.logits.argmax(-1) == labels)
        assert row["nll"] == calibration.negative_log_likelihood(entry.logits, labels)
        assert result["reliability"][entry.role] == calibration.reliability(entry.logits, labels)
    faithful = {"agreement_1", "agreement_5", "kl_to_teacher"}
    assert faithful <= student.keys() and faithful <= alone.keys() and not faithful & teacher.keys()
    assert student["agreement_1"] == np.mean(entries[0].logits.argmax(-1) == entries[1].logits.argmax(-1))
    assert "parameters" not in alone and "latency_ms" not in alone
    assert json.loads(json.dumps(result)) == result


def test_costs_add_up_over_an_ensemble_and_leave_out_what_training_alone_uses(compared):
    teacher, student, _ = compared[2]["compression"]
    products = lambda width: 16 * width + width * 7
    assert teacher["multiply_adds"] == products(8) + products(16) and student["multiply_adds"] == products(4)
    values = lambda width: products(width) + width + 7
    assert teacher["parameters"] == values(8) + values(16) and student["parameters"] == values(4)
    assert teacher["megabytes"] == pytest.approx(4e-6 * teacher["parameters"])
    assert all(row[name] > 0 for row in (teacher, student) for name in ("latency_ms", "images_per_second"))


def test_statistics_count_in_the_size_and_not_as_parameters():
    model = models.build("resnet8", num_classes=3, width=0.25)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    variables = jax.eval_shape(init)
    size = compression.size(models.make_apply(model), variables, (8, 8, 1))
    statistics = models.parameter_count(variables["batch_stats"])
    assert size["parameters"] == models.parameter_count(variables["params"]) and statistics > 0
    assert size["megabytes"] == pytest.approx(4e-6 * (size["parameters"] + statistics))


def test_an_ensemble_gives_each_members_logits():
    members = [network(8), network(16)]
    images = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    apply, variables = compression.ensemble(members)
    logits, _ = apply(variables, images, train=False)
    for found, (run, own) in zip(logits, members, strict=True):
        np.testing.assert_array_equal(found, run(own, images, train=False)[0])


def test_without_a_teacher_there_is_nothing_to_agree_with(compared):
    entries, labels, _ = compared
    rows = compression.compare(entries[1:], labels=labels, image_shape=SHAPE)["compression"]
    assert len(rows) == 2 and not any("kl_to_teacher" in row for row in rows)


def test_bad_entries(compared):
    entries, labels, _ = compared
    with pytest.raises(UserError, match="'student' is given twice"):
        compression.compare([entries[1], entries[1]], labels=labels, image_shape=SHAPE)
    with pytest.raises(UserError, match=r"logits of 'student' are of shape \[200, 7\] and not \[199, 7\]"):
        compression.compare(entries[1:], labels=labels[:199], image_shape=SHAPE)
    narrow = Entry("student", "mlp", entries[1].logits[:, :6])
    with pytest.raises(UserError, match=r"of shape \[200, 6\] and not \[200, 7\]"):
        compression.compare([entries[0], narrow], labels=labels, image_shape=SHAPE)


def test_networks_take_turns():
    calls = []
    make = lambda name: lambda images: calls.append(name) or images
    seconds = latency._medians({name: make(name) for name in "abc"}, np.zeros(2), repeats=4)
    assert "".join(calls) == "abc" * 5 and seconds.keys() == set("abc")  # the first compiles


def test_one_network():
    speed = latency.compare({"": network(4)}, SHAPE, batch_sizes=(1, 3))[""]
    assert speed.keys() == {"latency_ms", "images_per_second"} and min(speed.values()) > 0


ROWS = [
    {"role": "teacher", "model": "2 x [cnn]", "accuracy": 0.98, "nll": 0.05, "ece": 0.0123}
    | {"parameters": 2_000_000, "multiply_adds": 8_000_000, "megabytes": 8.0}
    | {"latency_ms": 4.0, "images_per_second": 1000.0},
    {"role": "student", "model": "mlp", "accuracy": 0.97, "nll": 0.08, "ece": 0.02, "agreement_1": 0.985}
    | {"kl_to_teacher": 0.03, "parameters": 100_000, "multiply_adds": 99_000, "megabytes": 0.4}
    | {"latency_ms": 0.5, "images_per_second": 12000.0},
]
CURVE = {"confidence": [None, 0.6, 0.97], "accuracy": [None, 0.5, 0.99], "count": [0, 4, 196]}


def test_table_for_the_terminal():
    console = rich.console.Console(width=100, record=True, file=io.StringIO())
    console.print(report.compression_table({"compression": ROWS}))
    lines = {line.split("  ")[0].strip(): line for line in console.export_text().splitlines()}
    assert "2 x [cnn]" in lines["model"] and "1.23\u00a0%" in lines["calibration error (ECE)"]
    assert "100,000 (× 0.05)" in lines["parameters"] and "0.5 (× 0.125)" in lines["ms for one image"]
    assert "12,000 (× 12)" in lines["images a second"] and "– " in lines["agrees with the teacher"]
    assert "agreement on the top five" not in lines
    assert report.compression_table({}).row_count == 0


def write_run(path, **result):
    path.mkdir()
    (path / "config.json").write_text('{"name": "compressed"}')
    (path / "result.json").write_text(json.dumps(result))
    return path


def test_section_of_the_report(tmp_path):
    evil = "<b>student</b>"
    curves = {"teacher": CURVE, evil: CURVE}
    rows = [ROWS[0], ROWS[1] | {"role": evil, "model": evil}]
    run = write_run(tmp_path / "run", compression=rows, reliability=curves, devices="2 x cpu")
    html = report.write(run).read_text()
    for text in ("<h2>Compression</h2>", "100,000 (× 0.05)", "on one of 2 x cpu", "× is the ratio to the teacher"):
        assert text in html, text
    assert "<b>student" not in html and "&lt;b&gt;student" in html
    assert (run / "plots" / "reliability.png").stat().st_size > 5_000


def test_section_without_costs_or_curves(tmp_path):
    rows = [{"role": "student", "model": "mlp", "accuracy": 0.97, "nll": 0.08, "ece": 0.02}]
    html = report.write(write_run(tmp_path / "logits", compression=rows)).read_text()
    assert "<h2>Compression</h2>" in html and "Speed" not in html and "×" not in html
    assert "Compression" not in report.write(write_run(tmp_path / "none", figures={})).read_text()


def test_a_curve_without_images_is_drawn(tmp_path):
    nothing = {"confidence": [None], "accuracy": [None], "count": [0]}
    report.write(write_run(tmp_path / "run", compression=ROWS, reliability={"teacher": nothing}))
