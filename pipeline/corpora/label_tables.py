"""Corpora that are declared by their tables of labels: MSP-Podcast, BIIC-Podcast, MSP-IMPROV, AIBO, EMNS, nEMO, Dusha ...

What comes in: `label_tables.toml`, a block a corpus. What goes out: a `LabelTable` each, by name, with what has to be computed of
its files and names: rows of files that are no plain tables, single ratings, what a file's name says.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import normalise
from tfser.manifests.texts import packaged
from tfser.pipeline.corpora.base import Expected, Passed, read_lines, read_text
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.corpora.labelled import Cells, LabelTable, rows_of

_LETTERS = {
    **{"n": "neutral", "h": "happiness", "s": "sadness", "a": "anger", "c": "contempt", "u": "surprise", "d": "disgust"},
    **{"f": "fear", "o": "other", "x": "undecided"},
}
"""The MSP lab's letters; X is no agreement."""

_RELEASES = {264_705: "release 2.0", 116_221: "the training and development part that the challenge of 2025 was given"}
"""Rows of labels_consensus.csv by release, of those whose number could be verified."""

_OF_NAMES = {"a": "arousal", "v": "valence", "d": "dominance"}


def _release(rows: int) -> str:
    known = _RELEASES.get(rows)
    if known is not None:
        return f"{rows:,} rows of labels: as many as {known} has"
    return f"{rows:,} rows of labels, a number of no release that is known here; say which one it is beside your scores"


def _rating(name: str, parts: Sequence[str]) -> Iterator[Annotation]:
    """Yield what one worker said: `worker; primary; secondary; A:4; V:3; D:5;`, the secondary emotions and values optional.

    Only the primary emotion is a vote; secondary ones are shades of it, which raters tick at will.
    """
    values: dict[str, Any] = {}
    for part in parts[1:]:
        letter, _, number = part.partition(":")
        if letter.strip().lower() in _OF_NAMES and re.fullmatch(r"\s*\d+(\.\d+)?\s*", number):
            values[_OF_NAMES[letter.strip().lower()]] = float(number)
    word = parts[1].partition("-")[0] if ":" not in parts[1] else ""  # Other-Curious and the like are other
    label = normalise(word) if word else None
    if label is not None or values:
        yield Annotation(utterance_id=name, rater=parts[0], label=label, **values)


def _detailed(files: Sequence[Path], passed: list[Passed]) -> Iterator[Annotation]:
    """Yield the single ratings of labels_detailed.csv: a file's name, and what a worker said of it."""
    for path in (file for file in files if file.name.casefold() == "labels_detailed.csv"):
        table = load(path, ",", ())
        cells = [table.column(i).to_pylist() for i in range(min(2, table.num_columns))]
        for number, row in enumerate(zip(*cells, strict=True), 1):
            parts = [part.strip() for part in str(row[-1] or "").split(";") if part.strip()]
            found = list(_rating(Path(str(row[0])).stem, parts)) if len(parts) > 1 and row[0] else []
            if not found:
                passed.append((str(row[0]), path.name, f"row {number}: no worker with an emotion or a value"))
            yield from found


_IMPROV = re.compile(
    r"(?:MSP|UTD)-IMPROV-(?P<sentence>S\d\d[A-Z])-(?P<speaker>(?P<gender>[FM])(?P<number>\d\d))-(?P<kind>[PRST])-\w+",
    re.IGNORECASE,
)
_SCENARIOS = {"R": "scripted", "S": "improvised", "T": "improvised", "P": "natural"}
"""R: the target sentence read; S and T: sentences of the improvised scenes; P: between the recordings."""


def _improv_name(stem: str) -> Mapping[str, str]:
    match = _IMPROV.fullmatch(stem)
    if match is None:
        return {}
    sentence = {"sentence": match["sentence"][:3].upper()} if match["kind"].upper() in "RT" else {}
    return sentence | {
        "speaker": match["speaker"].upper(),
        "gender": match["gender"].upper(),
        "session": f"session{int(match['number'])}",
        "scenario": _SCENARIOS[match["kind"].upper()],
        "recording": match["kind"].upper(),
    }


