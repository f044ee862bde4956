"""The errors that a user can mend, and what to say of a name that is not known."""

import difflib
from collections.abc import Iterable


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns what to say of an unknown name: the nearest known one, or all of them.

    Example:
      >>> nearest("sdg", ["sgd", "adam"])
      'did you mean sgd? allowed: sgd, adam'
    """
    known = list(known)
    lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    guess = f"did you mean {lower[close[0]]}? " if close else ""
    return f"{guess}allowed: {', '.join(known)}"
