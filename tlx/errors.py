"""The errors that are the user's to mend: one line, the value at fault, and the fix."""


class UserError(ValueError):
    """Bad input. `tlx.main` prints it on one line, without a traceback, and exits with 2.

    Write the message as: what is wrong, the value, what to do. It is raised before anything is compiled wherever the
    input is known by then.
    """
