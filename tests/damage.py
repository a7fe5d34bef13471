"""Ways in which a file comes to harm, for tests: each takes the file and one of its kind from elsewhere.

A module for tests; load it with runpy or importlib, tests are no package.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Harm = Callable[[Path, Path], None]


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _longer(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _bit(path: Path, other: Path) -> None:
    flip(path, path.stat().st_size // 3, 2)


def _delete(path: Path, other: Path) -> None:
    path.unlink()


def _swap(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def flip(path: Path, at: int, bit: int) -> None:
    """Change one bit of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])


DAMAGED: dict[str, Harm] = {
    "empty": _empty, "half": _half, "longer": _longer, "bit": _bit, "deleted": _delete, "swapped": _swap, "folder": _folder,
    "pipe": _pipe,
}  # fmt: skip
"""After each of these a file is not what was written; none of them may hang a reader."""

UNREADABLE: dict[str, Harm] = {"dangling link": _link}
"""After these it cannot be told: what the link is to may be away for a while."""
