"""Data in other libraries' clothes: frames as a Hugging Face data set, a split in a pandas DataFrame as something to
audit.

What comes in: a cache, or a table of rows. What goes out: `datasets.Dataset`, or `FrameAudit` with what the audits found.
No audio is read, and nothing is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tfser.heads.prediction.frames import feature_rows
from tfser.manifests.audits.run import Finding, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.build import create, insert_corpora
from tfser.manifests.catalogue.stored import StoredCorpus
from tfser.manifests.catalogue.views import AUDITED_VIEWS
from tfser.manifests.connections import open_memory
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.utterances import Measured, Utterance, skipped_table, to_table
from tfser.pipeline.shards.packed import load_packed

FRAME = "frame"
"""What the corpus of a DataFrame is called in findings."""

_SIDES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def as_hugging_face(cache: Cache, feature_set: str, corpus: str | None) -> Any:
    """Return a `datasets.Dataset` with the columns utterance_id, speaker, label and features (frames, dim).

    Raises:
        UsageError: `datasets` is not installed.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UsageError("Hugging Face's data sets are not installed: pip install 'tfser[datasets]'")
    import datasets
    import pyarrow as pa

    stored = feature_rows(cache, feature_set, corpus)
    packed = load_packed([row["where"] for row in stored], verify=cache.verify)
    flat = pa.array(packed.frames.astype(np.float32, copy=False).ravel())
    # A list of lists: frames of one width, in as many rows as an utterance has.
    inner = pa.LargeListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, packed.frames.shape[1])), flat)
    frames = pa.LargeListArray.from_arrays(pa.array(packed.offsets), inner)
    table = pa.table(
        {
            "utterance_id": pa.array([row["utterance_id"] for row in stored], pa.string()),
            "speaker": pa.array([row["speaker"] for row in stored], pa.string()),
            "label": pa.array([row["label"] for row in stored], pa.string()),
            "features": frames,
        }
    )
    return datasets.Dataset(datasets.table.InMemoryTable(table))


@dataclass(frozen=True, kw_only=True)
class FrameAudit:
    """What the audits say of a split in a DataFrame; true if nothing forbids to train on it.

    Attributes:
        findings: of all audits, errors first.
    """

    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid it."""
        return tuple(of for of in self.findings if of.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that a reader should know of."""
        return tuple(of for of in self.findings if of.level == "warning")

    def __bool__(self) -> bool:
        return not self.errors

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each finding that is not `ok`, as `tfser audit --format json` prints it."""
        return [of.to_dict() for of in self.findings if of.level != "ok"]

    def __str__(self) -> str:
        found = [f"{of.level}: {of.sentence()}" for of in (*self.errors, *self.warnings)]
        return "\n".join(found) or "no audit found anything"


def audit(frame: Any, *, protocol: str = "official-split", claims: Sequence[str] = ("speaker",)) -> FrameAudit:
    """Audit a split that was made in pandas (or polars, Arrow, a list of dicts): is anybody or anything on both sides?

    Args:
        frame: a row an utterance. Columns: `speaker`, `label`, `split` (train, val, test) and, where there are any,
            `utterance_id`, `path`, `session`, `dialogue`, `gender`, `sentence`, `transcript`, `content_hash` (the same
            hash: the same sound).
        protocol: what to audit instead of the column `split`, such as `loso-speaker`.
        claims: columns that the split is held to keep apart: it is an error if a value stands on both sides.

    Raises:
        UsageError: a column that is needed is not there, or a side is none.
        TfserError: the rows cannot fill the protocol.
    """
    rows = _rows_of(frame)
    utterances = _utterances(rows, needs_split=protocol == "official-split")
    hashes = [_first_text(row, ("content_hash",), f"row {number}") for number, row in enumerate(rows)]
    measured = [
        Measured(
            size=1,
            mtime_ns=1,
            duration_s=_seconds(row.get("duration_s")),
            content_hash=hashlib.sha256(text.encode()).hexdigest()[:32],
        )
        for row, text in zip(rows, hashes, strict=True)
    ]
    about: dict[str, Any] = {"adapter": "table", "root": "", "scanned_at": None, "default_protocol": protocol, "options": {}}
    corpus = StoredCorpus(name=FRAME, about=about, utterances=to_table(FRAME, utterances, measured), skipped=skipped_table([]))
    wanted = parse(protocol, {})
    if protocol == "official-split":  # a corpus's own split may share speakers; one's own is held to what it claims
        wanted = replace(wanted, keeps_apart=tuple(claims))
    with contextlib.closing(open_memory()) as connection:
        create(connection, AUDITED_VIEWS)
        insert_corpora(connection, [corpus])
        install(connection, FRAME, wanted)
        return FrameAudit(findings=tuple(run_audits(connection, protocol=wanted.name, corpus=FRAME)))


def _rows_of(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a table, whatever library it is of; a missing value is None."""
    if hasattr(frame, "to_dict") and hasattr(frame, "columns"):  # pandas
        records = frame.to_dict("records")
    elif hasattr(frame, "to_dicts"):  # polars
        records = frame.to_dicts()
    elif hasattr(frame, "to_pylist"):  # Arrow
        records = frame.to_pylist()
    elif isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame):
        records = [dict(row) for row in frame]
    else:
        raise UsageError(f"a table is wanted (pandas, polars, Arrow, or a list of dicts), not {type(frame).__name__}")
    if not records:
        raise UsageError("the table has no rows")
    return [{str(key): None if _is_missing(value) else value for key, value in row.items()} for row in records]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")


def _first_text(row: Mapping[str, Any], columns: Sequence[str], otherwise: str) -> str:
    """Return the first of some columns that says something; the number 0 does."""
    return next((str(row[name]) for name in columns if row.get(name) not in (None, "")), otherwise)


def _seconds(value: Any) -> float | None:
    """Return a duration.

    Raises:
        UsageError: it is no number.
    """
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"duration_s: seconds are wanted, not {value!r}") from error


def _utterances(rows: Sequence[Mapping[str, Any]], *, needs_split: bool) -> list[Utterance]:
    for column in ("label", *(("split",) if needs_split else ())):
        if column not in rows[0]:
            raise unknown("column", column, list(rows[0]))
    texts = [of.name for of in fields(Utterance) if of.name not in ("utterance_id", "path", "extra", "split")]
    texts = [name for name in texts if name not in ("valence", "arousal", "dominance", "start_s", "end_s")]
    utterances = []
    for number, row in enumerate(rows):
        side = row.get("split")
        if side is not None and str(side).lower() not in _SIDES:
            raise unknown(f"side of row {number} (split)", str(side), list(_SIDES))
        own: dict[str, Any] = {name: str(row[name]) for name in texts if row.get(name) is not None}
        name = _first_text(row, ("utterance_id", "path"), str(number))
        split = None if side is None else _SIDES[str(side).lower()]
        utterances.append(Utterance(utterance_id=name, path=_first_text(row, ("path",), name), split=split, **own))
    if len({of.utterance_id for of in utterances}) < len(utterances):
        raise UsageError("two rows have one utterance_id (or path): name each utterance once")
    return utterances
