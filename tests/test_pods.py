"""experiments/pods: the scripts against stand-ins for the clusters' tools, each flag and path, and the paper model."""

import ast
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess

import pytest
import yaml

from experiments.pods import cost, scaling
from tlx import config as tlx_config
from tlx.recipes import supervised

ROOT = pathlib.Path(__file__).parent.parent
PODS = ROOT / "experiments/pods"
SCRIPTS, MANIFESTS = ("slurm.sh", "tpu.sh"), ("jobset.yaml", "share.yaml")
MANY_HOSTS = {"distributed", "coordinator", "num_processes", "process_id"}
EXTRA = ["--config.train.batch_size=512", "--config.name=a b"]  # quotes must survive the way to the hosts


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(name):
    subprocess.run(["bash", "-n", PODS / name], check=True)


def manifest(name):
    (document,) = yaml.safe_load_all((PODS / name).read_text())
    return document


def test_the_manifests_fit_each_other():
    spec = manifest("jobset.yaml")["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert (
        job["completions"] == job["parallelism"] == rows * columns // container["resources"]["limits"]["google.com/tpu"]
    )
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    claimed = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert claimed == {manifest("share.yaml")["metadata"]["name"]}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert all(any(f"{path}/" in value for path in mounted) for value in [container["env"][0]["value"]])


