"""Experiments that hold rows against each other: the comparison by hand-made results, and what their sweeps say."""

import importlib

import pytest

from experiments import paired
from tlx import config as config_lib
from tlx import sweep
from tlx.recipes import distill, supervised


def rows(label, **figures):
    """A run for each value, with the seeds 0, 1, ..."""
    count = len(next(iter(figures.values())))
    at = lambda seed: {name: values[seed] for name, values in figures.items()}
    return [{"variant": label, "seed": seed, "figures": at(seed)} for seed in range(count)]


RESULTS = [
    *rows("a", test=[0.98, 0.9799, 0.981], validation=[0.97, 0.97, 0.97]),
    *rows("b", test=[0.97, 0.972, 0.9715], validation=[0.98, 0.96, 0.99]),
    *rows("short", test=[0.99], validation=[1.0]),
]
A, B = ("a", "test"), ("b", "test")


def test_errors_are_counted_in_images():
    assert paired.errors(RESULTS, A) == {0: 200, 1: 201, 2: 190}
    assert paired.errors(RESULTS, ("a", "none")) == paired.errors(RESULTS, ("c", "test")) == {}


def test_differences_are_of_the_seeds_that_both_have():
    assert paired.differences(RESULTS, A, B) == [-100, -79, -95]
    assert paired.differences(RESULTS, B, ("short", "test")) == [200]
    assert paired.differences(RESULTS, A, ("c", "test")) == []


def test_the_best_mean_is_chosen_once_all_have_the_same_seeds():
    assert paired.choose(RESULTS, ["a", "b"]) == "b"
    assert paired.choose(RESULTS, ["a", "b"], "test") == "a"
    assert paired.choose(RESULTS, ["a", "short"]) == paired.choose(RESULTS, ["c", "a"]) == ""
    assert paired.choose([*rows("x", validation=[0.5]), *rows("y", validation=[0.5])], ["x", "y"]) == "x"


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([], "-"),
        ([-5], "-"),
        ([0, 0], "tie"),
        ([-1, -1, -1], "fewer"),
        # Mean 2, deviation 1: the 97.5 % quantile of t with 2 degrees of freedom is 4.3027, times 1 / sqrt(3): 2.484.
        ([1, 2, 3], "tie"),
        ([1.5, 2.5, 3.5], "more"),  # mean 2.5
    ],
)
def test_a_difference_within_the_spread_is_a_tie(differences, said):
    assert paired.verdict(differences) == said


def test_the_table_says_how_many_runs_there_were():
    claims = [
        ("a, against b", "fewer", A, B),
        ("b, against short", "-", B, ("short", "test")),
        ("c", "-", A, ("c", "x")),
    ]
    assert paired.table(RESULTS, claims).splitlines()[2:] == [
        "| a, against b | fewer | 3 | 197.0 ± 6.1 | 288.3 ± 10.4 | -91.3 ± 11.0 | fewer |",
        "| b, against short | - | 1 | 300.0 | 100.0 | +200.0 | - |",
        "| c | - | 0 | - | - | - | - |",
    ]


def test_a_figure_of_what_there_is(tmp_path):
    paired.draw(
        {"a": {"1": [200, 210]}, "b": {"1": [5], "2": [6, 7]}}, tmp_path / "x.png", xlabel="T", levels={"c": [9]}
    )
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["born_again", "hinton2015", "muller2019", "takd"])
def test_teachers_of_a_sweep_are_runs_that_come_before(name):
    """And each config is one that its recipe takes."""
    before = set()
    for variant in importlib.import_module(f"experiments.{name}.sweep").VARIANTS:
        folders = [str(sweep.run_folder(sweep.RUNS / name, variant, seed)) for seed in variant.seeds]
        for seed in variant.seeds:
            config = sweep.make_config(variant, seed)
            recipe = {"distill": distill, "supervised": supervised}[config.recipe]
            resolved = config_lib.resolve(config, recipe.default_config())
            if recipe is distill:
                named = {resolved.teacher.run, *resolved.teacher.runs} - {""}
                assert named and named <= before
        before |= set(folders)


@pytest.mark.parametrize("name", ["born_again", "lee2013", "muller2019", "noisy_student", "ssl_bench", "takd"])
def test_claims_are_of_figures_that_the_sweep_has(name):
    of, figure = (importlib.import_module(f"experiments.{name}.{part}") for part in ("sweep", "figure"))
    even = {column: [0.5] for column in of.FIGURES}
    claims = figure.claims([record for variant in of.VARIANTS for record in rows(variant.label, **even)])
    assert len(claims) >= 4
    for _, _, *cells in claims:
        assert {label for label, _ in cells} <= {variant.label for variant in of.VARIANTS}
        assert {column for _, column in cells} <= set(of.FIGURES)
