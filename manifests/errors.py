"""What goes wrong in ways that a user can mend: one line each, saying what, where, and the way out."""

from __future__ import annotations


class TfserError(Exception):
    """Something failed. The command line prints the message and exits with 1.

    The message is one clear statement: what is wrong, where (file, row, option), and the way out.
    """

    exit_code = 1
    way_out = ""
    """What the command line adds to the message of every error of this kind."""


class DamagedError(TfserError):
    """Bytes of the cache were read, and they are not those that were written: the only thing that is ever called damage."""

    way_out = "; `tfser cache verify` says what to do"


class UnreadableError(TfserError):
    """A file could not be opened, read, locked or understood just now.

    By permission, for want of memory, because somebody holds it, because a library is missing or a newer version wrote it: it may
    be whole, and nothing is ever removed for it.
    """


class MissingFileError(UnreadableError):
    """A file that something refers to is not there (any more)."""


class UnknownContentError(UnreadableError):
    """A file was read, and is whole as far as can be seen, but does not say what this version looks for.

    A newer version may have written it. Who is asked to make it again (a scan, an extraction) may move it away for that.
    """


class CannotWriteError(TfserError):
    """The cache cannot be written or locked now: its disk is read-only, full, or knows no file locks; reading may still work."""


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
