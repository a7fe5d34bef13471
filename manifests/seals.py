"""Seals: how a file of the cache says itself that it is whole, and that it lies where it was written.

What comes in: the bytes of a file that tfser wrote, and its place (its path below the cache's root). What goes out: nothing, or a
`DamagedError`. A seal is 64 hexadecimal digits, the SHA-256 of the place and of all bytes of the file with the digits themselves
taken as zeros. It lies inside the file, so that one rename puts both in place: as the last key of a JSON object, in the footer
of a Parquet file, in the header of a safetensors file, behind the end of the catalogue. A file that was exchanged with its like
has another place, so it does not fit.

Files of versions before seals have none; of those only what can be seen at once is called damage: no bytes at all, a Parquet
file without its first and last marks, JSON that is none. Nothing here opens a file, and no failure to open, read, lock or decode
one is ever damage: that is `UnreadableError` (see `files.read_bytes`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from tfser.manifests.errors import DamagedError

KEY = "seal"
"""The name under which JSON objects, Parquet footers and safetensors headers hold their seal."""

_BEFORE, _AFTER = b"tfser-seal:", b":tfser-seal"
_SEAL = re.compile(re.escape(_BEFORE) + rb"([0-9a-f]{64})" + re.escape(_AFTER))

EMPTY = (_BEFORE + b"0" * 64 + _AFTER).decode()
"""What a writer puts into the file before `sealed` fills in the digits."""


def sealed(content: bytes, place: str) -> bytes:
    """Return the content of a file with its empty seal filled in.

    Args:
        content: the whole file, with `EMPTY` in it; the last one counts.
        place: the path of the file below the cache's root, with forward slashes.

    Raises:
        ValueError: if there is no empty seal in it.
    """
    at = content.rfind(EMPTY.encode())
    if at < 0:
        raise ValueError(f"{place}: no place for a seal in it")
    at += len(_BEFORE)
    return content[:at] + _digits(content, at, place) + content[at + 64 :]


def is_sealed(content: bytes, place: str, name: str) -> bool:
    """Tell whether a file has a seal, which then fits; False for a whole-looking file of a version before seals.

    Args:
        content: the whole file.
        place: where it lies below the cache's root, with forward slashes.
        name: what to call it in an error, for instance its path.

    Raises:
        DamagedError: if the seal does not fit the content or the place, or half of a seal is left.
    """
    if not content:
        raise DamagedError("is empty", at=name)
    found = list(_SEAL.finditer(content))
    last = found[-1] if found else None
    if last is None:
        # One changed bit cannot hit both ends of a seal: half of one says that there was one.
        if _BEFORE in content or _AFTER in content:
            raise DamagedError("its seal is damaged", at=name)
        return False
    if _digits(content, last.start(1), place) != last[1]:
        raise DamagedError("its content is not what was written there", at=name)
    return True


def seal_file(path: Path, place: str) -> bytes:
    """Append a seal to a file whose format lets something stand behind its end, as DuckDB's does; return its digits."""
    with path.open("r+b") as file:
        digits = _digits_before_end(file, place)
        file.seek(0, 2)
        file.write(_BEFORE + digits + _AFTER)
    return digits


def sealed_digits(file: BinaryIO, place: str, name: str) -> bytes:
    """Return the digits of the seal in which an open file ends, which fit; none without a seal. It is left at its beginning.

    Raises:
        DamagedError: if the seal does not fit the content or the place.
    """
    size = file.seek(0, 2)
    if not size:
        raise DamagedError("is empty", at=name)
    file.seek(max(0, size - len(EMPTY)))
    found = _SEAL.fullmatch(file.read())
    digits = _digits_before_end(file, place, size - len(EMPTY)) if found is not None else b""
    file.seek(0)
    if found is not None and digits != found[1]:
        raise DamagedError("its content is not what was written there", at=name)
    return found[1] if found is not None else b""


def _digits_before_end(file: BinaryIO, place: str, size: int | None = None) -> bytes:
    """Return the digits of a seal behind the first `size` bytes of a file, or behind all of them."""
    digest = hashlib.sha256(place.encode() + b"\0")
    left = file.seek(0, 2) if size is None else size
    file.seek(0)
    while left and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    digest.update(EMPTY.encode())
    return digest.hexdigest().encode()


def _digits(content: bytes, at: int, place: str) -> bytes:
    """Return the digits of a seal that stands at byte `at`: over the place, and the content with zeros there."""
    view = memoryview(content)
    digest = hashlib.sha256(place.encode())
    for part in (b"\0", view[:at], b"0" * 64, view[at + 64 :]):
        digest.update(part)
    return digest.hexdigest().encode()
