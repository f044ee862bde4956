"""The errors that a user can mend."""


class InputError(ValueError):
    """Bad input: one line that names the field, its value, and what is allowed.

    The entry points print this line and exit with code 2, with nothing written.
    """


class InUse(InputError):
    """Another process is at work in a folder."""


class ToldByMain(InputError):
    """On the other processes of a run: an InputError that process 0 raises and prints as well."""


class Diverged(RuntimeError):
    """The loss, or a parameter, is no longer finite; the entry points exit with code 3."""
