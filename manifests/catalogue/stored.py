"""What the cache's files of corpora and feature sets say, read in one way by all who read them.

What comes in: a cache and a name. What goes out: checked objects and Arrow tables, or an error that tells damage
(`DamagedError`) from what could not be read or understood just now (`UnreadableError`). Nothing here writes or removes a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests.annotations import annotation_schema
from tfser.manifests.cache import Cache
from tfser.manifests.errors import DamagedError, MissingFileError, UnknownContentError
from tfser.manifests.utterances import Skipped, column_type, contract_columns, skipped_schema, skipped_table

if TYPE_CHECKING:
    import pyarrow as pa

CORPUS = "corpus.json"
UTTERANCES = "utterances.parquet"
SKIPPED = "skipped.parquet"
ANNOTATIONS = "annotations.parquet"
FEATURE_SET = "feature_set.json"


@dataclass(frozen=True, kw_only=True)
class StoredCorpus:
    """A corpus as its last scan left it: what `corpus.json` says, its rows, and what was passed over."""

    name: str
    about: dict[str, Any]
    utterances: pa.Table
    skipped: pa.Table


def read_corpus(cache: Cache, corpus: str) -> StoredCorpus:
    """Return a corpus.

    Raises:
        DamagedError: if a file of it is not what was written there.
        UnreadableError: if one could not be read or understood, or is missing.
    """
    skipped = read_skipped(cache, cache.corpus(corpus) / SKIPPED)
    return StoredCorpus(name=corpus, about=read_about(cache, corpus), utterances=read_utterances(cache, corpus), skipped=skipped)


def read_utterances(cache: Cache, corpus: str) -> pa.Table:
    """Return a corpus's rows, the contract's columns in their types; errors as above."""
    path = cache.corpus(corpus) / UTTERANCES
    return _as_contract(path, cache.read_table(path))


def read_annotations(cache: Cache, corpus: str) -> pa.Table:
    """Return the single ratings of a corpus; an empty table where its last scan found none. Errors as above."""
    path = cache.corpus(corpus) / ANNOTATIONS
    try:
        return _cast(path, cache.read_table(path), annotation_schema())
    except MissingFileError:
        if read_about(cache, corpus).get("annotations"):
            raise
        return annotation_schema().empty_table()


def read_about(cache: Cache, corpus: str) -> dict[str, Any]:
    """Return what `corpus.json` says: adapter, root, options, default_protocol and when it was scanned; errors as above."""
    path = cache.corpus(corpus) / CORPUS
    about = cache.read_object(path, {"adapter": str, "root": str, "options": dict, "scanned_at": str})
    return {"default_protocol": None, "expected": None} | about


def read_skipped(cache: Cache, path: Path) -> pa.Table:
    """Return a list of what was passed over; an empty one where there is no file."""
    try:
        return _cast(path, cache.read_table(path), skipped_schema())
    except MissingFileError:
        return skipped_table([])


def skipped_rows(table: pa.Table) -> list[Skipped]:
    """Return the rows of such a list."""
    return [Skipped(**row) for row in table.to_pylist()]


def read_feature_set(cache: Cache, folder: Path) -> dict[str, Any]:
    """Return what a feature set says of itself.

    Raises:
        DamagedError: if the file is not what was written there, or describes what lies in another folder.
        UnreadableError: if it could not be read or understood, or is missing.
    """
    path = folder / FEATURE_SET
    texts = dict.fromkeys(("name", "kind", "fingerprint", "dtype", "created_at"), str)
    about = cache.read_object(path, {**texts, "dim": int, "hop_s": (int, float), "config": dict})
    if not folder.name.endswith(f"-{about['fingerprint']}"):
        raise DamagedError(f"describes the feature set {about['fingerprint']}, which is not this folder's", at=path)
    return about


def asked_protocols(cache: Cache, path: Path) -> list[str]:
    """Return the protocols that a file of those asked for lists; none where there is no file. Errors as above."""
    try:
        value = cache.read_json(path)
    except MissingFileError:
        return []
    listed = value.get("protocols") if isinstance(value, dict) else value  # a list: the version before
    if not isinstance(listed, list) or not all(isinstance(spec, str) for spec in listed):
        raise UnknownContentError("cannot be understood (it lists no protocols)", at=path)
    return listed


def _as_contract(path: Path, table: pa.Table) -> pa.Table:
    """Return rows of utterances with the contract's columns in their types; those of the corpus's own follow."""
    import pyarrow as pa

    if missing := {"utterance_id", "path", "content_hash"} - set(table.column_names):
        raise UnknownContentError(f"cannot be understood (it has no column {min(missing)})", at=path)
    kinds = {name: column_type(name) for name in contract_columns()}
    fields = [pa.field(f.name, kinds.get(f.name, f.type)) for f in table.schema]
    return _cast(path, table.replace_schema_metadata(None), pa.schema(fields))


def _cast(path: Path, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table in the types of a schema: those of its columns are what the catalogue's are filled with."""
    import pyarrow as pa

    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise UnknownContentError(f"cannot be understood ({' '.join(str(error).split())})", at=path) from error
