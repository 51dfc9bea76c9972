"""The ledger: seals by hand, the same generation twice, tampering, forgetting; and its section of the report."""

import hashlib
import json

import numpy as np
import pytest
from matplotlib.colors import same_color
from test_report import write_run

from tlx import ledger, plots, plots_ledger, report
from tlx.errors import UserError


def entry(generation, **changes):
    """As a recipe writes it, of the first teacher or of a student of it."""
    student = generation > 0
    return {
        "generation": generation,
        "phase": f"round_{generation}" if student else "teacher",
        "role": f"student {generation}" if student else "teacher",
        "taught_by": "teacher" if student else None,
        "teacher_digest": "a" * 64 if student else None,
        "digest": f"{generation}" * 64,
        "model": {"name": "cnn", "widths": [32]},
        "parameters": 4000 if student else 1000,
        "start": "fresh",
        "data": {
            "labeled": 100,
            "unlabeled": 1397,
            "drawn": 1200 if student else 0,
            "fingerprint": "f" * 64,
            "pseudo_labels": "e" * 64 if student else None,
        },
        "noise": {"augment": {"shift": 1}, "dropout": 0.0},
        "figures": {"validation_accuracy": 0.5},
        "promoted": True,
        "reason": "better <b>",
        "p_value": 0.25 if student else None,
    } | changes


@pytest.fixture
def path(tmp_path):
    """Of a ledger with three generations."""
    for generation in range(3):
        ledger.add(tmp_path / "ledger.json", entry(generation))
    return tmp_path / "ledger.json"


def change(path, edit):
    """Does `edit` to the list in the file."""
    entries = json.loads(path.read_text())
    edit(entries)
    path.write_text(json.dumps(entries))


def test_no_file_is_no_generation(tmp_path):
    assert ledger.read(tmp_path / "ledger.json") == []
    ledger.forget(tmp_path / "ledger.json", 1)
    assert not (tmp_path / "ledger.json").exists()


def test_seals_by_hand(tmp_path):
    path, seal = tmp_path / "ledger.json", ""
    for generation in range(2):
        ledger.add(path, {"generation": generation, "b": np.float64(0.5), "a": (1, None)})
        text = f'{seal}{{"a":[1,null],"b":0.5,"generation":{generation}}}'
        seal = hashlib.sha256(text.encode()).hexdigest()
        assert ledger.read(path)[generation] == {"generation": generation, "b": 0.5, "a": [1, None], "seal": seal}


def test_the_same_generation_again_changes_nothing(path):
    before = path.read_bytes(), path.stat().st_mtime_ns
    for generation in range(3):
        ledger.add(path, dict(reversed(entry(generation).items())))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_another_generation_of_the_same_number(path):
    with pytest.raises(
        UserError, match=r"generation 1.figures.validation_accuracy = 0.5, and now it is 0.6.*--from_round=1"
    ):
        ledger.add(path, entry(1, figures={"validation_accuracy": 0.6}))
    with pytest.raises(ValueError, match="3 generations, and 4 is not the next"):
        ledger.add(path, entry(4))


@pytest.mark.parametrize(
    ("edit", "named", "remedy"),
    [
        (lambda e: e[0].update(promoted=False), r"entry 0 \(teacher\)", "restore the file, or start again"),
        (lambda e: e[1]["figures"].update(validation_accuracy=0.9), r"entry 1 \(student 1\)", "--from_round=1"),
        (lambda e: e[2].update(note="good"), r"entry 2 \(student 2\)", "--from_round=2"),
        (lambda e: e[2].pop("seal"), r"entry 2 \(student 2\)", "--overwrite"),
        (lambda e: e.pop(1), r"entry 1 \(student 2\)", "--from_round=1"),
        (lambda e: e.pop(0), r"entry 0 \(student 1\)", "--overwrite"),
        (lambda e: e.reverse(), r"entry 0 \(student 2\)", "--overwrite"),
        (lambda e: e.insert(1, dict(e[0])), r"entry 1 \(teacher\)", "--from_round=1"),
        (lambda e: e.append(3), "is no list of entries", "--overwrite"),
    ],
    ids=["first", "figure", "added", "unsealed", "removed", "first removed", "reversed", "copied", "no entry"],
)
def test_what_was_done_by_hand_is_found(path, edit, named, remedy):
    change(path, edit)
    for call in (ledger.read, lambda path: ledger.add(path, entry(3))):
        with pytest.raises(UserError, match=f"{named}.*{remedy}"):
            call(path)


