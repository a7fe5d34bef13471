"""Near-duplicates in the catalogue: pairs of content hashes that the pipeline found, joined with the utterances that have them.

What comes in: `fingerprints.parquet` (content_hash, frames, ...) and `near_duplicates.parquet` (content_hash, other_hash,
similarity, evidence, offset_s, overlap_s) beside each corpus's rows. Both are keyed by content, so what was found holds while
the audio is the same, and goes when it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.filling import registered
from tfser.manifests.errors import DamagedError, FileError, MissingFileError, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa

FINGERPRINTS = "fingerprints.parquet"
PAIRS = "near_duplicates.parquet"

FINGERPRINT_COLUMNS = ("content_hash", "frames")
PAIR_COLUMNS = ("content_hash", "other_hash", "similarity", "evidence", "offset_s", "overlap_s")


def read_near_duplicates(
    cache: Cache, connection: duckdb.DuckDBPyConnection, corpora: Sequence[str], leave_out: Callable[[str, Path, FileError], None]
) -> None:
    """Fill the tables `fingerprints` and `near_duplicates` of an open catalogue that holds the corpora's rows.

    Args:
        cache: the cache.
        connection: the catalogue.
        corpora: whose.
        leave_out: told the corpus, the file and the error of what cannot be read.
    """
    # Of a new catalogue, too: DuckDB shows no Arrow table beside a result that nobody has read to its end.
    for table in ("fingerprints", "near_duplicates"):
        connection.execute(f"DELETE FROM {table}")
    pairs: list[pa.Table] = []
    for corpus in corpora:
        # Each pair is looked at from both sides, so what one corpus cannot give may still be known of the other.
        for name, columns in ((FINGERPRINTS, FINGERPRINT_COLUMNS), (PAIRS, PAIR_COLUMNS)):
            path = cache.corpus(corpus) / name
            try:
                table = cache.read_table(path, columns).select(list(columns)).replace_schema_metadata(None)
            except MissingFileError:
                continue
            except (DamagedError, UnreadableError) as error:
                leave_out(corpus, path, error)
            except KeyError as error:
                leave_out(corpus, path, UnreadableError(f"cannot be understood (it has no column {error})", at=path))
            else:
                if name == PAIRS:
                    pairs.append(table)
                else:
                    _add_fingerprints(connection, corpus, table)
    if pairs:
        _add_pairs(connection, pairs)


def _add_fingerprints(connection: duckdb.DuckDBPyConnection, corpus: str, table: pa.Table) -> None:
    with registered(connection, table):
        connection.execute(
            "INSERT INTO fingerprints SELECT u.corpus, u.utterance_id, f.frames FROM utterances u "
            "JOIN incoming f ON f.content_hash = u.content_hash WHERE u.corpus = ?",
            [corpus],
        )


def _add_pairs(connection: duckdb.DuckDBPyConnection, pairs: Sequence[pa.Table]) -> None:
    """Add pairs of contents as pairs of utterances, both ways, whichever corpus's search found them: each pair once."""
    import pyarrow as pa

    with registered(connection, pa.concat_tables(pairs)):
        connection.execute(
            """
            INSERT INTO near_duplicates
            WITH pairs AS (
              SELECT content_hash AS a, other_hash AS b, similarity, evidence, offset_s, overlap_s FROM incoming
            ), both_ways AS (
              SELECT * FROM pairs UNION ALL SELECT b, a, similarity, evidence, -offset_s, overlap_s FROM pairs
            )
            SELECT u.corpus, u.utterance_id, o.corpus, o.utterance_id, any_value(p.similarity), any_value(p.evidence),
              any_value(p.offset_s), any_value(p.overlap_s)
            FROM both_ways p JOIN utterances u ON u.content_hash = p.a JOIN utterances o ON o.content_hash = p.b
            GROUP BY u.corpus, u.utterance_id, o.corpus, o.utterance_id
            ORDER BY u.corpus, u.utterance_id, o.corpus, o.utterance_id
            """
        )
