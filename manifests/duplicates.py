"""Near-duplicates in the catalogue: pairs of content hashes that the pipeline found, joined with the utterances that have them.

What comes in: `fingerprints.parquet` (content_hash, frames, ...) and `near_duplicates.parquet` (content_hash, other_hash,
similarity, evidence, offset_s, overlap_s) beside each corpus's rows. Both are keyed by content, so what was found holds while
the audio is the same, and goes when it changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from tfser.manifests.cache import Cache
from tfser.manifests.connections import exactly
from tfser.manifests.errors import TfserError, first_line

FINGERPRINTS = "fingerprints.parquet"
PAIRS = "near_duplicates.parquet"


def read_near_duplicates(cache: Cache, connection: duckdb.DuckDBPyConnection, corpora: Sequence[str]) -> None:
    """Fill the tables `fingerprints` and `near_duplicates` of an open catalogue that holds the corpora's rows.

    Raises:
        TfserError: if a file cannot be read.
    """
    for table in ("fingerprints", "near_duplicates"):
        connection.execute(f"DELETE FROM {table}")
    found = [path for corpus in corpora if (path := cache.corpus(corpus) / PAIRS).exists()]
    try:
        for corpus in corpora:
            path = cache.corpus(corpus) / FINGERPRINTS
            if path.exists():
                connection.execute(
                    "INSERT INTO fingerprints SELECT u.corpus, u.utterance_id, f.frames FROM utterances u "
                    "JOIN read_parquet(?, hive_partitioning = false) f ON f.content_hash = u.content_hash WHERE u.corpus = ?",
                    [exactly(path), corpus],
                )
        if found:
            connection.execute(
                """
                INSERT INTO near_duplicates
                WITH pairs AS (
                  SELECT content_hash AS a, other_hash AS b, similarity, evidence, offset_s, overlap_s
                  FROM read_parquet(?, hive_partitioning = false)
                ), both_ways AS (
                  SELECT * FROM pairs UNION ALL SELECT b, a, similarity, evidence, -offset_s, overlap_s FROM pairs
                )
                SELECT u.corpus, u.utterance_id, o.corpus, o.utterance_id, any_value(p.similarity), any_value(p.evidence),
                  any_value(p.offset_s), any_value(p.overlap_s)
                FROM both_ways p JOIN utterances u ON u.content_hash = p.a JOIN utterances o ON o.content_hash = p.b
                GROUP BY u.corpus, u.utterance_id, o.corpus, o.utterance_id
                ORDER BY u.corpus, u.utterance_id, o.corpus, o.utterance_id
                """,
                [[exactly(path) for path in found]],
            )
    except duckdb.Error as error:
        reason = first_line(error)
        raise TfserError(
            f"the cache's near-duplicates cannot be read ({reason}); remove {FINGERPRINTS} and {PAIRS} of that corpus and run "
            "`tfser audit --near-duplicates` again"
        ) from error