def test_forget(path):
    whole = ledger.read(path)
    ledger.forget(path, 3)
    assert ledger.read(path) == whole
    change(path, lambda e: e[1].update(promoted=False))
    with pytest.raises(UserError, match="entry 1"):
        ledger.forget(path, 2)
    ledger.forget(path, 1)  # what is forgotten may be damaged
    assert ledger.read(path) == whole[:1]
    for generation in (1, 2):
        ledger.add(path, entry(generation))
    assert ledger.read(path) == whole


TREE = [
    entry(0),
    entry(1, p_value=0.00002, figures={"validation_accuracy": 0.9125}),
    entry(2, taught_by="round_1", promoted=False, start="teacher"),
    entry(3, taught_by="round_1", promoted=False),
    entry(4, taught_by="round_1", parameters=2_500_000),
]


def nodes(ax):
    """(x, y, filled) of each generation's, from the left and the top in inches."""
    marks = [line for line in ax.lines if line.get_marker() == "o" and line.get_markersize() < 10]
    return [(*line.get_xydata()[0], same_color(line.get_markerfacecolor(), plots.COLOR["blue"])) for line in marks]


def test_the_tree():
    ax = plots_ledger.family_tree(TREE, "round_4").axes[0]
    found = nodes(ax)
    assert [filled for *_, filled in found] == [True, True, False, False, True]
    trunk, branch = found[0][0], found[2][0]
    assert [x for x, *_ in found] == [trunk, trunk, branch, branch, trunk] and trunk < branch
    rows = [y for _, y, _ in found]
    assert rows == sorted(rows)
    straight = [tuple(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 2]
    assert straight == [(rows[0], rows[1]), (rows[1], rows[4])]
    bent = [(patch.get_path().vertices[0], patch.get_path().vertices[-1]) for patch in ax.patches]
    assert [(tuple(a), tuple(b)) for a, b in bent] == [((trunk, rows[1]), (branch, rows[i])) for i in (2, 3)]
    circled = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o" and line.get_markersize() > 10]
    assert circled == [rows[4]]
    said = [text.get_text() for text in ax.texts]
    assert said.count("warm") == 1
    for text in ("91.25 %", "< 0.001", "student 3", "student 4, selected", "cnn, 4,000", "cnn, 2.5 M"):
        assert text in said


@pytest.mark.parametrize("count", [1, 12])
def test_trees_of_any_size(count, tmp_path):
    figure = plots_ledger.family_tree([entry(i) for i in range(count)], "")
    svg = plots.save(figure, tmp_path / "tree.png")
    assert not any(light in svg for light in plots.COLOR.values())  # every colour follows the page's theme
    bottom, top = sorted(figure.axes[0].get_ylim())
    assert all(bottom < y < top for _, y, _ in nodes(figure.axes[0]))


@pytest.fixture
def run(tmp_path):
    folder = write_run(tmp_path / "run", selected={"phase": "round_4"})
    for generation in TREE:
        ledger.add(folder / "ledger.json", generation)
    return folder


def test_the_section(run):
    html = report.write(run).read_text()
    assert (run / "plots" / "family_tree.png").stat().st_size > 1000
    section = html[html.index("<h2>Family tree</h2>") :]
    section = section[: section.index("</section>")]
    for text in (
        "Warm: the student began",
        "All is on the data ffffffff.",
        "<td>student 1, warm</td>",
        "4,000 (× 4)",
        "<td>augment.shift 1</td>",
        "<td>100 labelled, 1,397 unlabelled, 1,200 drawn</td><td>33333333</td><td>eeeeeeee</td>",
        "<td>100 labelled</td><td>00000000</td><td>–</td>",
        "refused</span>: better &lt;b&gt;",
    ):
        assert text in section, text
    assert "Begun anew" not in section
    mark = {"from_round": 2, "changes": {"student.train.steps": [6, 8], "name": ["<i>", "y"]}}
    (run / "reentry.json").write_text(json.dumps(mark))
    said = "Begun anew from round 2, changing student.train.steps from 6 to 8; name from &#x27;&lt;i&gt;&#x27; to"
    assert said in report.write(run).read_text()


def test_a_report_without_a_ledger_or_with_a_damaged_one(run, capsys):
    change(run / "ledger.json", lambda entries: entries[1].update(promoted=False))
    assert report.main([str(run)]) == 2
    assert "entry 1 (student 1) does not fit its seal" in capsys.readouterr().err
    (run / "ledger.json").unlink()
    assert "Family tree" not in report.write(run).read_text()
