"""Databases in audEERING's audformat, the form in which emodb and others are published: `--corpus audformat --root FOLDER`.

Emotion, speaker and the rest are found by the usual names of columns and schemes (those of `table`). Where several tables have
an emotion and agree (`emotion` and the parts `emotion.categories.train.gold_standard` and `....test....`), they are taken
together; where they do not (single raters beside a gold standard), the gold standard is taken; where that does not settle it,
one has to be named: `--column label=TABLE/COLUMN`, with * for any. The side of a table (its split, or the part of its name) is
the split of its rows. Codes are translated by their scheme's labels; what the labels or a misc table say of a speaker (gender,
age) goes to his utterances. All other columns are kept as the corpus's own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.corpora.audformat_files import Column, Key, Opened, open_database
from tfser.pipeline.corpora.base import CorpusReader, Reading
from tfser.pipeline.corpora.hints import word_notes
from tfser.pipeline.corpora.table import COLUMN_ALIASES, USUAL_NAMES, Files, utterance_of

_OURS = tuple(name for name in USUAL_NAMES if name not in ("path", "start_s", "end_s", "utterance_id"))


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read the database whose header lies in the root; see the module's text.

    Raises:
        UsageError: if there is none, audformat is not installed, or the emotion has to be named.
        TfserError: if the database cannot be read, or holds no utterance.
    """
    database = open_database(root)
    chosen = _choose(database, options.get("columns") or {})
    if "label" not in chosen:
        raise UsageError(
            f"{root}: no column looks like an emotion; name it with --column label=TABLE/COLUMN. It has: "
            f"{', '.join(column.place for column in database.columns) or 'no columns'}"
        )
    labels = chosen["label"]
    _check_kinds(root, labels)
    # Utterances are the rows of the tables that hold the emotion; files in no such table are listed, since the
    # count of a database is of all of them.
    keys = list(dict.fromkeys(key for column in labels for key in column.values))
    splits = {key: column.split for column in labels for key in column.values if column.split is not None}
    own = _own(database, chosen)
    reading = Reading(notes=[_note(database)], columns=_places(chosen))
    files = Files(root)
    ids: dict[str, Key] = {}
    for key in keys:
        row, more = _row(database, chosen, key)
        row.setdefault("split", splits.get(key) or "")
        texts = {name: text for name, value in row.items() if (text := _text(value))}
        try:
            utterance = utterance_of(texts, more | {name: _first(columns, key)[0] for name, columns in own.items()}, files)
            if ids.setdefault(utterance.utterance_id, key) != key:
                raise ValueError("another row of the tables means the same file and segment")
        except ValueError as error:
            reading.skipped.append((None, key[0], f"table {labels[0].family}: {error}"))
            continue
        raw = _text(_first(labels, key)[0])
        reading.utterances.append(replace(utterance, raw_label=raw if utterance.label is not None else None))
    labelled = {key[0] for key in keys}
    where = " and ".join(dict.fromkeys(column.family for column in labels))
    reading.skipped += files.unread
    reading.skipped += [(None, file, f"not in {where}") for file in database.files if file not in labelled]
    if not reading.utterances:
        raise TfserError(f"{root}: the tables of {database.name} hold no utterance")
    reading.notes += word_notes(database.name, reading.utterances)
    return reading


def _choose(database: Opened, named: Mapping[str, str]) -> dict[str, list[Column]]:
    """Return the columns that make each of ours: those named, else those that bear a usual name and agree.

    Raises:
        UsageError: if a named column is not there, or emotions or speakers do not agree.
    """
    chosen: dict[str, list[Column]] = {}
    # What is named comes first: it may take a column that a usual name would have taken for something else.
    for given, pattern in named.items():
        ours = COLUMN_ALIASES.get(given, given)
        if ours not in _OURS:
            raise UsageError(f"--column {given}={pattern}: {given!r} is none of {', '.join(_OURS)}")
        matching = [column for column in database.columns if _matches(column, pattern)]
        if not matching:
            places = ", ".join(column.place for column in database.columns)
            raise UsageError(f"--column {given}={pattern}: {database.name} has no such column; it has {places}")
        chosen[ours] = _settle(database, given, matching, _agree(matching))
    # Then usual names, the surer ones first. Databases hold the same thing in several tables, of raters and of gold
    # standards: these settle it where the tables disagree.
    for ours in _OURS:
        if ours in chosen:
            continue
        taken = {column.place for columns in chosen.values() for column in columns}
        for usual in USUAL_NAMES[ours] if ours != "label" else ("emotion", *USUAL_NAMES[ours]):
            names = (usual, f"{usual}s")
            matching = [column for column in database.columns if {_folded(column.column), _folded(column.scheme)} & {*names}]
            matching = [column for column in matching if column.place not in taken]
            if matching:
                gold = [column for column in matching if "gold" in column.table.casefold()]
                settled = next((some for some in (matching, gold) if some and _agree(some)), None)
                must = ours in ("label", "speaker")
                chosen[ours] = _settle(database, ours, settled or matching, settled is not None or not must)
                break
    return chosen


