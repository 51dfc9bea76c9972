"""What people type: the argument after a config's colon, values of every kind for every key, and the command line."""

import contextlib
import copy
import io
import pathlib
from typing import Any
from unittest import mock

from absl import flags
from hypothesis import strategies as st

from experiments.fuzz.mutation import NUMBERS, ODD
from experiments.fuzz.target import Target
from tlx import command, recipes
from tlx import config as config_lib
from tlx.errors import UserError

_ROOT = pathlib.Path(__file__).parents[2]
_RECIPES = ("supervised", "distill", "self_train", "semi_supervised")
_WORDS = ("", "1", "-1", "0.5", "True", "nan", "1e999", "9" * 5000, "x", "()", "(1,", "{}", "{'a': 1}")
_WORDS += ("[" * 300, "None")
_WORDS += ("'", "\n", "=", ",", "2**99999", "'a' 'b'", "$x", "1_0", "０", "\x00")
_WORDS += ("__import__('os').system('touch ran')",)


def argument(folder: pathlib.Path) -> Target:
    """`config.parse_arg` on "name=value,..." with names and values that are right, nearly right and neither."""
    defaults = {"seed": 0, "runlocal": False, "rate": 0.5, "name": "x"}
    name = st.one_of(st.sampled_from((*defaults, "sed", "", "Seed")), st.text(max_size=5))
    value = st.one_of(st.sampled_from(_WORDS), st.text(max_size=8))
    part = st.tuples(name, st.sampled_from(("=", "", "==")), value).map("".join)
    examples = st.one_of(st.lists(part, max_size=4).map(",".join), st.text(max_size=20))
    return Target("seed=1", examples, lambda text: config_lib.parse_arg(text, **defaults), ("config argument",))


def values(folder: pathlib.Path) -> Target:
    """`config.resolve` for every recipe, with values of wrong types at any depth, and unknown keys."""
    scalar = st.one_of(st.sampled_from((*ODD, *NUMBERS)), st.text(max_size=5))
    value = st.recursive(
        scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    )
    defaults = {name: config_lib.to_dict(recipes.load(name).default_config()) for name in _RECIPES}
    key = st.one_of(st.none(), st.text(max_size=6), st.sampled_from((1, None, ("a",), "a.b")))
    change = st.tuples(st.integers(0, 2**20), key, value)
    examples = st.tuples(st.sampled_from(_RECIPES), st.lists(change, min_size=1, max_size=3))

    def read(example: tuple[str, list[tuple]]) -> None:
        name, changes = example
        given = copy.deepcopy(defaults[name])
        for at, key, value in changes:
            spots = list(_spots(given))
            section, known = spots[at % len(spots)]
            section[known if key is None else key] = value
        config_lib.to_dict(config_lib.resolve(given, defaults[name]))

    return Target(("supervised", []), examples, read, ("config",))


def command_line(folder: pathlib.Path) -> Target:
    """`--config=FILE:ARGUMENT --config.key=value ...`, as far as the resolved config."""
    defaults = config_lib.to_dict(recipes.load("supervised").default_config())
    dotted = [".".join(path) for path in _paths(defaults)] + ["sed", "train", "train.stps", "model.depth", "", "a..b"]
    value = st.one_of(st.sampled_from(_WORDS), st.sampled_from(NUMBERS).map(str), st.text(max_size=6))
    override = st.tuples(st.sampled_from(dotted), st.sampled_from(("=", "=", "=", "")), value)
    override = override.map(lambda parts: "--config." + "".join(parts))
    colon = st.one_of(st.just(""), st.sampled_from((":runlocal", ":seed=1", ":", ":x", "::")))
    examples = st.tuples(colon, st.lists(st.one_of(override, st.text(max_size=8)), max_size=3))
    file = str(_ROOT / "configs" / "digits_scratch.py")

    def body() -> int:
        config_lib.resolve(command.CONFIG.value, defaults)
        return 0

    def read(example: tuple[str, list[str]]) -> None:
        colon, more = example
        argv = ["main", f"--config={file}{colon}", *more]
        _forget_overrides()
        said = io.StringIO()
        with mock.patch("sys.argv", argv), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = command.call(body, argv, usage="python -m tlx.main --config=x")
        if code:
            raise UserError(said.getvalue().removeprefix("error: ").removesuffix("\n"))

    return Target(("", ["--config.seed=3"]), examples, read, ("",))


def _forget_overrides() -> None:
    """Parsing a command line adds a flag for each override, once a process."""
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)


def _spots(section: dict[str, Any]) -> Any:
    for key, value in section.items():
        yield section, key
        if isinstance(value, dict):
            yield from _spots(value)


def _paths(section: dict[str, Any]) -> Any:
    for key, value in section.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _paths(value))
