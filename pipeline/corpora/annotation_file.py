"""Single ratings in a table of the user's own: a csv, tsv or Parquet file with a row a rating (`tfser scan --annotations FILE`).

Comes in: the file, and the utterances of the corpus that it is about. Goes out: the ratings of these utterances, and every row
that is none, with the reason. A row names an utterance by its id, its path, or the file's name with or without its ending, as
long as no other utterance is meant by it: a path means nobody in a folder of another name (dev/x.wav is not train/x.wav).
Columns are found by their usual names whatever their case, or named with `--annotation-column`; a rater who gives several labels
has a row for each, or parts them by semicolons. Nothing is guessed about who rated: without a column for the rater, ratings are
votes of nobody in particular.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.dimensions import DIMENSIONS
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.manifests.wording import count
from tfser.pipeline.corpora.base import Passed
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.corpora.table import clean, number

USUAL: Mapping[str, tuple[str, ...]] = {
    "utterance_id": (
        *("utterance_id", "utt_id", "segment_id", "id", "key", "utt", "utterance", "clip", "clip_name", "clipname"),
        *("file", "filename", "file_name", "path", "wav", "name", "stem"),
    ),
    "rater": (
        *("rater", "rater_id", "annotator", "annotator_id", "worker", "worker_id", "workerid", "coder", "evaluator"),
        *("listener", "listener_id", "participant", "localid"),
    ),
    "label": ("label", "emotion", "emo", "emoclass", "category", "class", "vote"),
    "valence": ("valence", "val", "emoval"),
    "arousal": ("arousal", "activation", "act", "emoact"),
    "dominance": ("dominance", "dom", "emodom"),
}
"""What a column may be called, the likeliest first."""


def read_annotations(
    file: Path, columns: Mapping[str, str], utterances: Sequence[Utterance]
) -> tuple[list[Annotation], list[Passed]]:
    """Read the ratings of a corpus's utterances; return them, and the rows that are none as (utterance, file, reason).

    Rows about an utterance that the corpus has not are counted by utterance, since a file of a whole corpus may be read beside a
    part of it.

    Args:
        file: csv, tsv or any delimited text, or Parquet.
        columns: the file's column for some of ours.
        utterances: of the corpus.

    Raises:
        UsageError: if there is no such file, or no column that names utterances, or none that rates them.
        TfserError: if it cannot be read as a table, or rates no utterance of the corpus.
    """
    if not file.is_file():
        raise UsageError(f"--annotations {file}: no such file")
    # The delimiter is the one under which a header bears names that are looked for.
    usual = {name for names in USUAL.values() for name in names}
    table = load(file, None, usual | {name.strip().casefold() for name in columns.values()})
    taken = _columns(file, table.column_names, columns)
    values = {ours: table[theirs].to_pylist() for ours, theirs in taken.items()}
    names = _names(utterances)
    folders = {utterance.utterance_id: _folders(utterance.path) for utterance in utterances}
    annotations: list[Annotation] = []
    passed: list[Passed] = []
    unknown: Counter[str] = Counter()
    for i in range(table.num_rows):
        row = {ours: text for ours, cells in values.items() if (text := clean(cells[i])) is not None}
        written = row.pop("utterance_id", "")
        meant = written if written in folders else names.get(written.casefold()) or _by_last_part(written, names, folders)
        # Each row is used, or listed with its reason; those of unknown utterances are counted by utterance, since a
        # rater's whole table may be of another corpus.
        if not written:
            passed.append((None, str(file), f"row {i + 1} names no utterance"))
        elif meant is None:
            unknown[written] += 1
        else:
            try:
                annotations += _of_row(meant, row)
            except ValueError as error:
                passed.append((meant, str(file), f"row {i + 1}: {error}"))
    passed += [(name, str(file), f"{count(n, 'rating')} of an utterance that the corpus has not") for name, n in unknown.items()]
    if not annotations:
        first = f" ({passed[0][0] or 'row 1'}: {passed[0][2]})" if passed else ""
        raise TfserError(f"{file}: no row rates an utterance of the corpus{first}")
    return annotations, passed


def _by_last_part(written: str, names: Mapping[str, str], folders: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return the utterance that a path means by its file's name; None where the folders around the two files differ.

    Of two paths one may say more folders than the other: one of them may begin higher.
    """
    path = written.replace("\\", "/")
    meant = names.get(PurePosixPath(path).name.casefold())
    if meant is None:
        return None
    ours, theirs = folders[meant], _folders(path)
    shared = min(len(ours), len(theirs))
    return meant if ours[len(ours) - shared :] == theirs[len(theirs) - shared :] else None


def _folders(path: str) -> tuple[str, ...]:
    """Return the folders that a path goes through, in small letters, without `.`, `..` and the system's root."""
    return tuple(part.casefold() for part in PurePosixPath(path).parts[:-1] if part not in ("..", "/"))


def _of_row(utterance_id: str, row: Mapping[str, str]) -> Iterator[Annotation]:
    """Yield the ratings of a row: one, or one a label where there are several; the values are those of the first.

    Raises:
        ValueError: if a value is no number, or nothing is rated.
    """
    numbers: dict[str, Any] = {name: value for name in DIMENSIONS if (value := number(row.get(name), name)) is not None}
    rater = row.get("rater")
    labels = [label for part in row.get("label", "").split(";") if (label := normalise(part)) is not None]
    if not labels and not numbers:
        raise ValueError("it has neither a label nor a value")
    yield Annotation(utterance_id=utterance_id, rater=rater, label=labels[0] if labels else None, **numbers)
    yield from (Annotation(utterance_id=utterance_id, rater=rater, label=label) for label in dict.fromkeys(labels[1:]))


def _columns(file: Path, present: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the file's column for each of ours that it has.

    Raises:
        UsageError: if a column that is named is not there, or too few are.
    """
    by_name = {name.casefold(): name for name in present}
    taken: dict[str, str] = {}
    for ours, theirs in chosen.items():
        if ours not in USUAL:
            raise UsageError(f"--annotation-column {ours}={theirs}: {ours} is none of {', '.join(USUAL)}")
        if theirs.strip().casefold() not in by_name:
            raise UsageError(f"--annotation-column {ours}={theirs}: {file} has no column {theirs}; it has {', '.join(present)}")
        taken[ours] = by_name[theirs.strip().casefold()]
    for ours, usual in USUAL.items():
        free = [by_name[name] for name in usual if name in by_name and by_name[name] not in taken.values()]
        if ours not in taken and free:
            taken[ours] = free[0]
    has = f"it has {', '.join(present)}"
    if "utterance_id" not in taken:
        raise UsageError(f"{file}: no column names utterances; name it with --annotation-column utterance_id=NAME ({has})")
    if not taken.keys() & {"label", *DIMENSIONS}:
        raise UsageError(f"{file}: no column rates anything; name it with --annotation-column label=NAME ({has})")
    return taken


def _names(utterances: Sequence[Utterance]) -> dict[str, str]:
    """Return the utterance that each name means, in small letters; a name of several is none of them, but for the id of one."""
    others: dict[str, set[str]] = {}
    for utterance in utterances:
        path = PurePosixPath(utterance.path)
        for name in (utterance.path, path.name, path.stem, utterance.utterance_id):
            others.setdefault(name.casefold(), set()).add(utterance.utterance_id)
    names = {name: next(iter(ids)) for name, ids in others.items() if len(ids) == 1}
    alike = Counter(utterance.utterance_id.casefold() for utterance in utterances)  # ids may differ in case alone
    return names | {u.utterance_id.casefold(): u.utterance_id for u in utterances if alike[u.utterance_id.casefold()] == 1}
