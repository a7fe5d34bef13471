"""How a command ends that does not go through: an error becomes one line and an exit code.

2 is for a request that is off (an unknown name, an option that does not exist, a folder that is no cache), 1 for what failed
although it was asked rightly (a disk, a damaged file, a leak that the audit found), 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfser.manifests.errors import TfserError, UsageError, first_line

INTERRUPTED = 130

_DEBUG = "run again with --debug for the traceback"
_WAY_OUT = {
    errno.ENOSPC: "make room, or name another folder with --cache",
    errno.EDQUOT: "make room, or name another folder with --cache",
    errno.EACCES: "see who may read and write there",
    errno.EPERM: "see who may read and write there",
    errno.EROFS: "name a folder that can be written, with --cache or --output",
    errno.ENOLCK: "this disk offers no file locks; name a folder on another with --cache",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; try again later",
    errno.ENOENT: "see whether it was moved or removed meanwhile",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.EIO: "the disk fails; copy what matters, and look at the system's log",
}
Names = Mapping[str, Callable[[], Sequence[str]]]


def describe(error: Exception, names: Names) -> tuple[str, int]:
    """Return an error as one line, and the exit code.

    Args:
        error: whatever a command raised.
        names: by option or argument, what lists the names that it takes.
    """
    code = int(getattr(error, "exit_code", 1))
    if isinstance(error, TfserError):
        return f"{error}{error.way_out}", code
    if hasattr(error, "format_message"):  # an error of the option parser
        path = getattr(getattr(error, "ctx", None), "command_path", "tfser")
        return f"{_parser_message(error, names)} (see `{path} --help`)", code
    if type(error).__name__ == "Abort":
        return "stopped", 1
    if isinstance(error, OSError) and error.strerror:
        return _os_message(error), 1
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({_DEBUG})", 1
    return f"{type(error).__name__}: {first_line(error)} ({_DEBUG}, and report it)", 1


def _os_message(error: OSError) -> str:
    """Return an error of the system with the path that it is about, and what to do."""
    paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, (str, bytes))]
    where = " to ".join(paths) or "a file or folder that the system does not name"
    way_out = _WAY_OUT.get(error.errno or 0)
    return f"{where}: {(error.strerror or '').lower()}; {f'{way_out} ({_DEBUG})' if way_out else _DEBUG}"


def _parser_message(error: Any, names: Names) -> str:
    """Return what the parser of options says, with what it leaves out: the names that a missing option takes, or `--set`."""
    message = str(error.format_message()).rstrip(".")
    option = getattr(error, "param", None)
    if option is not None and type(error).__name__ == "MissingParameter":
        about = getattr(option, "help", None)
        known = names[option.name]() if option.name in names else ()
        return message + (f": {about.rstrip('.')}" if about else "") + (f"; known: {', '.join(known)}" if known else "")
    if (wrong := getattr(error, "option_name", None)) is not None:
        setting = wrong.lstrip("-").replace("-", "_")
        taken = {name for of in error.ctx.command.params for name in of.opts} if getattr(error, "ctx", None) else ()
        if "--set" in taken and "setting" in names and setting in names["setting"]():
            return f"there is no option {wrong}, but a setting: write --set {setting}=VALUE"
    return message


def check_words(words: Sequence[str]) -> None:
    """Refuse words that can mean nothing here: empty ones, since `--name "$NAME"` with a variable that is not set is no request
    for the default, and those that are not UTF-8, which neither DuckDB nor Arrow takes, as text or as a path.

    Raises:
        UsageError: if there is one.
    """
    for place, word in enumerate(words):
        try:
            os.fsencode(word).decode()
        except UnicodeError as error:
            raise UsageError(f"the argument {word} is not UTF-8; write it, or rename the file that it names, in UTF-8") from error
        option = word.removesuffix("=") if word.startswith("--") and word.endswith("=") and word.count("=") == 1 else None
        if not word:
            option = words[place - 1] if place and words[place - 1].startswith("--") else "an argument"
        if option is not None:
            raise UsageError(f"{option}: the value is empty; give one, or leave it out")


def interrupted(goes_on: bool) -> str:
    """Return what is said after Ctrl-C: whether the same command goes on where it was."""
    if goes_on:
        return "interrupted; what was finished is safe, run the same command again to go on"
    return "interrupted"
