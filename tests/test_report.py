"""The report: what it says, that it stands alone, that it escapes, and that it groups and averages as it claims."""

import io
import json
import pathlib
import re

import matplotlib
import numpy as np
import pytest
import rich.console

from tlx import compare, page, plots, record, report
from tlx.errors import UserError


def write_run(path, seed=0, alpha=1.0, accuracy=0.75, name="tiny", rounds=True, gallery=True, finished=True, **result):
    """A finished run in small: 4 test images of 2 classes, a teacher and a refused student."""
    path.mkdir(parents=True)
    recipe = "self_train" if rounds else "supervised"
    loss = {"alpha": alpha, "teacher": f"runs/teacher_seed{seed}"}
    config = {"recipe": recipe, "name": name, "seed": seed, "loss": loss}
    (path / "config.json").write_text(json.dumps(config))
    lines = []
    for phase in ("teacher", "round_1") if rounds else ("train",):
        for step in (1, 2, 3, 4):
            line = {"phase": phase, "step": step, "train/loss": 2.0 / step, "train/accuracy": step / 4}
            lines.append(line | ({"validation/accuracy": step / 5, "train/kl": 0.1} if step % 2 == 0 else {}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if gallery:
        images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4, 1)
        known = {"images": images, "label": [0, 1], "truth": [0, 0], "confidence": [0.99999, 0.9]}
        unknown = known | {"truth": [-1, -1]}
        arrays = {f"most_sure_{k}": v for k, v in known.items()} | {f"least_sure_{k}": v for k, v in unknown.items()}
        np.savez(path / "gallery.npz", **arrays, student_view_images=images.astype(np.float32) - 3)
    if not finished:
        return path
    first = {"round": 0, "role": "teacher", "model": "cnn", "parameters": 12345, "promoted": True, "reason": "first"}
    second = first | {"round": 1, "role": "student", "promoted": False, "reason": "worse [red]", "p_value": 0.25}
    result = {
        "recipe": recipe,
        "name": name,
        "seed": seed,
        "figures": {"test_accuracy": accuracy, "test_loss": 0.5},
        "confusion": [[2, 0], [1, 1]],
        "class_names": ["cat", "dog"],
        "time": {"total": 92.0, "compile": 20.0, "train": 60.0},
        "versions": {"jax": "0.10.2"},
        "git": "abc1234",
        "devices": "2 x cpu",
    } | result
    if rounds:
        scores = {"validation_accuracy": 0.8, "test_accuracy": 0.75}
        result["rounds"] = [first | scores, second | scores]
    (path / "result.json").write_text(json.dumps(result))
    return path


def test_wilson_matches_the_textbook():
    np.testing.assert_allclose(report.wilson(9, 10), (0.59585, 0.98212), atol=1e-5)
    assert report.wilson(0, 10)[0] == 0 and report.wilson(10, 10)[1] == pytest.approx(1)
    np.testing.assert_allclose(report.wilson(0, 10)[1], 1 - report.wilson(10, 10)[0])


def test_report_says_what_the_run_did(tmp_path):
    path = report.write(write_run(tmp_path / "run", command="python -m tlx.main --seed=0"))
    html = path.read_text()
    assert path == tmp_path / "run" / "report.html"
    low, high = report.wilson(3, 4)
    for text in (
        "75.00\u00a0%",
        "of 4 test images are classified right: 1 are wrong",
        f"{100 * low:.1f} to {100 * high:.1f}",
        "0 of 1 students were promoted",
        "12,345",
        "worse [red] (p = 0.25)",
        "1 of 2</td>",  # dogs taken for cats
        "&gt;99.9",
        "is cat",
        "1 of these 2 are wrong",
        "The truth is not known",
        "1 min 32 s",
        "other 12.0 s",  # what the time's parts leave over
        "python -m tlx.main --seed=0",
        "loss.alpha",
        "jax 0.10.2",
    ):
        assert text in html, text
    drawn = {p.stem for p in (tmp_path / "run" / "plots").glob("*.png")}
    assert drawn == {"accuracy", "loss", "kl", "rounds", "confusion", "most_sure", "least_sure", "student_view"}


def test_page_stands_alone_and_can_be_made_again(tmp_path):
    run = write_run(tmp_path / "run")
    html = report.write(run).read_text()
    for reference in re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", html):
        assert reference.startswith(("data:", "#")), reference
    assert "@import" not in html and "<script" not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    assert not re.search("|".join(plots.COLOR.values()), html.split("</style>")[1])  # every colour follows the theme
    assert report.write(run).read_text() == html


def test_every_text_is_escaped(tmp_path):
    evil = "<script>x</script>$&\"'"
    run = write_run(tmp_path / "run", name=evil, class_names=[evil, "b"], git=evil, devices=evil, command=evil)
    config = json.loads((run / "config.json").read_text()) | {evil: evil}
    (run / "config.json").write_text(json.dumps(config))
    result = json.loads((run / "result.json").read_text())
    result["rounds"][1] |= {"reason": evil, "role": evil, "model": evil}
    result["figures"][evil] = 1.0
    (run / "result.json").write_text(json.dumps(result))
    with (run / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({"phase": evil, "step": 5, f"train/{evil}": 1.0, "train/loss": 1.0}) + "\n")
    html = report.write(run).read_text()
    assert "<script" not in html and html.count("&lt;script") > 10


def test_unfinished_run_gets_curves_and_a_banner(tmp_path):
    run = write_run(tmp_path / "run", finished=False, gallery=False)
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"phase": "round_1", "st')  # killed while writing
    html = report.write(run).read_text()
    assert "This run is not finished" in html and "phase round_1, step 4" in html
    assert "<h2>Curves</h2>" in html and "<h2>Rounds</h2>" not in html and "Confusion" not in html


def test_optional_parts_may_be_absent(tmp_path):
    html = report.write(write_run(tmp_path / "plain", rounds=False, gallery=False)).read_text()
    assert "Pseudo-labels" not in html and "<h2>Rounds" not in html and "75.00" in html
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"name": "bare"}')
    (bare / "metrics.jsonl").write_text("")
    assert "This run is not finished" in report.write(bare).read_text()
    (bare / "result.json").write_text("{}")
    assert "<h1>bare</h1>" in report.write(bare).read_text()


