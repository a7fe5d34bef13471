"""Text files: those that users give, UTF-8 with or without the mark that some editors put in front, and those of tfser's own."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from tfser.manifests.errors import UsageError


def read_text(path: Path, what: str) -> str:
    """Return the text of a file.

    Args:
        path: the file.
        what: what errors call it, with its name.

    Raises:
        UsageError: if it is not there, cannot be read, or is not UTF-8.
    """
    try:
        return as_text(path.read_bytes(), what)
    except OSError as error:
        raise UsageError(f"{what}: cannot be read ({(error.strerror or str(error)).lower()})") from error


def packaged(folder: str, name: str) -> str:
    """Return the text of a file that lies in a package of tfser's, such as `manifests.audits`."""
    return resources.files(f"tfser.{folder}").joinpath(name).read_text(encoding="utf-8")


def as_toml(text: str, what: str) -> dict[str, Any]:
    """Return what a text says in TOML; `what` is its file's name in errors.

    Raises:
        UsageError: it is no TOML; the message says where.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{what}: this is no TOML ({error})") from error


def as_text(content: bytes, what: str) -> str:
    """Return what bytes say in UTF-8, without a mark in front.

    Raises:
        UsageError: if they are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{what}: line {line} is not UTF-8 text; save it as UTF-8") from error
