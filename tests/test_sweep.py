"""Sweeps: what is run, in what order, by which of several processes, and the record and the table that they leave."""

import concurrent.futures
import functools
import json
import os
import pathlib
import time

import pytest

from tlx import sweep, sweep_plan, sweep_table
from tlx.config import resolve, to_dict
from tlx.errors import UserError
from tlx.recipes import supervised
from tlx.sweep_plan import Planned
from tlx.workdir import begin, open_workdir, read_json, write_json

ROOT = pathlib.Path(__file__).parent.parent
SCRATCH = str(ROOT / "configs" / "digits_scratch.py")


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "sweep.py").write_text(
        "from tlx.sweep import Variant\n"
        f"C = {SCRATCH!r}\n"
        "VARIANTS = [Variant('plain', C, 'runlocal', seeds=(0, 1), seconds=3, published={'test': '0.99'}),\n"
        "            Variant('ema', C, 'runlocal', {'train.ema_decay': 0.9})]\n"
        "FIGURES = {'test': 'figures.test_accuracy', 'teacher': 'rounds.0.test_accuracy'}\n"
    )
    (folder / "README.md").write_text(f"# Ours\nbefore\n{sweep_table.BEGIN}\nold\n{sweep_table.END}\nafter\n")
    return folder


@pytest.fixture
def instead_of_training(monkeypatch):
    """Runs leave a result of the seed's making at once; returns the (seed, EMA's decay) that were run, in order."""
    started = []

    def run(config, folder):
        with open_workdir(folder, config):
            begin(folder, config)
            started.append((config["seed"], config["train"]["ema_decay"]))
            result = {"figures": {"test_accuracy": config["seed"] / 10}, "time": {"total": 1.0}}
            result |= {"selected": {"digest": "d"}, "versions": {}, "git": "", "devices": ""}
            write_json(folder / "result.json", result)
        return result

    monkeypatch.setattr(supervised, "run", run)
    return started


def test_sweep_runs_skips_and_tabulates(experiment, tmp_path, capsys):
    path, runs = experiment / "sweep.py", tmp_path / "runs"
    assert sweep.main([str(path), "--runs", str(runs), "--dry_run"]) == 0
    assert capsys.readouterr().out.count("to run") == 4 and not runs.exists()  # three runs and the total
    records = sweep.run_sweep(path, runs=runs)
    values = [r["figures"]["test"] for r in records if r["variant"] == "plain"]
    page = (experiment / "README.md").read_text()
    assert f"| plain | 2 | 0.99 | {sweep_table.mean_and_spread(values)} | - |" in page
    assert page.startswith("# Ours\nbefore\n") and page.endswith("after\n") and "old" not in page
    assert len(json.loads((experiment / "results.json").read_text())) == 3
    before = {p: os.stat(p).st_mtime_ns for p in runs.rglob("checkpoints/**/*") if p.is_file()}
    assert sweep.run_sweep(path, runs=runs) == records
    assert {p: os.stat(p).st_mtime_ns for p in runs.rglob("checkpoints/**/*") if p.is_file()} == before


def test_seed_by_seed_but_the_record_in_the_tables_order(experiment, tmp_path, instead_of_training):
    sweep.run_sweep(experiment / "sweep.py", runs=tmp_path)
    assert instead_of_training == [(0, 0.0), (0, 0.9), (1, 0.0)]
    rows = [(r["variant"], r["seed"]) for r in read_json(experiment / "results.json")]
    assert rows == [("plain", 0), ("plain", 1), ("ema", 0)]


def test_keep_leaves_out_what_the_record_has(experiment, tmp_path, instead_of_training, capsys):
    path, record = experiment / "sweep.py", experiment / "results.json"
    sweep.run_sweep(path, runs=tmp_path / "here")
    assert sweep.run_sweep(path, runs=tmp_path / "there", keep=True) == []
    changed = read_json(record)
    changed[1]["config"] = "0123456789abcdef"
    del changed[2]["config"]
    write_json(record, changed)
    instead_of_training.clear()
    assert [r["seed"] for r in sweep.run_sweep(path, runs=tmp_path / "there", keep=True)] == [1]
    assert instead_of_training == [(1, 0.0)]
    assert "plain, seed 1: run again, its config was 0123456789abcdef" in " ".join(capsys.readouterr().out.split())
    assert [r.get("config") is None for r in read_json(record)] == [False, False, True]


def test_shares_do_one_sweep(experiment, tmp_path, instead_of_training):
    path = experiment / "sweep.py"
    sweep.run_sweep(path, runs=tmp_path, part="2/2")
    assert instead_of_training == [(0, 0.9)]
    sweep.run_sweep(path, runs=tmp_path, part="1/2")
    assert [r["variant"] for r in read_json(experiment / "results.json")] == ["plain", "plain", "ema"]


def test_processes_lose_no_record_of_each_other(experiment, monkeypatch):
    """Two that write at once; each reads slowly, so that without the lock both would read before either writes."""
    read = sweep._read_results

    def slowly(folder):
        found = read(folder)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(sweep, "_read_results", slowly)
    variants = [sweep.Variant(label, SCRATCH) for label in ("a", "b")]
    records = [{"variant": label, "seed": 0, "figures": {"test": 0.5}, "seconds": 1.0} for label in ("a", "b")]
    publish = functools.partial(sweep._publish, experiment, variants=variants, figures={"test": "x"})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # flock's lock is the opened file's, not the process's
        list(pool.map(publish, records))
    assert read_json(experiment / "results.json") == records


