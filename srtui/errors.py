"""The one kind of error that a person is meant to read."""


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence that names the file, line or field and what to do. The command line
    prints it without a traceback and exits with code 2; the dashboard shows it as a toast.
    """