def _matches(column: Column, pattern: str) -> bool:
    table, slash, name = pattern.rpartition("/")
    if slash:
        return fnmatch.fnmatchcase(column.table, table) and fnmatch.fnmatchcase(column.column, name)
    return pattern in (column.column, column.table)


def _settle(database: Opened, ours: str, columns: list[Column], settled: bool) -> list[Column]:
    if not settled:
        places = list(dict.fromkeys(f"{column.family}/{column.column}" for column in columns))
        raise UsageError(
            f"{database.name} says the {ours} in {len(places)} places that do not agree: {', '.join(places)}; choose with "
            f"--column {ours}=TABLE/COLUMN"
        )
    return columns


def _agree(columns: Sequence[Column]) -> bool:
    """Tell whether columns never say different things of the same rows."""
    said: dict[Key, Any] = {}
    return all(
        said.setdefault(key, value) == value for column in columns for key, value in column.values.items() if value is not None
    )


def _check_kinds(root: Path, labels: Sequence[Column]) -> None:
    """Check that emotions are of files or of segments, not both.

    Raises:
        UsageError: if they are of both.
    """
    whole = {column.family for column in labels if all(key[1:] == (None, None) for key in column.values)}
    parts = {column.family for column in labels} - whole
    if whole and parts:
        raise UsageError(
            f"{root}: whole files have an emotion in {', '.join(sorted(whole))}, segments in {', '.join(sorted(parts))}; choose "
            "with --column label=TABLE/COLUMN"
        )


def _row(database: Opened, chosen: Mapping[str, list[Column]], key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the tables say of one file or segment, for each of ours; and what they say of its speaker beyond that."""
    row: dict[str, Any] = {"path": key[0], "start_s": key[1], "end_s": key[2]}
    more: dict[str, Any] = {}
    for ours, columns in chosen.items():
        value, meaning = _first(columns, key)
        if ours == "speaker":
            row[ours] = value
            facts = meaning if isinstance(meaning, Mapping) else database.facts.get("speaker", {}).get(value, {})
            for name, fact in facts.items():
                if name.casefold() in USUAL_NAMES["gender"]:
                    row.setdefault("gender", fact)
                else:
                    more[name] = fact
        elif ours == "transcript" and isinstance(meaning, str):
            row[ours] = meaning
            row.setdefault("sentence", value)
        elif value is not None or ours not in row:
            row[ours] = meaning if isinstance(meaning, str) else value
    return row, more


def _first(columns: Sequence[Column], key: Key) -> tuple[Any, Any]:
    """Return the first value that a segment, else its file, has in some columns, and what it stands for."""
    for column in columns:
        for of in (key, (key[0], None, None)):
            if (value := column.values.get(of)) is not None:
                return value, column.meanings.get(value)
    return None, None


def _own(database: Opened, chosen: Mapping[str, list[Column]]) -> dict[str, list[Column]]:
    """Return the columns that are none of ours, by name; with their table's where tables say different things."""
    taken = {column.place for columns in chosen.values() for column in columns}
    rest: dict[str, list[Column]] = {}
    for column in database.columns:
        if column.place not in taken:
            rest.setdefault(column.column, []).append(column)
    result: dict[str, list[Column]] = {}
    for name, columns in rest.items():
        if _agree(columns):
            result[name] = columns
        else:
            for column in columns:
                result.setdefault(f"{name} ({column.family})", []).append(column)
    return result


def _note(database: Opened) -> str:
    return f"database {database.name}" + (f", licence {database.licence}" if database.licence else "")


def _places(chosen: Mapping[str, list[Column]]) -> dict[str, str]:
    """Return which columns were taken for each of ours."""
    return {
        ours: " and ".join(dict.fromkeys(f"{column.family}/{column.column}" for column in columns))
        for ours, columns in chosen.items()
    }


def _folded(name: str | None) -> str:
    return (name or "").casefold()


def _text(value: Any) -> str | None:
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return None if value is None else str(value).strip() or None


READER = CorpusReader(
    name="audformat",
    summary="a database in audformat, as audEERING publishes emodb and others (--root FOLDER [--name NAME] [--column ...])",
    source="audEERING, audformat: format to store media files and annotations",
    layout="  ROOT/db.yaml, ROOT/db.<table>.csv or .parquet, and the audio as the tables name it",
    read=read,
    default_protocol=None,
    page="https://audeering.github.io/audformat",
    licence="the database's",
    options=("columns",),
)