def _improv_lines(table: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of the evaluation's file with the utterance that they are about, the consensus first."""
    name = ""
    for line in read_lines(table):
        parts = [part.strip() for part in line.split(";") if part.strip()]
        if parts and _IMPROV.fullmatch(Path(parts[0]).stem):
            name = "MSP" + Path(parts[0]).stem[3:]
            yield name, parts
        elif name and len(parts) > 1:
            yield name, parts


def _improv_rows(table: Path) -> Iterator[Cells]:
    for name, parts in _improv_lines(table):
        if Path(parts[0]).stem[3:] == name[3:] and len(parts) > 1:
            values = {key.strip().lower(): number for key, _, number in (part.partition(":") for part in parts[2:])}
            yield {"file": name, "label": parts[1], **{key: values[key] for key in ("a", "v", "d") if key in values}}


def _improv_ratings(files: Sequence[Path], passed: list[Passed]) -> Iterator[Annotation]:
    for path in (file for file in files if file.name.casefold() in ("evalution.txt", "evaluation.txt")):
        for name, parts in _improv_lines(path):
            if Path(parts[0]).stem[3:] != name[3:]:
                found = list(_rating(name, parts))
                if not found:
                    passed.append((name, path.name, f"{parts[0]}: neither an emotion nor a value"))
                yield from found


def _aibo_name(stem: str) -> Mapping[str, str]:
    school, number, *_ = (*stem.split("_"), "", "")
    split = {"ohm": "train", "mont": "test"}.get(school.lower())
    return {"speaker": f"{school}_{number}", "school": school, **({"split": split} if split else {})}


def _aibo_rows(table: Path) -> Iterator[Cells]:
    for line in read_lines(table):
        parts = line.split()
        if len(parts) > 1:
            yield {"file": parts[0], "label": parts[1], **({"confidence": parts[2]} if len(parts) > 2 else {})}


def _dusha_ratings(files: Sequence[Path], passed: list[Passed]) -> Iterator[Annotation]:
    """Yield the annotators' answers: the raw tables have one in each row."""
    for path in (file for file in files if re.fullmatch(r"raw_(crowd|podcast)_(train|test)\.tsv", file.name, re.IGNORECASE)):
        for number, cells in enumerate(rows_of(path, "\t"), 1):
            name, label = cells.get("audio_path"), normalise(cells.get("annotator_emo"))
            if name is None or label is None:
                passed.append((None, path.name, f"row {number}: no file or no answer"))
            else:
                yield Annotation(utterance_id=Path(name).stem, rater=cells.get("annotator_id"), label=label)


def _thai_rows(table: Path) -> Iterator[Cells]:
    """Yield what the JSON of labels says: a file's name, and an object, or a list of one, with `majority_emo` or `assigned_emo`.

    Raises:
        TfserError: if it is no such JSON.
    """
    try:
        told: Any = json.loads(read_text(table))
    except ValueError as error:
        raise TfserError(f"{table}: cannot be read as JSON ({error})") from error
    if not isinstance(told, dict):
        raise TfserError(f"{table}: holds no JSON object of files and their labels")
    for name, value in told.items():
        about = value[0] if isinstance(value, list) and value else value
        about = about if isinstance(about, dict) else {}
        yield {"file": name, **{key.casefold(): str(about[key]) for key in about if not isinstance(about[key], (list, dict))}}


def _thai_name(stem: str) -> Mapping[str, str]:
    match = re.search(r"actor(\d+)_(impro|script)", stem, re.IGNORECASE)
    if match is None:
        return {}
    return {"speaker": f"actor{match[1]}", "scenario": {"impro": "improvised", "script": "scripted"}[match[2].lower()]}


_COMPUTED: Mapping[str, Mapping[str, Any]] = {
    "msp_podcast": {"words": _LETTERS, "ratings": _detailed, "about": _release},
    "msp_improv": {"words": _LETTERS, "rows": _improv_rows, "from_name": _improv_name, "ratings": _improv_ratings},
    "biic_podcast": {"words": _LETTERS, "ratings": _detailed},
    "aibo": {"rows": _aibo_rows, "from_name": _aibo_name},
    "dusha": {"ratings": _dusha_ratings},
    "thai_ser": {"rows": _thai_rows, "from_name": _thai_name},
}
"""What is not in the file, by corpus."""


def _declared(name: str, block: Mapping[str, Any]) -> LabelTable:
    """Return the corpus that a block of the file declares."""
    given = {"default_protocol": None, **block, **_COMPUTED.get(name, {})}
    expected = given.pop("expected", None)
    return LabelTable(
        name=name,
        tables=tuple(given.pop("tables")),
        columns={ours: tuple(theirs) for ours, theirs in given.pop("columns").items()},
        expected=None if expected is None else Expected(**expected),
        **given,
    )


LABEL_TABLES = {
    name: _declared(name, block) for name, block in tomllib.loads(packaged("pipeline.corpora", "label_tables.toml")).items()
}
"""The corpora that are declared, by name, in the order of the file."""
