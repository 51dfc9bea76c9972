"""Müller, Kornblith & Hinton (2019), "When Does Label Smoothing Help?", section 4, on MNIST: one run, one seed.

    python -m tlx.main --config=experiments/muller2019/config.py:net=teacher,smoothing=0.1 --workdir=runs/teacher
    python -m tlx.main --config=experiments/muller2019/config.py:net=student,teacher=runs/teacher,t=4 --workdir=runs/mlp

The teacher has two hidden layers of 1200 units, dropout and images shifted by up to 2 pixels; the student has 800 and
neither. "hard" is the student on labels alone. MNIST as IDX files (`data=FOLDER`); 5,000 of the 60,000 training images
are held out to choose by.
"""

from ml_collections import ConfigDict

from experiments.idx import on_idx
from tlx import config as tlx_config
from tlx.models.options import check_choice
from tlx.recipes import distill, supervised

NETS = ("teacher", "hard", "student")
BATCH = 256
PASSES = 40  # over the 55,000 images


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: net=teacher|hard|student, smoothing=0.0 (of a teacher's labels), teacher=RUN, t=4.0, data=FOLDER, seed=0,
    runlocal.

    Raises:
      UserError: an unknown net.
    """
    arg = tlx_config.parse_arg(
        arg, net="teacher", smoothing=0.0, teacher="", t=4.0, data="../shared/data/mnist", seed=0, runlocal=False
    )
    taught = check_choice("net", arg.net, NETS) == "student"
    c = (distill if taught else supervised).default_config()
    c.name = f"muller2019_{arg.net}" + (f"_{arg.t:g}" if taught else f"_{arg.smoothing:g}")
    c.seed = arg.seed
    c.model = {"name": "mlp", "widths": (800, 800)}
    if arg.net == "teacher":
        c.model = {"name": "mlp", "widths": (1200, 1200), "dropout": 0.5}
        c.augment = {"shift": 2}
    if taught:
        c.teacher.run = arg.teacher
        c.loss.update(temperature=arg.t, alpha=1.0, beta=0.0)
        c.cache.teacher = True
    else:
        c.loss.label_smoothing = arg.smoothing
    c.optim = tlx_config.optim(all={"learning_rate": 1e-3, "warmup": 0.02})
    return on_idx(c, arg.data, passes=PASSES, batch=BATCH, runlocal=arg.runlocal)