def test_a_run_in_use_elsewhere_is_skipped(experiment, tmp_path, instead_of_training, capsys):
    path = experiment / "sweep.py"
    with open_workdir(tmp_path / "ema-seed0", {}):
        assert len(sweep.run_sweep(path, runs=tmp_path)) == 2
    assert "1 of 3 runs skipped" in " ".join(capsys.readouterr().out.split())
    assert len(sweep.run_sweep(path, runs=tmp_path)) == 3


def planned(label, seed, *needs):
    folder = pathlib.Path(f"runs/{label}-seed{seed}")
    return Planned(label, seed, {"seed": seed, "teacher": {"runs": tuple(f"runs/{name}" for name in needs)}}, folder)


TEACHERS = [planned("t", seed) for seed in range(3)]
STUDENTS = [planned("s", seed, f"t-seed{seed}") for seed in range(2)]
BY_ALL = [planned("a", 9, "t-seed0", "t-seed1", "t-seed2")]


def names(runs):
    return [f"{run.label}{run.seed}" for run in runs]


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ([TEACHERS, STUDENTS], "t0 s0 t1 s1 t2"),
        ([STUDENTS, TEACHERS], "t0 s0 t1 s1 t2"),  # a teacher comes first, whatever the rows' order
        ([TEACHERS, BY_ALL, STUDENTS], "t0 t1 t2 a9 s0 s1"),
        ([], ""),
    ],
)
def test_what_is_needed_comes_first(rows, order):
    assert names(sweep_plan.in_order(rows)) == order.split()


def test_a_student_is_in_its_teachers_share():
    runs = sweep_plan.in_order([TEACHERS, STUDENTS])
    assert [names(sweep_plan.share(runs, part)) for part in ("1/2", "2/2")] == [["t0", "s0", "t2"], ["t1", "s1"]]
    assert sweep_plan.share(runs, "") == runs


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/3/5", "-1/2"])
def test_a_part_that_is_none(part):
    with pytest.raises(UserError, match="--part is"):
        sweep_plan.share(TEACHERS, part)


def test_a_kept_teacher_is_run_where_a_student_is_left():
    runs = [*TEACHERS, *STUDENTS]
    records = {run.key: {} for run in runs if names([run]) != ["s1"]}
    assert names(sweep_plan.left(runs, records)) == ["t1", "s1"]
    assert sweep_plan.left(runs, {run.key: {"config": run.digest} for run in runs}) == []


def test_a_student_whose_teacher_is_missing_is_skipped(experiment, tmp_path, instead_of_training, monkeypatch):
    plan = sweep._plan

    def with_a_teacher(variant, seed, root):
        run = plan(variant, seed, root)
        if variant.label == "ema":
            run.config["name"] = str(root / "plain-seed0")
        return run

    monkeypatch.setattr(sweep, "_plan", with_a_teacher)
    with open_workdir(tmp_path / "plain-seed0", {}):
        assert [r["seed"] for r in sweep.run_sweep(experiment / "sweep.py", runs=tmp_path)] == [1]
    assert len(sweep.run_sweep(experiment / "sweep.py", runs=tmp_path)) == 3


def test_the_digest_is_of_the_whole_config():
    config = resolve(sweep.load_config(SCRATCH), supervised.default_config())
    run = Planned("x", 0, to_dict(config), pathlib.Path("x"))
    other = Planned("y", 0, {**to_dict(config), "seed": 1}, pathlib.Path("x"))
    assert len(run.digest) == 16 and run.digest == Planned("y", 5, to_dict(config), pathlib.Path("y")).digest
    assert run.digest != other.digest


def test_arguments_of_a_variant_may_name_the_seed():
    variant = sweep.Variant("x", "configs/digits_distill.py", "teacher=runs/t-seed{seed}")
    config = sweep.make_config(variant, 3)
    assert (config.teacher.run, config.seed) == ("runs/t-seed3", 3)


def test_bad_sweeps(experiment):
    variant = sweep.Variant("x", SCRATCH, overrides={"train.stps": 3})
    with pytest.raises(UserError, match="x: overrides"):
        sweep.make_config(variant, 0)
    with pytest.raises(UserError, match="does not exist"):
        sweep.run_sweep(experiment / "nowhere.py")
    with pytest.raises(UserError, match="put it back"):
        (experiment / "README.md").write_text(sweep_table.BEGIN)
        sweep_table.update_table(experiment / "README.md", "table")


@pytest.mark.parametrize(
    "change",
    [None, 3, {"seconds": 1e400}, {"seconds": None}, {"seed": "0"}, {"figures": {"test": []}}, {"variant": []}],
)
def test_a_record_that_is_none(experiment, change):
    good = {"variant": "plain", "seed": 0, "figures": {"test": 0.5, "teacher": None}, "seconds": 1.0, "config": "[/]"}
    write_json(experiment / "results.json", [good])
    assert sweep.run_sweep(experiment / "sweep.py", keep=True, dry_run=True) == []
    bad = good | change if isinstance(change, dict) else change
    write_json(experiment / "results.json", [good, bad] if change else change)
    with pytest.raises(UserError, match=r"results.json is no list of a sweep's records: restore it, or delete it"):
        sweep.run_sweep(experiment / "sweep.py", keep=True, dry_run=True)


def test_mean_and_spread_by_hand():
    assert sweep_table.mean_and_spread([0.5, 0.7]) == "0.6000 ± 0.1414"
    assert sweep_table.mean_and_spread([0.5]) == "0.5000" and sweep_table.mean_and_spread([]) == "-"
