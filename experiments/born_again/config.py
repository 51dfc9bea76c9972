"""Furlanello et al. (2018), "Born-Again Neural Networks", on Fashion-MNIST: one run, one seed.

    python -m tlx.main --config=experiments/born_again/config.py:net=alone --workdir=runs/cnn
    python -m tlx.main --config=experiments/born_again/config.py:net=generations,teacher=runs/cnn --workdir=runs/ban

"alone" learns from labels (generation 0); "generations" are three of the same network, each taught by the one before;
"taught" is one of them, taught by one network, or by an ensemble (`members=10`: runs TEACHER-seed0 to TEACHER-seed9).
Fashion-MNIST as IDX files (`data=FOLDER`); 5,000 of the 60,000 training images are held out to choose by.
"""

from ml_collections import ConfigDict

from experiments.idx import on_idx
from tlx import config as tlx_config
from tlx.models.options import check_choice
from tlx.recipes import distill, supervised

NETS = ("alone", "generations", "taught")
MODELS = {"cnn": {"name": "cnn", "widths": (16, 32), "dense": 64}, "resnet": {"name": "resnet8", "width": 0.25}}
BATCH = 128
PASSES = 10  # over the 55,000 images, of each generation


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: net=alone|generations|taught, model=cnn|resnet, teacher=RUN, members=0, t=4.0, data=FOLDER, seed=0,
    runlocal.

    Raises:
      UserError: an unknown net or model.
    """
    arg = tlx_config.parse_arg(
        arg,
        net="alone",
        model="cnn",
        teacher="",
        members=0,
        t=4.0,
        data="../shared/data/fashion_mnist",
        seed=0,
        runlocal=False,
    )
    taught = check_choice("net", arg.net, NETS) != "alone"
    c = (distill if taught else supervised).default_config()
    c.name = f"born_again_{arg.model}_{arg.net}" + (f"_{arg.t:g}" if taught else "")
    c.seed = arg.seed
    c.model = dict(MODELS[check_choice("model", arg.model, MODELS)])
    if taught:
        if arg.members:
            c.teacher.runs = tuple(f"{arg.teacher}-seed{seed}" for seed in range(arg.members))
        else:
            c.teacher.run = arg.teacher
        c.loss.update(temperature=arg.t, alpha=1.0, beta=1.0)
        c.cache.teacher = True
        c.generations = 3 if arg.net == "generations" else 1
    c.optim = tlx_config.optim(all={"learning_rate": 1e-3, "warmup": 0.05})
    return on_idx(c, arg.data, passes=PASSES, batch=BATCH, runlocal=arg.runlocal)
