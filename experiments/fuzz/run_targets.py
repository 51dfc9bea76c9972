"""What a run leaves: its records, its checkpoint, its export, its report; and a sweep's results."""

import contextlib
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from hypothesis import strategies as st

from experiments.fuzz import made_run
from experiments.fuzz.mutation import damaged, records
from experiments.fuzz.target import Target, one_of_files
from experiments.fuzz.weight_targets import npz_examples
from tlx import compare, export, kept, ledger, reentry, report, sweep
from tlx.checkpoint import Checkpoints, restore_variables
from tlx.metrics import MetricWriter
from tlx.pretrained import load_run
from tlx.workdir import open_workdir, read_json, write_json


def load(folder: pathlib.Path) -> Target:
    """`tlx.pretrained.load_run`: config.json, task.json and result.json, and the weights of the checkpoint."""
    run = made_run.write(folder / "run")
    files = {run / name: _record(run / name) for name in ("result.json", "task.json", "config.json")}
    return one_of_files(files, lambda: _predicts(load_run(run)), names=(str(run),))


def checkpoint(folder: pathlib.Path) -> Target:
    """The files of a checkpoint, read as weights and as a run that goes on reads it."""
    run = made_run.write(folder / "run") / "checkpoints" / "train"
    files = {path: damaged(path.read_bytes()) for path in sorted(run.rglob("*")) if path.is_file()}

    def read() -> None:
        restore_variables(run, 4)
        checkpoints = Checkpoints(run)
        try:
            checkpoints.restore_latest(made_run.state())
        finally:
            checkpoints.close()

    return one_of_files(files, read, names=(str(run),))


def exported(folder: pathlib.Path, form: str) -> Target:
    path = export.save(made_run.network(), folder / f"model.{form}", format=form)
    files = {path: damaged(path.read_bytes())}
    if form == "stablehlo":
        files[path.with_suffix(".json")] = _record(path.with_suffix(".json"))
    else:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["tlx"])
        tensors = safetensors.numpy.load_file(path)
        pack = lambda text: safetensors.numpy.save(tensors, metadata={"tlx": text.decode(errors="replace")})
        files[path] = st.one_of(files[path], records(about).map(pack))

    def read() -> None:
        network = export.load(path)
        jax.eval_shape(network.call, jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32))

    return one_of_files(files, read, names=(path.stem,))


def the_report(folder: pathlib.Path) -> Target:
    """`python -m tlx.report RUN`: all records, the curves and the gallery, drawn."""
    run = made_run.write(folder / "run")
    names = ("result.json", "config.json", "strategy.json", "ledger.json", "reentry.json", "pseudo_labels/round_1.json")
    files = {run / name: _record(run / name) for name in names}
    files[run / "metrics.jsonl"] = records(made_run.metrics(), lines=True)
    files[run / "gallery.npz"] = npz_examples([(run / "gallery.npz").read_bytes()] * 2)
    return one_of_files(files, lambda: report.write(run, folder / "out"), names=(str(run),))


def comparison(folder: pathlib.Path) -> Target:
    """`python -m tlx.report RUN RUN`, of which one is damaged."""
    runs = [made_run.write(folder / name) for name in ("one", "two")]
    files = {runs[0] / name: _record(runs[0] / name) for name in ("result.json", "config.json")}
    files[runs[0] / "metrics.jsonl"] = records(made_run.metrics(), lines=True)

    def read() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            compare.write(runs, folder / "out")

    return one_of_files(files, read, names=(str(folder),))


def going_on(folder: pathlib.Path) -> Target:
    """What a run reads of its folder before it goes on, or begins anew from a round."""
    run = made_run.write(folder / "run")
    for phase in ("teacher", "round_1"):
        write_json(run / "phases" / f"{phase}.json", {})
    config = read_json(run / "config.json")
    key = {"weights": "w", "data": {"name": "digits"}}
    array = run / "features" / "a.npy"
    rows = lambda: iter([np.ones((2, 3), np.float32)])
    keep = lambda: kept.keep(array, rows, key=key, shape=(2, 3), dtype=np.float32)
    keep()
    files = {run / name: _record(run / name) for name in ("config.json", "ledger.json", "reentry.json")}
    files |= {array: damaged(array.read_bytes()), array.with_suffix(".json"): _record(array.with_suffix(".json"))}
    files[run / "metrics.jsonl"] = records(made_run.metrics(), lines=True)

    def read() -> None:
        with contextlib.redirect_stdout(io.StringIO()), open_workdir(run, config):
            ledger.read(run / "ledger.json")
            reentry.kept(run, config, 0)
            kept.check_training(array, key, begun=True)
            keep()
            MetricWriter(run).rewind("round_1", 1)
        reentry.check(run, config, 1)
        reentry.kept(run, config, 1)

    return one_of_files(files, read, names=(str(run),))


def sweep_results(folder: pathlib.Path) -> Target:
    """`python -m tlx.sweep FILE --keep --dry_run` beside a damaged results.json."""
    file, path = folder / "sweep.py", folder / "results.json"
    config = pathlib.Path(__file__).parents[2] / "configs" / "digits_scratch.py"
    file.write_text(
        f"from tlx.sweep import Variant\nVARIANTS = [Variant('plain', {str(config)!r}, 'runlocal', seeds=(0, 1))]\n"
    )
    record = {
        "variant": "plain",
        "seed": 0,
        "config": "c" * 16,
        "figures": {"test": 0.5},
        "seconds": 1.5,
        "digest": "d",
    }
    write_json(path, [record, record | {"seed": 1}])

    def read() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            sweep.run_sweep(file, runs=folder / "runs", keep=True, dry_run=True)

    return one_of_files({path: _record(path)}, read, names=(str(path),))


def _record(path: pathlib.Path) -> st.SearchStrategy[bytes]:
    return records(json.loads(path.read_text()))


def _predicts(run) -> None:
    images = jax.ShapeDtypeStruct((1, *run.image_shape), jnp.float32)
    jax.eval_shape(lambda images: run.make_apply()(run.variables, images, train=False), images)
