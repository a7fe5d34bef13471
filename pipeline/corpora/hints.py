"""What a reader of tables says where somebody may have meant it otherwise, each as one sentence with the way out.

What comes in: what was read of a table, and the root folder. What goes out: notes about columns that nobody recognised, words
that many people write for nothing, audio files that no row names, and the level above or below the root at which the table's
files lie. Nothing is guessed silently: all of this is only said.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import audio_paths, is_junk, relative_texts
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = frozenset(("nan", "na", "n/a", "none", "null", "-"))
"""Words that some people and programs write where there is nothing, and that others mean."""

_ROOTS = {
    "label": ("emo", "label", "class", "categor", "affect", "mood", "feeling", "annotation", "target"),
    "speaker": ("speaker", "spk", "actor", "subject", "participant", "talker", "voice", "person"),
}
"""What is part of the names of columns that may be meant; the likeliest first."""

_MOST_CLASSES = 20
"""A column of so few words at most, each of them used again and again, looks like a label whatever its name."""

_TRIED = 64
"""Missing files that are looked for at another level before all of them are."""

_MOST_FOLDERS = 200
"""Folders below the root that are looked into for the table's files."""


def column_notes(file: Path, table: pa.Table, taken: Mapping[str, str]) -> list[str]:
    """Say that a table has no column that is taken for the label or the speaker, with the columns that look like one."""
    free = [name for name in table.column_names if name not in taken.values()]
    notes = []
    for ours, parts in _ROOTS.items():
        if ours in taken:
            continue
        alike = [name for part in parts for name in free if part in name.casefold()]
        alike = [name for name in dict.fromkeys(alike) if _has_words(table, name, many=ours == "speaker")]
        if ours == "label" and not alike:
            alike = [name for name in free if _has_few_words(table, name)]
        if alike:
            what = f"{' and '.join(alike[:3])} look{'s' if len(alike) == 1 else ''} like it: --column {ours}={alike[0]}"
        else:
            what = f"if there is one, name it with --column {ours}=NAME (columns: {', '.join(table.column_names)})"
        notes.append(f"{file.name}: no column is taken for the {ours}; {what}")
    return notes


def _has_words(table: pa.Table, name: str, *, many: bool) -> bool:
    """Tell whether a column says anything; `many`: more than one thing of the rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table[name]
    if pa.types.is_nested(column.type) or pa.types.is_floating(column.type) or column.null_count == len(column):
        return False
    return not many or pc.count_distinct(column).as_py() > 1


def _has_few_words(table: pa.Table, name: str) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table[name]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    distinct = int(pc.count_distinct(column).as_py())
    return 2 <= distinct <= _MOST_CLASSES and len(column) - column.null_count >= 3 * distinct


def word_notes(source: str, utterances: Sequence[Utterance]) -> list[str]:
    """Say which words are taken as they stand though many people write them for nothing.

    >>> word_notes("t.csv", [Utterance(utterance_id="a", path="a.wav", raw_label="none", label="none")])
    ["t.csv: the label 'none' of 1 row is taken as a word like any other; leave the cell empty if nothing is meant"]
    """
    notes = []
    for ours in ("label", "speaker", "session", "split", "gender"):
        said = Counter(map(attrgetter("raw_label" if ours == "label" else ours), utterances))
        words = {word: n for word, n in said.items() if word is not None and word.casefold() in NOTHING}
        for word, n in words.items():
            rows = f"{n:,} row" + ("" if n == 1 else "s")
            notes.append(
                f"{source}: the {ours} {word!r} of {rows} is taken as a word like any other; leave the cell empty if nothing "
                "is meant"
            )
    return notes


def unnamed_note(file: Path, root: Path, paths: Iterable[str]) -> str | None:
    """Say how many audio files lie among those that a table names, and are in none of its rows; None: none do.

    Looked through is the folder that the paths below the root have in common, with what is below it.
    """
    named = {path for path in paths if not path.startswith(("/", "../")) and (path[1:3] != ":/" or not path[0].isalpha())}
    if not named:
        return None
    common = os.path.commonpath({path.rpartition("/")[0] or "." for path in named})
    unnamed = []
    with contextlib.suppress(TfserError):  # a folder that may not be read holds nothing that could be said
        unnamed = [path for path in relative_texts(audio_paths(root / common), root) if path not in named]
    if not unnamed:
        return None
    files = "1 audio file" if len(unnamed) == 1 else f"{len(unnamed):,} audio files"
    are, more = "is" if len(unnamed) == 1 else "are", ", ..." if len(unnamed) > 2 else ""
    return f"{file.name}: {files} in {root / common} {are} in no row: {', '.join(unnamed[:2])}{more}"


def level_that_fits(root: Path, missing: Sequence[str]) -> tuple[Path, int] | None:
    """Return the folder above or below the root at which most of some missing files lie, and how many do; None: there is none.

    Tried are the two folders above the root, and those of the first two levels below it.
    """
    wanted = [path for path in missing if path and not Path(path).is_absolute() and not re.match("[A-Za-z]:", path)]
    sample = wanted[:: max(1, len(wanted) // _TRIED)]
    best: tuple[Path, int] | None = None
    for folder in _around(root):
        if 2 * sum(_is_there(folder, path) for path in sample) <= len(sample):
            continue
        there = sum(_is_there(folder, path) for path in wanted)
        if 2 * there > len(missing) and (best is None or there > best[1]):
            best = (folder, there)
    return best


def _around(root: Path) -> Iterator[Path]:
    yield from list(root.parents)[:2]
    below = _folders(root)
    yield from below
    for folder in below:
        yield from _folders(folder)


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if not is_junk(e.name) and e.is_dir())[:_MOST_FOLDERS]
    return []


def _is_there(folder: Path, path: str) -> bool:
    """Tell whether a path leads to a file, as it is or as the stem of an audio file."""
    try:
        if (folder / path).is_file():
            return True
    except (OSError, ValueError):
        return False
    if PurePosixPath(path).suffix.lower() in KNOWN_SUFFIXES:
        return False
    return any((folder / f"{path}{suffix}").is_file() for suffix in KNOWN_SUFFIXES)