def commands():
    """The arguments of each tlx.main in the folder's files."""
    for name in ("README.md", *SCRIPTS):
        text = re.sub(r"\\\n", " ", (PODS / name).read_text())
        for line in re.findall(r"tlx\.main +(--[^>#`\n]*)", text):
            yield from ([token.rstrip(")")] for token in line.replace('"', "").split() if token.startswith("--"))
    container = manifest("jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["command"][:3] == ["python", "-m", "tlx.main"]
    yield container["command"][3:]


def test_every_flag_and_path_exists():
    source = (ROOT / "tlx/main.py").read_text() + (ROOT / "tlx/command.py").read_text()
    flags = {node.args[0].value for node in ast.walk(ast.parse(source)) if is_flag(node)}
    schema = tlx_config.to_dict(supervised.default_config())
    seen = set()
    for argument in (argument for command in commands() for argument in command):
        name, _, value = argument.removeprefix("--").partition("=")
        seen.add(name)
        if name.startswith("config."):
            section = schema
            for key in name.split(".")[1:]:
                assert key in section, argument
                section = section[key]
        else:
            assert name in flags, argument
        if name == "config" and not value.startswith("$"):
            assert (ROOT / value).exists(), argument
    assert seen >= {"config", "workdir", *MANY_HOSTS}
    for path in re.findall(r"(?:configs|experiments|tests|tlx)/[\w/]+\.\w+", (PODS / "README.md").read_text()):
        assert (ROOT / path).exists(), path


def is_flag(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("DEFINE_")


def stand_in(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (143, True)])
def test_slurm_asks_for_what_jax_needs_and_goes_on_after_a_stop(tmp_path, code, requeued):
    tools, said = tmp_path / "bin", tmp_path / "said"
    stand_in(tools, "srun", f'printf "%q " "$JAX_LOCAL_DEVICE_IDS" "$TFDS_DATA_DIR" "$@" > {said}; exit {code}')
    stand_in(tools, "scontrol", f'echo "$@" > {tmp_path}/scontrol')
    stand_in(tools, "activate", "")
    done = subprocess.run(
        ["bash", PODS / "slurm.sh", "configs/digits_scratch.py", "/shared/runs/x", *EXTRA],
        env=os.environ
        | {"PATH": f"{tools}:{os.environ['PATH']}", "VENV": str(tmp_path), "TFDS_DATA_DIR": "/shared/tfds"}
        | {"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "64", "SLURM_JOB_ID": "7"},
        check=False,
    )
    assert done.returncode == code
    devices, data, *arguments = shlex.split(said.read_text())
    assert (devices, data) == ("0,1,2,3,4,5,6,7", "/shared/tfds")
    assert arguments[arguments.index("python") :] == [
        *("python", "-m", "tlx.main", "--distributed", "--config=configs/digits_scratch.py"),
        *("--workdir=/shared/runs/x", *EXTRA),
    ]
    assert (tmp_path / "scontrol").exists() == requeued
    assert not requeued or (tmp_path / "scontrol").read_text() == "requeue 7\n"


def test_tpu_leaves_the_process_behind_and_stops_it(tmp_path):
    """`gcloud ... ssh --command=X` does X here; the hosts' python writes down its arguments, and waits for SIGTERM."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    stand_in(
        tools,
        "gcloud",
        f'echo "$@" >> {tmp_path}/gcloud; for a; do case $a in --command=*) bash -c "${{a#--command=}}";; esac; done',
    )
    (home / "tlx").mkdir(parents=True)
    (home / "tlx-venv").mkdir()
    stand_in(
        home / "tlx-venv/bin",
        "python",
        f'trap "echo saved; exit 143" TERM; printf "%q " "$TFDS_DATA_DIR" "$@" > {tmp_path}/part\n'
        f"mv {tmp_path}/part {tmp_path}/said; for i in $(seq 300); do sleep 0.1; done",
    )
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(home), "NAME": "slice", "ZONE": "z"}
    env = {name: value for name, value in env.items() if name != "TFDS_DATA_DIR"} | {
        "TYPE": "v5litepod-32",
        "SPOT": "1",
    }
    call = lambda *arguments: subprocess.run(
        ["bash", PODS / "tpu.sh", *arguments], env=env, check=True, timeout=30, capture_output=True, text=True
    )
    call("create")
    call("run", "configs/digits_scratch.py", "/mnt/share/runs/x", *EXTRA)
    pid = int((home / "tlx.pid").read_text())
    try:
        for _ in range(100):
            if (tmp_path / "said").exists():
                break
            subprocess.run(["sleep", "0.1"], check=True)
        assert call("stop").stdout.strip() == "saved"
    finally:
        if pathlib.Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    assert shlex.split((tmp_path / "said").read_text()) == [
        "/mnt/share/tensorflow_datasets",
        *(
            "-m",
            "tlx.main",
            "--distributed",
            "--config=configs/digits_scratch.py",
            "--workdir=/mnt/share/runs/x",
            *EXTRA,
        ),
    ]
    created, ran = (tmp_path / "gcloud").read_text().splitlines()[:2]
    assert created == (
        "compute tpus tpu-vm create slice --zone=z --accelerator-type=v5litepod-32 --version=v2-alpha-tpuv5-lite --spot"
    )
    assert ran.startswith("compute tpus tpu-vm ssh slice --zone=z --worker=all --command=")


def test_a_step_by_hand():
    """10 M parameters, 1 G multiply-adds an image, 10 BatchNorm layers, 8 images a chip on the 4 x 8 slice."""
    step = cost.Step(cost.Network("x", 10_000_000, 1_000_000_000, 10), chips=32, batch=256)
    assert step.flops == 3 * 2 * 1e9 * 256
    assert step.compute == pytest.approx(6e9 * 8 / (0.4 * 197e12))  # 0.609 ms
    assert step.sent == 2 * 31 / 32 * 4 * 1e7  # 77.5 MB
    assert step.all_reduce == pytest.approx(77.5e6 / 80e9)  # 0.969 ms
    assert cost.hops(32) == 2 * 3 + 2 * 7 and cost.hops(256) == 32
    assert step.norm_sums == pytest.approx(10 * 2 * 20e-6)  # 0.4 ms
    assert step.seconds(overlap=False) == pytest.approx(0.609137e-3 + 0.96875e-3 + 0.4e-3)
    # The backward pass is 0.406 ms: the all-reduce sticks out.
    assert step.seconds(overlap=True) == pytest.approx(0.609137e-3 / 3 + 0.96875e-3 + 0.4e-3)
    assert step.efficiency(overlap=True) == pytest.approx(0.609137 / (0.203046 + 0.96875 + 0.4), rel=1e-5)
    assert step.efficiency(overlap=True, norm_sums=False) == pytest.approx(0.609137 / (0.203046 + 0.96875), rel=1e-5)


def test_an_all_reduce_that_fits_beside_the_backward_pass_costs_nothing():
    step = cost.Step(cost.Network("x", 1_000, 1_000_000_000, 0), chips=8, batch=512)
    assert step.efficiency(overlap=True) == 1 > step.efficiency(overlap=False)


def test_the_page_has_what_the_command_counts():
    network = cost.count("ResNet-50", cost.NETWORKS["ResNet-50"])
    assert (network.parameters, network.norms) == (
        25_557_032,
        53,
    )  # torchvision's page; 1 + 3 * 16 blocks + 4 shortcuts
    page = (PODS / "README.md").read_text()
    assert all(line in page for line in cost.table([network]).splitlines())
    assert cost.arithmetic(next(step for _, step in cost.cases(network) if step.chips == 256)) in page


@pytest.mark.four_devices
def test_what_splitting_costs_and_saves_in_small(tmp_path, monkeypatch):
    small = {"DEVICES": (1, 2), "NETWORKS": {"MLP": {"name": "mlp", "widths": (8,)}}, "START": 2, "BATCH": 4}
    small |= {"MODES": ("jit", "fsdp"), "LARGE": {"CNN": "cnn"}, "SPLITS": ("jit", "fsdp")}
    for name, value in small.items():
        monkeypatch.setattr(scaling, name, value)
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # which it sets, for a process of its own
    out, page = tmp_path / "scaling.json", tmp_path / "README.md"
    page.write_text((PODS / "README.md").read_text())
    scaling.main(["--repeats=1"], out, page)
    found, text = json.loads(out.read_text()), page.read_text()
    cases = {(r["mode"], r["scaling"], r["devices"]): r["batch"] for r in found["speed"]}
    batch = {("weak", 1): 2, ("weak", 2): 4, ("strong", 1): 4, ("strong", 2): 4}
    assert cases == {(mode, *case): size for mode in scaling.MODES for case, size in batch.items()}
    assert scaling.speed_table(found["speed"]) in text.partition(scaling.SPEED)[2].partition(scaling.MEMORY)[0]
    assert scaling.memory_table(found["memory"]) in text.partition(scaling.MEMORY)[2]
    whole, split = (record["state_bytes"] for record in found["memory"])
    assert whole / 4 <= split < whole / 3  # of four devices each has a fourth, and what cannot be split
