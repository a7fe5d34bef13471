"""What goes wrong in ways that a user can mend: one line each, saying what, where, and the way out."""

from __future__ import annotations


class TfserError(Exception):
    """Something failed. The command line prints the message and exits with 1.

    The message is one clear statement: what is wrong, where (file, row, option), and the way out.
    """

    exit_code = 1


class UsageError(TfserError):
    """The request itself is off: an unknown name, an ambiguous choice, a bad option value. Exits with 2."""

    exit_code = 2


def unknown(kind: str, name: str, known: list[str] | tuple[str, ...]) -> UsageError:
    """Return the error for a name that is not in a registry: it lists the known ones.

    >>> str(unknown("head", "tf_mambo", ["mean_pool", "tf_mamba"]))
    "unknown head 'tf_mambo'; did you mean 'tf_mamba'? Known: mean_pool, tf_mamba"
    """
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    known_names = ", ".join(sorted(known)) or "none yet"
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {known_names}".replace(";? ", "; "))
