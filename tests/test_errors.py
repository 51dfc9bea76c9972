"""Errors that are the user's to mend: one line, with the file in it."""

import pytest

from tlx.errors import UserError, reading


def test_a_message_is_one_line():
    assert str(UserError("a class 'x\ny': rename it\r\nor not")) == "a class 'x y': rename it or not"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("some/file is empty"), "some/file is empty"),
        (UserError("widths=3: give a tuple"), "some/file: widths=3: give a tuple"),
        (KeyError("name"), "some/file cannot be read (KeyError: 'name'): restore it"),
        (RecursionError("too\ndeep"), "some/file cannot be read (RecursionError: too deep): restore it"),
        (FileNotFoundError(2, "No such file"), "some/file cannot be read (No such file): check the path"),
    ],
)
def test_what_reading_raises_names_the_file(error, said):
    with pytest.raises(UserError) as e, reading("some/file", remedy="restore it"):
        raise error
    assert str(e.value) == said
