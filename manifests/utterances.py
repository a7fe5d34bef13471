"""One row an utterance: what a corpus says about it, and what a scan measured on its audio.

`Utterance` is what a corpus reader yields (no audio is opened for it). `to_table` adds the measured columns and gives the
Parquet table that is the truth behind the catalogue's `utterances`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """What a corpus says about one utterance.

    `path` is relative to the corpus root where the file lies below it, with forward slashes, else absolute. `start_s` and
    `end_s` cut a segment out of that file, in seconds; both None is the whole file. `label` is the field's word (see
    `labels.normalise`), `raw_label` what the corpus wrote. `extra` holds columns of the corpus's own.
    """

    utterance_id: str
    path: str
    speaker: str | None = None
    gender: str | None = None
    session: str | None = None
    dialogue: str | None = None
    scenario: str | None = None
    sentence: str | None = None
    transcript: str | None = None
    label: str | None = None
    raw_label: str | None = None
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a scan measured on the audio of one utterance; everything but the file's stamp is None where it is unreadable."""

    size: int | None = None
    mtime_ns: int | None = None
    duration_s: float | None = None
    sample_rate: int | None = None
    content_hash: str | None = None
    peak: float | None = None
    rms_db: float | None = None
    clipped_share: float | None = None
    flags: tuple[str, ...] = ()
    ctime_ns: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """An utterance, or a file, that a stage could not use, and why."""

    corpus: str
    utterance_id: str | None
    path: str | None
    stage: str
    reason: str


DECLARED = tuple(f.name for f in fields(Utterance) if f.name != "extra")
MEASURED = tuple(f.name for f in fields(Measured))
_ORDER = (
    *("corpus", "utterance_id", "path", "speaker", "gender", "session", "dialogue", "scenario", "sentence", "transcript"),
    *("label", "raw_label", "valence", "arousal", "dominance", "start_s", "end_s", "duration_s", "sample_rate", "split"),
    *("content_hash", "peak", "rms_db", "clipped_share", "flags", "size", "mtime_ns", "ctime_ns"),
)
_FLOATS = {"valence", "arousal", "dominance", "start_s", "end_s", "duration_s", "peak", "rms_db", "clipped_share"}
_INTEGERS = {"sample_rate", "size", "mtime_ns", "ctime_ns"}


def contract_columns() -> tuple[str, ...]:
    """Return the names of the columns that every corpus has, in their order."""
    return _ORDER


def column_type(name: str) -> pa.DataType:
    """Return the Arrow type of a contract column."""
    import pyarrow as pa

    if name in _FLOATS:
        return pa.float64()
    if name in _INTEGERS:
        return pa.int64()
    return pa.list_(pa.string()) if name == "flags" else pa.string()


def to_table(corpus: str, utterances: Sequence[Utterance], measured: Sequence[Measured]) -> pa.Table:
    """Return the Parquet table of a scan: the contract's columns in their order, then the corpus's own.

    A column of the corpus's own whose name is taken by the contract (whatever its case) gets the prefix `own_`; its type is
    what its values agree on, else text.
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    for name in _ORDER:
        if name == "corpus":
            values: list[Any] = [corpus] * len(utterances)
        elif name == "flags":
            values = [list(row.flags) for row in measured]
        else:
            values = list(map(attrgetter(name), utterances if name in DECLARED else measured))
        columns[name] = pa.array(values, column_type(name))
    # Columns of the corpus's own come behind the contract's, in the order in which they are met; none may hide one of
    # it, and DuckDB's names know no case.
    own: dict[str, None] = {}
    for row in utterances:
        own.update(dict.fromkeys(row.extra))
    taken = {name.casefold() for name in columns}
    for name in own:
        values = [row.extra.get(name) for row in utterances]
        column = name if name.casefold() not in taken else f"own_{name}"
        while column.casefold() in taken:
            column += "_"
        taken.add(column.casefold())
        columns[column] = _own_array(values)
    return pa.table(columns)


def _own_array(values: list[Any]) -> pa.Array:
    """Return values of a column of the corpus's own, typed where they agree on a type that Parquet and SQL share."""
    import pyarrow as pa

    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        array = None
    if array is not None and pa.types.is_null(array.type):
        return array.cast(pa.string())
    if array is None or not _storable(array.type):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return array


def _storable(kind: pa.DataType) -> bool:
    """Tell whether a type can be written: none of its parts is of unknown type or without fields."""
    import pyarrow as pa

    if pa.types.is_nested(kind):
        parts = [kind.field(i).type for i in range(kind.num_fields)]
        return bool(parts) and all(_storable(part) for part in parts)
    return not (pa.types.is_null(kind) or pa.types.is_duration(kind))


def skipped_schema() -> pa.Schema:
    """Return the columns of a table of skipped utterances."""
    import pyarrow as pa

    return pa.schema([(field.name, pa.string()) for field in fields(Skipped)])


def skipped_table(rows: Sequence[Skipped]) -> pa.Table:
    """Return the Parquet table of skipped utterances."""
    import pyarrow as pa

    def text(value: str | None) -> str | None:  # a file's name may hold bytes that are no text
        return None if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")

    schema = skipped_schema()
    return pa.table([pa.array([text(getattr(row, name)) for row in rows], pa.string()) for name in schema.names], schema=schema)
