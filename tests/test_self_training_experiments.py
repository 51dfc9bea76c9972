"""The experiments with few labels: every run of their sweeps is one that its recipe takes, and some run in small."""

import importlib
import statistics

import numpy as np
import pytest
from test_data import write_idx

from experiments import paired
from experiments.idx import few_labels
from experiments.noisy_student import figure as noisy_student
from experiments.ssl_bench.config import METHODS
from tlx import config as config_lib
from tlx import sweep
from tlx.errors import UserError
from tlx.recipes import load, semi_supervised, unlabeled

NAMES = ("lee2013", "noisy_student", "ssl_bench")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """IDX files of 200 images of noise, 20 a class."""
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)
    return write_idx(tmp_path_factory.mktemp("idx"), images, np.arange(200, dtype=np.uint8) % 10)


@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_the_sweep_resolves(name):
    for variant in importlib.import_module(f"experiments.{name}.sweep").VARIANTS:
        config = sweep.make_config(variant, 1)
        recipe = load(config.recipe)
        resolved = config_lib.resolve(config, recipe.default_config())
        assert resolved.data.labels_per_class * 10 == int(variant.args.partition("labels=")[2].split(",")[0])
        if recipe is semi_supervised:
            unlabeled.check(resolved, resolved)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("lee2013", "labels=40,pseudo_labels"),
        ("noisy_student", "labels=40,scale=2.0,unlabeled=60,noised=true,hard=true"),
        ("ssl_bench", "labels=40,method=mean_teacher"),
    ],
)
def test_runs_locally(name, args, folder, tmp_path):
    config = sweep.load_config(f"experiments/{name}/config.py", f"{args},data={folder},runlocal")
    config.data.validation = 50.0
    result = load(config.recipe).run(config, tmp_path / "run")
    assert result["name"].startswith(name) and 0 <= result["figures"]["validation_accuracy"] <= 1
    if name == "noisy_student":
        teacher, student = result["rounds"]
        assert student["pseudo_labels"] == 60 and student["parameters"] > 2 * teacher["parameters"]


def test_methods_differ_in_their_methods_alone():
    """The network, the data, the batches, the rate and the number of steps are the same for all."""
    common = set()
    for method in METHODS:
        c = sweep.load_config("experiments/ssl_bench/config.py", f"method={method}")
        for learner in (c.teacher, c.student) if "student" in c else (c,):
            sections = [learner[name].to_dict() for name in ("model", "optim", "train")]
            common.add(str((sections, c.data.to_dict(), learner.get("unlabeled_ratio", 4.0))))
    assert len(common) == 1


@pytest.mark.parametrize("labels", [0, 5, 15])
def test_labels_that_ten_classes_cannot_share(labels):
    with pytest.raises(UserError, match=f"labels is {labels}: it must be a multiple of 10"):
        few_labels(semi_supervised.default_config(), "x", labels=labels, runlocal=False)


@pytest.mark.parametrize("labels", [100, 1000])
def test_the_committed_runs_show_the_papers_order(labels):
    """Full, without augmentation, without any noise, the teacher, from the best down, in the mean of three seeds.

    The paper has its teacher a tenth of a point above the student without noise; that part does not appear.
    """
    results = paired.read(noisy_student.HERE)
    cell = lambda name, figure="generation 1": (noisy_student.label(labels, name), figure)
    full, teacher, bare = cell("full"), cell("full", "teacher"), cell("without all noise")
    order = [full, cell("without augmentation"), bare, teacher]
    errors = [list(paired.errors(results, which).values()) for which in order]
    assert [len(of_seeds) for of_seeds in errors] == [3] * 4
    means = list(map(statistics.fmean, errors))
    assert means == sorted(means)
    for other in (teacher, bare):
        assert paired.verdict(paired.differences(results, full, other)) == "fewer"


@pytest.mark.parametrize("labels", [100, 600, 1000, 3000])
def test_the_committed_runs_gain_from_pseudo_labels(labels):
    results = paired.read(noisy_student.HERE.parent / "lee2013")
    ours, theirs = ((f"{labels} labels, {how}", "test") for how in ("with", "without"))
    differences = paired.differences(results, ours, theirs)
    assert len(differences) == 3 and paired.verdict(differences) == "fewer"


def test_the_committed_benchmark_meets_its_target_with_40_labels():
    """Below 5 % error in the mean of three seeds; with 100 labels the target is missed, as the page says."""
    results = paired.read(noisy_student.HERE.parent / "ssl_bench")
    for method in ("uda", "fixmatch"):
        errors = list(paired.errors(results, (f"MNIST, 40 labels: {method}", "test")).values())
        assert len(errors) == 3 and statistics.fmean(errors) < 500
