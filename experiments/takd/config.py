"""Mirzadeh et al. (2020), "Improved Knowledge Distillation via Teacher Assistant", on MNIST: one run, one seed.

    python -m tlx.main --config=experiments/takd/config.py:net=teacher --workdir=runs/teacher
    python -m tlx.main --config=experiments/takd/config.py:net=assisted,teacher=runs/teacher,t=4 --workdir=runs/assisted

Networks of two hidden layers: the teacher of 1200 units each, the assistant of 300, the student of 30. "hard" learns
from labels, "direct" from the teacher, "assisted" from the assistant, which learns from the teacher in the same run.
MNIST as IDX files (`data=FOLDER`); 5,000 of the 60,000 training images are held out to choose by.
"""

from ml_collections import ConfigDict

from experiments.idx import on_idx
from tlx import config as tlx_config
from tlx.models.options import check_choice
from tlx.recipes import distill, supervised

NETS = ("teacher", "hard", "direct", "assisted")
WIDTHS = {"teacher": 1200, "assistant": 300, "student": 30}
BATCH = 256
PASSES = {"teacher": 20, "student": 30}  # over the 55,000 images; the assistant has as many as the student


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: net=teacher|hard|direct|assisted, teacher=RUN, t=4.0, data=FOLDER, seed=0, runlocal.

    Raises:
      UserError: an unknown net.
    """
    arg = tlx_config.parse_arg(
        arg, net="teacher", teacher="", t=4.0, data="../shared/data/mnist", seed=0, runlocal=False
    )
    taught = check_choice("net", arg.net, NETS) in ("direct", "assisted")
    c = (distill if taught else supervised).default_config()
    c.name = f"takd_{arg.net}" + (f"_{arg.t:g}" if taught else "")
    c.seed = arg.seed
    role = "teacher" if arg.net == "teacher" else "student"
    c.model = _mlp(role)
    c.optim = tlx_config.optim(all={"learning_rate": 1e-3, "warmup": 0.02})
    if role == "teacher":
        c.model.dropout = 0.5
        c.augment = {"shift": 2}
    if taught:
        c.teacher.run = arg.teacher
        c.loss.update(temperature=arg.t, alpha=1.0, beta=0.1)
        c.cache.teacher = True
    if arg.net == "assisted":
        c.assistants = (_mlp("assistant"),)
    return on_idx(c, arg.data, passes=PASSES[role], batch=BATCH, runlocal=arg.runlocal)


def _mlp(role: str) -> dict:
    return {"name": "mlp", "widths": (WIDTHS[role],) * 2}