def test_figures_survive_odd_values(tmp_path):
    run = write_run(tmp_path / "run", confusion=np.eye(45, dtype=int).tolist(), accuracy=1.0)
    with (run / "metrics.jsonl").open("a") as f:
        for step, loss in ((5, None), (6, 1e6), (7, float("nan")), (8, float("inf"))):
            f.write(json.dumps({"phase": "round_2", "step": step, "train/loss": loss, "train/off": None}) + "\n")
    report.write(run)


def test_a_confusion_matrix_of_another_checkpoint_is_named(tmp_path):
    assert "another checkpoint" in report.write(write_run(tmp_path / "run", accuracy=0.5)).read_text()
    assert "another checkpoint" not in report.write(write_run(tmp_path / "same", accuracy=0.75)).read_text()


def test_writing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    report.write(write_run(tmp_path / "run"))
    assert dict(matplotlib.rcParams) == before


def test_timeline_lays_phases_end_to_end():
    row = lambda phase, step, value: {"phase": phase, "step": step, "train/loss": value}
    rows = [row("a", 5, 1), row("a", 10, 2), row("b", 5, None), row("b", 20, 4)]
    spans, series = record.timeline(rows)
    assert spans == {"a": (0, 10), "b": (10, 30)}
    x, y = series["loss"]["train"]["b"]
    np.testing.assert_array_equal(x, [15, 30])
    np.testing.assert_array_equal(y, [np.nan, 4])
    spans, _ = record.timeline([row("a", 5, 1), row("a", 10, 2), row("b", 15, 3)])
    assert spans == {"a": (0, 10), "b": (10, 15)}  # steps that run on are left as they are


def test_repeated_steps_count_once_and_the_last_wins(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"phase": "teacher", "step": 4, "train/loss": 9.0}\n')
    metrics = record.load(run).metrics
    assert len(metrics) == 8
    assert metrics[3]["train/loss"] == 9.0 and metrics[3]["train/accuracy"] == 1.0


@pytest.mark.parametrize(
    ("values", "least", "limits"),
    [([97.2, 98.4], 10, (90, 100)), ([12.0, 99.0], 20, (10, 100)), ([50, 52], 5, (50, 55)), ([0.0], 5, (0, 5))],
)
def test_percent_limits_do_not_exaggerate(values, least, limits):
    assert plots.percent_limits(values, least) == limits


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (3e-4, "3e-4"), (-2.5e-4, "-2.5e-4"), (0.0712, "0.0712"), (9071.3, "9,071"), (1e7, "1e7")],
)
def test_short_numbers(value, said):
    assert plots.short(value) == said


