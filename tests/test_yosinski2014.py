"""experiments/yosinski2014: each network of the sweep copies, freezes and begins anew what its name says."""

import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.yosinski2014 import config as experiment
from experiments.yosinski2014 import figure, prepare
from tlx import config as tlx_config
from tlx import models, optim, pretrained, sweep, sweep_table
from tlx.data import builders
from tlx.errors import UserError
from tlx.recipes import supervised
from tlx.workdir import read_json

FOLDER = pathlib.Path(figure.__file__).parent


SWEEP = sweep._load_module(FOLDER / "sweep.py", "VARIANTS")
VARIANTS = SWEEP.VARIANTS


def test_five_curves_two_controls_and_the_bases_first():
    names = [variant.label for variant in VARIANTS]
    assert len(names) == 4 + 1 + 9 * 5 and set(names[:4]) == set(experiment.BASES)
    assert {"B1B", "B5B+", "A3B", "A5B+", "F1B", "M4B", "M2B+", "R1B", "R5B"} < set(names) and "R1B+" not in names


@pytest.fixture(scope="module")
def shapes():
    c = experiment.get_config()
    model = models.build(**c.model.to_dict(), num_classes=5)
    assert models.levels(model, (28, 28, 1)) == experiment.LEVELS
    return jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32), train=False))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_who_is_copied_frozen_and_new(shapes, variant):
    net = variant.label
    c = tlx_config.resolve(sweep.make_config(variant, 1), supervised.default_config())
    made = optim.make_optimizer(shapes["params"], rules=c.optim.rules, groups=c.optim.groups, total_steps=c.train.steps)
    labels = traverse_util.flatten_dict(made.labels)
    n = 0 if net.startswith("base") else int(net[1])
    below, above = set(experiment.LEVELS[:n]), {*experiment.LEVELS[n:], "head"}

    frozen = {level_of(path) for path, group in labels.items() if group == "frozen"}
    assert frozen == (set() if net.endswith("+") else below)
    if net.startswith("base") or net[0] == "R":
        assert not c.init.run
    else:
        source = f"base{net[0]}"
        base = next(v for v in VARIANTS[:4] if v.label == source)
        assert c.init.run == str(sweep.run_folder(sweep.RUNS / "yosinski2014", base, 1))
        grafted = pretrained.graft(shapes, shapes, reset=c.init.reset, all_used=True)
        assert {level_of(path.split("/")) for path in grafted.loaded} == below
        assert {level_of(path.split("/")) for path in grafted.reset} == above


def test_all_learn_task_b_with_the_same_budget():
    budgets = set()
    for variant in VARIANTS:
        c = sweep.make_config(variant, 2)
        task = variant.label[4] if variant.label.startswith("base") else "B"
        half_a, half_b = experiment.halves(2)
        assert tuple(c.data.classes) == (half_b if task == "B" else half_a)
        assert c.data.idx_dir.endswith("/mnist" if task == "M" else "/fashion_mnist")
        group = tuple(sorted(c.optim.groups["all"].items()))
        assert c.data.idx_dir.startswith("../shared/data/" if task == "F" else "runs/data/yosinski2014/")
        assert c.seed == (2 if variant.label in experiment.BASES else 1002)
        budgets.add(
            (c.data.labels_per_class, c.data.validation, c.train.steps, c.train.batch_size, str(c.model), group)
        )
    assert len(budgets) == 1


def level_of(path):
    return path[1] if path[0] == "backbone" else path[0]


@pytest.mark.parametrize("seed", range(20))
def test_halves_are_alike(seed):
    a, b = map(set, experiment.halves(seed))
    assert len(a) == len(b) == 5 and a | b == set(range(10))
    tops, shoes, rest = map(set, experiment.SIMILAR)
    assert len(a & tops) == len(b & tops) == 2
    assert {len(a & shoes), len(b & shoes)} == {len(a & rest), len(b & rest)} == {1, 2}


def test_prepare_keeps_some_of_each_class_and_all_of_the_test_set(tmp_path):
    labels = np.tile(np.arange(10), 5).astype(np.uint8)
    images = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None], (50, 3, 4))
    for name in prepare.DATASETS:
        (tmp_path / name).mkdir()
        for prefix in ("train", "t10k"):
            prepare.write_idx(tmp_path / name / f"{prefix}-images-idx3-ubyte.gz", images)
            prepare.write_idx(tmp_path / name / f"{prefix}-labels-idx1-ubyte.gz", labels)
    prepare.cut(tmp_path, tmp_path / "few", per_class=3)
    for name in prepare.DATASETS:
        few = builders.read_idx_dir(tmp_path / "few" / name)
        kept, classes = few["train"]
        assert np.bincount(classes).tolist() == [3] * 10 and kept.shape == (30, 3, 4)
        assert (kept[:, 0, 0] % 10 == classes).all() and len(np.unique(kept[:, 2, 3])) == 30
        assert (few["test"][0] == images).all() and (few["test"][1] == labels).all()
    assert prepare.main([f"--data={tmp_path / 'none'}", f"--few={tmp_path}"]) == 2


@pytest.mark.parametrize("net", ["A6B", "A0B", "R1B+", "baseR", "baseA2", "A3A", "B1B++", ""])
def test_other_names_are_refused(net):
    with pytest.raises(UserError, match=f"net is {net.replace('+', '.')!r}: it must be baseA"):
        experiment.get_config(f"net={net}")


def records(gain):
    """Two seeds, both baseB at 90 % and 80 %; `gain(net)` points from it."""
    for variant in VARIANTS:
        for seed, base in enumerate((0.9, 0.8)):
            yield {"variant": variant.label, "seed": seed, "figures": {"test": base + gain(variant.label) / 100}}


def test_claims_by_hand():
    """The paper's own shape, scaled to five levels: every claim appears; a flat one shows the controls alone."""
    frozen = {
        "A": (0, -1, -4, -6, -8),
        "F": (0, 0, -1, -2, -3),
        "B": (0, -1, -4, -2, 0),
        "M": (-1, -5, -10, -18, -25),
        "R": (-10, -40, -65, -68, -70),
    }

    def paper(net):
        if net.startswith("base"):
            return 0
        learning = {"A": 1.6, "B": 0.1, "F": 2, "M": 0.5}
        return learning[net[0]] if net.endswith("+") else frozen[net[0]][int(net[1]) - 1]

    rows = figure.claims(figure.gains(list(records(paper))))
    assert [row[-1] for row in rows] == ["yes"] * 11
    assert rows[8][2] == "-25.0 against -8.0 at n = 5" and rows[5][2].startswith("+1.6 over")
    flat = figure.claims(figure.gains(list(records(lambda net: 0))))
    assert [row[-1] for row in flat] == ["yes", "no", "yes"] + ["no"] * 8


def test_the_page_says_what_the_results_say():
    results = read_json(FOLDER / "results.json")
    page = (FOLDER / "README.md").read_text()
    assert figure.table(figure.claims(figure.gains(results))) in page
    assert sweep_table.table(VARIANTS, results, SWEEP.FIGURES) in page
