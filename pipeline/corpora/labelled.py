"""Corpora whose labels stand in a table beside the audio, read from a declaration each.

Comes in: a `LabelTable`, that is how the tables are called, and which of their columns is what. Goes out: the corpus's reader.
Tables and audio are found anywhere below the root, since copies differ in their folders; a row whose file is nowhere stays a row,
and the scan says so; audio that no row names is listed. A file's name without its ending is the utterance's id. `ratings` reads
the single ratings of a corpus that has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.dimensions import DIMENSIONS
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Passed, Reading, audio_files, number_in, relative
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, VIDEO_SUFFIXES

Cells = Mapping[str, str]
"""A row of a table: its cells by their columns' names in small letters; empty ones are not there."""

Ratings = Callable[[Sequence[Path], list[Passed]], Iterator[Annotation]]
"""Yields the single ratings out of a corpus's files, and lists those that cannot be read."""

_SIDES = (".csv", ".tsv", ".txt", ".json")
_NOBODY = frozenset({"", "unknown", "-1", "nan", "none", "n/a"})


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One corpus: what it is, how its tables are called, and what their columns and words mean.

    `tables` are patterns of the tables' names. `columns` gives, for each of ours (file, label, speaker, gender, split, sentence,
    transcript, valence, arousal, dominance), the names that it may have there, the likeliest first. `words` translates labels to
    the field's; what is not there is taken as `normalise` takes it. `splits` and `genders` translate these; a split that is not
    there is none of train, val and test and stays in the column `partition`. `rows` yields the cells where the files are no plain
    tables. `about` says to people what so many rows are. Speakers that are called Unknown, -1 and the like are nobody.
    """

    name: str
    summary: str
    source: str
    page: str
    licence: str
    layout: str
    tables: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    default_protocol: str | None
    words: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    genders: Mapping[str, str] = field(default_factory=lambda: {"f": "F", "female": "F", "m": "M", "male": "M"})
    delimiter: str | None = None
    rows: Callable[[Path], Iterator[Cells]] | None = None
    from_name: Callable[[str], Mapping[str, str]] | None = None
    """What the file's name says besides: columns of ours, by name."""
    ratings: Ratings | None = None
    about: Callable[[int], str | None] | None = None
    one_row_each: bool = True
    """False: a table has a row a rating, and the first of an utterance makes it."""
    expected: Expected | None = None

    def reader(self) -> CorpusReader:
        """Return the reader of this corpus."""
        return CorpusReader(
            name=self.name,
            summary=self.summary,
            source=self.source,
            layout=self.layout,
            read=functools.partial(_read, self),
            default_protocol=self.default_protocol,
            page=self.page,
            licence=self.licence,
            expected=self.expected,
        )


def _read(corpus: LabelTable, root: Path, options: Mapping[str, Any]) -> Reading:
    """Read a corpus from any folder above its tables and audio.

    Raises:
        TfserError: if there is no table or no audio, or a table cannot be read.
    """
    reading = Reading()
    files = list(audio_files(root, {*_SIDES, *KNOWN_SUFFIXES, *VIDEO_SUFFIXES}, reading.skipped))
    # By stem, whatever folder and suffix: tables name the files of the release, copies hold them converted or moved. Of
    # two, the first counts.
    audio: dict[str, Path] = {}
    for path in (path for path in files if path.suffix.lower() not in _SIDES):
        if (first := audio.setdefault(path.stem.casefold(), path)) != path:
            reading.skipped.append((path.stem, relative(path, root), f"the same utterance as {relative(first, root)}"))
    tables = [path for path in files if any(fnmatch(path.name.casefold(), name.casefold()) for name in corpus.tables)]
    if not tables:
        raise corpus.reader().fail(root, f"there is no table called {' or '.join(corpus.tables)} in it")
    if not audio:
        raise corpus.reader().fail(root, "there is no audio in it")
    # A row without audio stays a row, which the scan lists as unreadable; audio without a row is listed by `_account`.
    seen: set[str] = set()
    for table in tables:
        for number, cells in enumerate(corpus.rows(table) if corpus.rows else rows_of(table, corpus.delimiter), 1):
            written = _cell(corpus, cells, "file")
            if written is None:
                reading.skipped.append((None, relative(table, root), f"row {number} names no file"))
                continue
            name = PurePosixPath(written.replace("\\", "/"))
            stem = name.stem if f".{name.suffix[1:].lower()}" in {*KNOWN_SUFFIXES, *VIDEO_SUFFIXES} else name.name
            if stem in seen:
                if corpus.one_row_each:
                    reading.skipped.append((stem, relative(table, root), f"row {number}: labelled again; the first row stands"))
                continue
            seen.add(stem)
            path = audio.get(stem.casefold())
            where = relative(path, root) if path is not None else written
            reading.utterances.append(_utterance(corpus, stem, where, cells))
    _account(corpus, root, audio, seen, reading)
    if corpus.ratings is not None:
        reading.annotations = list(corpus.ratings(files, reading.unused_ratings))
    return reading


def _account(corpus: LabelTable, root: Path, audio: Mapping[str, Path], seen: set[str], reading: Reading) -> None:
    """List audio that no row labels, and say what the number of rows means."""
    if not reading.utterances:
        raise corpus.reader().fail(root, "no row of its tables names a file")
    labelled = {stem.casefold() for stem in seen}
    for stem, path in sorted(audio.items()):
        if stem not in labelled:
            reading.skipped.append((path.stem, relative(path, root), "no row of a table labels it"))
    if corpus.about is not None and (words := corpus.about(len(reading.utterances))) is not None:
        reading.notes.append(words)


def _utterance(corpus: LabelTable, stem: str, path: str, cells: Cells) -> Utterance:
    named = dict(corpus.from_name(stem)) if corpus.from_name is not None else {}
    cell = {ours: value for ours in corpus.columns if (value := _cell(corpus, cells, ours)) is not None}
    raw = cell.pop("label", None)
    split, gender = cell.get("split"), cell.get("gender", "").casefold()
    speaker = cell.get("speaker")
    used = {name for names in corpus.columns.values() for name in names}
    values: dict[str, Any] = {name: number_in(cell.get(name)) for name in DIMENSIONS}
    own: dict[str, Any] = {name: value for name, value in cells.items() if name not in used}
    return Utterance(
        utterance_id=stem,
        path=path,
        speaker=named.pop("speaker", None) or (None if speaker is None or speaker.casefold() in _NOBODY else speaker),
        gender=named.pop("gender", None) or corpus.genders.get(gender),
        session=named.pop("session", None),
        scenario=named.pop("scenario", None),
        sentence=named.pop("sentence", None) or cell.get("sentence"),
        split=named.pop("split", None) or corpus.splits.get((split or "").casefold()),
        transcript=cell.get("transcript"),
        label=None if raw is None else corpus.words.get(raw.casefold()) or normalise(raw),
        raw_label=raw,
        **values,
        extra={**({"partition": split} if "split" in corpus.columns else {}), **own, **named},
    )


def _cell(corpus: LabelTable, cells: Cells, ours: str) -> str | None:
    return next((cells[name] for name in corpus.columns.get(ours, ()) if cells.get(name)), None)


def rows_of(table: Path, delimiter: str | None) -> Iterator[Cells]:
    """Yield the rows of a plain table, all of it as text."""
    data = load(table, delimiter, ())
    names = [name.casefold() for name in data.column_names]
    for values in zip(*(column.to_pylist() for column in data.columns), strict=True):
        yield {name: str(value) for name, value in zip(names, values, strict=True) if value is not None}
