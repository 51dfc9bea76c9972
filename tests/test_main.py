"""The command line: exit codes and one-line errors, SIGTERM, predict and report on a finished run."""

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from tlx import predict, report

ROOT = pathlib.Path(__file__).parent.parent
SCRATCH = "--config=configs/digits_scratch.py:runlocal"


def command(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "tlx.main", *args], cwd=ROOT, capture_output=True, text=True, check=False, **kwargs
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run made by the command, on the one device that a laptop has."""
    workdir = tmp_path_factory.mktemp("main") / "run"
    done = command(SCRATCH, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout and str(workdir / "report.html") in done.stdout
    return workdir


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "--config is missing"),
        ((SCRATCH,), "--workdir is missing"),
        (("--config=configs/nowhere.py", "--workdir=x"), "nowhere.py"),
        (("--config=configs/digits_scratch.py:sed=1", "--workdir=x"), "unknown config argument 'sed'"),
        ((SCRATCH, "--workdir=x", "--config.sed=1"), "sed"),
        ((SCRATCH, "--workdir=x", "--config.trian.steps=1"), "unknown config key 'trian'"),
        ((SCRATCH, "--workdir=x", "--config.seed=one"), "seed"),
        ((SCRATCH, "--workdir=x", "--confg=1"), "confg"),
        ((SCRATCH, "--workdir=x", "extra"), "unknown argument 'extra'"),
        ((SCRATCH, "--workdir=x", "--config.recipe=superb"), "recipe is 'superb': use one of"),
        ((SCRATCH, "--workdir=README.md"), "is a file"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(args, message):
    done = command(*args)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], done.stderr
    assert "Traceback" not in lines[0]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stop_saves_and_tells_how_to_go_on(tmp_path, name, code):
    args = ["--config=configs/digits_scratch.py", f"--workdir={tmp_path}", "--config.train.eval_every=5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tlx.main", *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 120
    while not list((tmp_path / "checkpoints" / "train").glob("[0-9]*")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err, err
    assert f"stopped by {name}; all is saved, go on with: python -m tlx.main --config=configs/digits_scratch.py" in out
    assert not (tmp_path / "result.json").exists()


def test_help_is_the_docstring():
    done = command("--help")
    assert done.returncode == 0 and done.stdout.startswith("Runs one config: `python -m tlx.main")


def test_predict(finished, tmp_path, capsys):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images[:3] * 255 / 16).astype(np.uint8)
    np.save(tmp_path / "three.npy", images)
    PIL.Image.fromarray(images[0]).resize((32, 32)).convert("RGB").save(tmp_path / "one.png")
    assert predict.main([str(finished), str(tmp_path / "three.npy"), str(tmp_path / "one.png")]) == 0
    out = capsys.readouterr().out
    assert "three.npy[2]" in out and "RGB to L, 32x32 to 8x8" in out.replace("\n", " ")
    run = predict.load_run(finished)
    probabilities = predict.predict(run, images[..., None])
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_bad_predictions(finished, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no png")
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "wide.npy", np.zeros((8, 9)))
    cases = {
        "nowhere.png": "no image at",
        "broken.png": "is not a readable image",
        "nan.npy": "floats must be finite",
        "wide.npy": "is of shape [8, 9]",
    }
    for name, message in cases.items():
        assert predict.main([str(finished), str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert predict.main([str(tmp_path), str(tmp_path / "nan.npy")]) == 2
    assert "is not the folder of a tlx run" in capsys.readouterr().err


def test_report_command(finished, capsys):
    (finished / "report.html").unlink()
    assert report.main([str(finished)]) == 0
    assert (finished / "report.html").stat().st_size > 10_000
