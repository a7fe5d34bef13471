"""The process's streams and encodings, made sane before anything else: closed ones, terminals in ASCII, locales without UTF-8."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from tfser.manifests.texts import as_text


def make_ready() -> None:
    """Make standard input, output and error usable, and the process speak UTF-8 to files, arguments and libraries.

    A closed stream (a service's) becomes the null device: else the next file that is opened would get its number, and what
    a library prints would end up in it. What a stream's encoding lacks is written as an escape and not an error.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    _speak_utf8()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _speak_utf8() -> None:
    """Start the program again in Python's UTF-8 mode where the locale has it speak anything else.

    The libraries below (DuckDB, Arrow, safetensors) take paths as UTF-8 whatever the locale. Python would hand them other bytes
    than it opens itself, so that one program sees two files. The streams keep the locale's encoding, which is the terminal's.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or os.name != "posix" or not sys.executable:
        return
    if os.environ.get("PYTHONUTF8") == "1":  # it was tried; something stronger says no
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def finish(code: int) -> int:
    """Write out what is left for standard output, and return the exit code: 1 where that fails and all else went well.

    Whoever reads a pipe may stop when they have enough; that is no failure.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes again when it ends
        if not isinstance(error, BrokenPipeError) and code == 0:
            print(f"tfser: standard output: cannot be written ({(error.strerror or '').lower()})", file=sys.stderr)
            return 1
    return code


def leave(code: int) -> NoReturn:
    """End the process with an exit code as if it had come to its end, but free nothing: a page's figures are some hundred
    thousand objects, which the interpreter would go through for half a second before they are gone with the process anyway.

    What was registered for the end is done (Matplotlib removes its temporary folder), and both streams are written out. Whoever
    watches the program, a debugger or a profiler, sees its ordinary end.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None:
        sys.exit(code)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # of standard output, `finish` has said it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def standard_input() -> str:
    """Return what standard input holds, which has to be UTF-8.

    Raises:
        UsageError: if it is not.
    """
    return as_text(sys.stdin.buffer.read(), "standard input") if hasattr(sys.stdin, "buffer") else sys.stdin.read()


def is_file(text: str) -> bool:
    """Tell whether a text is the name of a file; one that no file could have, too long or with odd characters, is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False
