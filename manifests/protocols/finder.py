"""Which utterance of a corpus is meant by what others call it: an id, or a path under another root.

In go the corpus's utterances (id, path, the corpus's own split) and names as foreign files write them; out come the utterances
that fit a name best: none, one, or several that fit equally well. Nothing is guessed between several.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence


class Finder:
    """Finds utterances by what others call them."""

    def __init__(self, corpus: str, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """Take the corpus's name and its utterances: id, path, the corpus's own split."""
        self._prefixes = tuple(f"{_fold(corpus)}{mark}" for mark in "-_/:")
        self._rows = rows
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._parts: list[tuple[str, ...]] = []
        for i, (name, path, _) in enumerate(rows):
            self._by_id[_fold(name)].append(i)
            parts = _parts(path)
            self._parts.append(parts)
            self._by_stem[parts[-1]].append(i)

    def find(self, names: Sequence[str], role: str | None) -> list[int]:
        """Return the utterances (by number) that a row's names fit best; none, one, or several that fit equally well."""
        several: list[int] = []
        for name in names:
            found = self._exact(name) or self._by_name(name)
            if len(found) > 1 and role is not None:
                found = [i for i in found if self._rows[i][2] == role] or found
            if len(found) == 1:
                return found
            several = several or found
        return several

    def _exact(self, name: str) -> list[int]:
        """Return the utterance whose id this is to the letter, where ids differ in case alone."""
        found = self._by_id.get(_fold(name), [])
        return [i for i in found if self._rows[i][0] == name] or found

    def _by_name(self, name: str) -> list[int]:
        parts = _parts(name)
        if not parts:
            return []
        if hits := self._by_stem.get(parts[-1]):
            lengths = [_common_tail(parts, self._parts[i]) for i in hits]
            hits = [i for i, n in zip(hits, lengths, strict=True) if n == max(lengths)]
            if len(hits) > 1 and (exact := [i for i in hits if self._parts[i] == parts]):
                hits = exact
            return hits
        if hits := self._by_id.get(parts[-1]):
            return hits
        for prefix in self._prefixes:
            if parts[-1].startswith(prefix):
                bare = parts[-1][len(prefix) :]
                return self._by_id.get(bare) or self._by_stem.get(bare) or []
        return []


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip()).casefold()


def _parts(path: str) -> tuple[str, ...]:
    """Return a path's parts without drive, dots and suffix, folded for comparison.

    >>> _parts(r"D:\\IEMOCAP\\Session1\\Ses01F_impro01_F000.WAV")
    ('iemocap', 'session1', 'ses01f_impro01_f000')
    """
    folded = re.sub(r"^[a-z]:", "", _fold(path).replace("\\", "/"))
    parts = [part for part in folded.split("/") if part not in ("", ".", "..")]
    if parts:
        parts[-1] = re.sub(r"\.[a-z][a-z0-9]{1,4}$", "", parts[-1])
    return tuple(parts)


def _common_tail(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return how many last parts two paths share."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count
