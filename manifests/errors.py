"""What goes wrong in ways that a user can mend: one line each, saying what, where, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path


class TfserError(Exception):
    """Something failed. The command line prints the message and exits with 1.

    The message is one clear statement: what is wrong, where (file, row, option), and the way out.
    """

    exit_code = 1
    way_out = ""
    """What the command line adds to the message of every error of this kind."""


class FileError(TfserError):
    """Something about one file or folder: `at` says which, `reason` what; the message has both."""

    def __init__(self, reason: str, at: Path | str | None = None) -> None:
        super().__init__(reason if at is None else f"{at}: {reason}")
        self.reason, self.at = reason, None if at is None else Path(at)

    def seen_from(self, folder: Path) -> str:
        """Return the message for those who have named a file or folder already: what is in it is called from there.

        >>> DamagedError("is empty", at="cache/runs/a/run.json").seen_from(Path("cache/runs/a"))
        'run.json: is empty'
        """
        if self.at is None or self.at == folder:
            return self.reason
        return f"{self.at.relative_to(folder).as_posix()}: {self.reason}" if folder in self.at.parents else str(self)


class DamagedError(FileError):
    """Bytes of the cache were read, and they are not those that were written: the only thing that is ever called damage."""

    way_out = "; `tfser cache verify` says what to do"


class UnreadableError(FileError):
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


class ReaderGoneError(Exception):
    """Whoever read standard output has enough; that is no failure."""


def unknown(kind: str, name: str, known: Collection[str], *, listed_by: str | None = None) -> UsageError:
    """Return the error for a name that is not in a registry: it lists the known ones, or says which command does.

    >>> str(unknown("head", "tf_mambo", ["mean_pool", "tf_mamba"]))
    "unknown head 'tf_mambo'; did you mean 'tf_mamba'? Known: mean_pool, tf_mamba"
    >>> str(unknown("setting", "lrr", ["lr", "epochs"], listed_by="tfser heads svm"))
    "unknown setting 'lrr'; did you mean 'lr'? `tfser heads svm` lists all"
    >>> str(unknown("corpus", "iemocap", []))
    "unknown corpus 'iemocap'; Known: none yet"
    """
    close = difflib.get_close_matches(name, known, n=1)
    rest = f"`{listed_by}` lists all" if listed_by else f"Known: {', '.join(sorted(known)) or 'none yet'}"
    return UsageError(f"unknown {kind} {name!r}; " + (f"did you mean {close[0]!r}? {rest}" if close else rest))


def first_line(error: BaseException, lines: int = 1) -> str:
    """Return the head of an error's message, for libraries that go on for a page; an empty message gives the error's type.

    Args:
        error: any.
        lines: how many lines, joined by blanks: of DuckDB's errors the second often says what would be right.
    """
    head = [line.strip() for line in str(error).splitlines() if line.strip() or lines > 1][:lines]
    return " ".join(line for line in head if line) or type(error).__name__