def test_end_labels_keep_apart_and_inside():
    with plots.style():
        _, ax = plots.axes(2.0)
        ax.set_ylim(0, 100)
        plots.end_labels(ax, [(99, "a", "k"), (98, "b", "k"), (97, "c", "k"), (10, "d", "k")], gap=0.1)
    heights = {t.get_text(): t.get_position()[1] for t in ax.texts}
    assert heights["a"] - heights["b"] >= 0.099 and heights["b"] - heights["c"] >= 0.099
    assert heights["a"] <= 1.021 and heights["d"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("seconds", "said"), [(4.23, "4.2 s"), (59.97, "1 min 00 s"), (92, "1 min 32 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds, said):
    assert page.duration(seconds) == said


def test_rounds_table_prints_refusals_and_no_markup(tmp_path):
    result = record.load(write_run(tmp_path / "run")).result
    console = rich.console.Console(width=160, record=True, file=io.StringIO())
    console.print(report.rounds_table(result))
    said = console.export_text()
    assert "worse [red] (p = 0.25)" in said and "refused" in said and "12,345" in said and "80.00" in said
    assert report.rounds_table({}).row_count == 0


def three_seeds(tmp_path):
    return [write_run(tmp_path / f"a{s}", seed=s, accuracy=a) for s, a in enumerate((0.70, 0.80, 0.75))]


def test_summarize_groups_by_all_but_the_seed(tmp_path):
    runs = three_seeds(tmp_path)
    other = write_run(tmp_path / "b", alpha=0.5, accuracy=0.9)
    unfinished = write_run(tmp_path / "c", alpha=0.25, finished=False)
    rows = compare.summarize([*runs, runs[0], other, unfinished])
    assert [row["n"] for row in rows] == [3, 1] and rows[0]["seeds"] == [0, 1, 2]
    assert [row["label"] for row in rows] == ["tiny (alpha=1.0)", "tiny (alpha=0.5)"]
    assert [row["differs"] for row in rows] == [{"loss.alpha": 1.0}, {"loss.alpha": 0.5}]  # not the teacher's seed
    figure = rows[0]["figures"]["test_accuracy"]
    assert figure["mean"] == pytest.approx(0.75) and figure["std"] == pytest.approx(0.05)  # ddof = 1
    assert rows[1]["figures"]["test_accuracy"]["std"] is None
    with pytest.raises(UserError, match="finished"):
        compare.summarize([unfinished])


def test_markdown_table(tmp_path):
    rows = compare.summarize([*three_seeds(tmp_path), write_run(tmp_path / "b", alpha=0.5, accuracy=0.9)])
    rows[1] |= {"label": "half | alpha", "published": "91.2"}
    assert compare.markdown_table(rows).splitlines() == [
        "| experiment | n | test accuracy, % | published |",
        "| --- | ---: | ---: | ---: |",
        "| tiny (alpha=1.0) | 3 | 75.00 ± 5.00 |  |",
        r"| half \| alpha | 1 | 90.00 ± - | 91.2 |",
    ]
    wide = compare.markdown_table(rows[:1], figures=["test_loss", "absent"])
    assert wide.splitlines()[-1] == "| tiny (alpha=1.0) | 3 | 0.5 ± 0 | - |"


def test_command_compares_runs(tmp_path, capsys):
    runs = [*three_seeds(tmp_path), write_run(tmp_path / "b", alpha=0.5, rounds=False, gallery=False, name="<b>")]
    assert report.main(list(map(str, runs))) == 0
    said = capsys.readouterr().out
    assert "75.00 ± 5.00" in said and "loss.alpha: A = 1.0, B = 0.5" in said
    path = pathlib.Path(said.splitlines()[-1])
    assert path == tmp_path / "comparison" / "comparison.html"
    html = path.read_text()
    assert "75.00 ± 5.00" in html and "loss.alpha" in html and "<b>  " not in html and "&lt;b&gt;" in html
    drawn = {p.stem for p in (path.parent / "plots").glob("*.png")}
    assert drawn == {"compare_test_accuracy", "compare_test_loss", "compare_curve_accuracy", "compare_curve_loss"}
    # `runs/*` names the comparison too, the second time.
    assert report.main([*map(str, runs), str(path.parent), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "comparison.html").read_text() == html


def test_command_rebuilds_one_report(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert report.main([str(run), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.html")
    assert not (run / "report.html").exists()


def broken(name, content):
    def make(tmp_path):
        run = write_run(tmp_path / "run")
        (run / name).write_text(content)
        return [str(run)]

    return make


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (lambda tmp: [], "no runs given"),
        (lambda tmp: [str(tmp / "absent")], "absent is missing"),
        (lambda tmp: [__file__], "is a file"),
        (lambda tmp: [str(tmp)], "holds none of config.json"),
        (broken("result.json", "{"), "result.json is not valid JSON"),
        (broken("config.json", "[]"), "config.json holds a list"),
        (broken("metrics.jsonl", "{\n{}\n"), "metrics.jsonl line 1"),
        (broken("metrics.jsonl", '{"phase": "x", "step": 1e999}\n{}\n'), "metrics.jsonl line 1"),
        (broken("metrics.jsonl", "[" * 100_000 + "\n{}\n"), "metrics.jsonl line 1"),
        (broken("gallery.npz", "PK"), "gallery.npz is not an npz file"),
        (broken("result.json", '{"rounds": 3}'), "run cannot be read (TypeError: "),
        (broken("strategy.json", "{}"), "a record in it is damaged: restore it, or run again with --overwrite"),
        (lambda tmp: [*broken("result.json", '{"figures": 3}')(tmp), str(write_run(tmp / "b"))], "one of its runs"),
        (lambda tmp: [str(write_run(tmp / "run")), "--out", __file__], "--out"),
        (lambda tmp: [str(write_run(tmp / x, finished=False)) for x in "ab"], "none of 2 runs is finished"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, says):
    assert report.main(arguments(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err
