"""Whether a fold's score is of speakers that the head has not heard: the one place that decides it.

Comes in: an open catalogue that holds the protocol's rows. Goes out, for each fold,

* `kept`: nobody who is tested trains or validates;
* `broken`: somebody does, so that the score is not one of new speakers;
* `unknown`: it cannot be told, because rows on one of the two sides name no speaker, or because two spellings that may be one
  name (01 and 1) stand on both sides.

All rows of the folds are judged, whether or not their audio can be read, and whatever the protocol claims to keep apart.
Speakers are (corpus, name): the same name in two corpora is two people, and nobody of one corpus is heard in another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import duckdb

from tfser.manifests.protocols.speakers import named, voice

Independence = Literal["kept", "broken", "unknown"]

NOT_INDEPENDENT: dict[Independence, str] = {
    "broken": "a score on it is not speaker-independent: test speakers are heard in training or validation",
    "unknown": "a score on it cannot be called speaker-independent: who speaks cannot be told for every utterance",
}
"""What a score is not, in words, where speakers are not known to be kept apart."""

_SIDE = "CASE WHEN h.part IS NOT NULL AND coalesce(c.fixed, r.role) = 'train' THEN h.role ELSE coalesce(c.fixed, r.role) END"
_ROLES = """JOIN fold_roles r ON r.protocol = $protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = $protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold"""

_QUERY = f"""
WITH chosen AS (
  SELECT corpus FROM protocols WHERE protocol = $protocol AND corpora = $corpora
), cells AS MATERIALIZED (  -- who stands together in every fold, before the folds are rolled out
  SELECT *, {named("speaker")} AS name, {voice("speaker")} AS voice FROM (
    SELECT DISTINCT a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, u.speaker
    FROM assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
    WHERE a.protocol = $protocol AND a.fold IS NOT NULL AND a.corpus IN (SELECT corpus FROM chosen)
  )
), several AS (  -- a voice in one cell is on one side only, whatever the fold
  SELECT corpus, voice FROM (SELECT DISTINCT corpus, voice, tested_in, fixed, part FROM cells WHERE voice IS NOT NULL)
  GROUP BY ALL HAVING count(*) > 1
), heard AS (
  SELECT c.corpus, c.voice, c.name, r.fold, bool_or({_SIDE} = 'test') AS tests, bool_or({_SIDE} IN ('train', 'val')) AS others
  FROM cells c SEMI JOIN several s ON s.corpus = c.corpus AND s.voice = c.voice {_ROLES}
  GROUP BY c.corpus, c.voice, c.name, r.fold
), shared AS (  -- one spelling on both sides, or two that may be one
  SELECT fold, bool_or(tests AND others) AS broken FROM heard
  GROUP BY corpus, voice, fold HAVING bool_or(tests) AND bool_or(others)
), nameless AS (
  SELECT r.fold, bool_or({_SIDE} = 'test') AS tests, bool_or({_SIDE} IN ('train', 'val')) AS others,
    bool_or({_SIDE} = 'test' AND c.nobody) AS nobody_tests, bool_or({_SIDE} IN ('train', 'val') AND c.nobody) AS nobody_else
  FROM (
    SELECT corpus, tested_in, fixed, part, bool_or(voice IS NULL) AS nobody FROM cells
    WHERE corpus IN (SELECT corpus FROM cells WHERE voice IS NULL) GROUP BY ALL
  ) c {_ROLES}
  GROUP BY c.corpus, r.fold
), verdicts AS (
  SELECT fold, CASE WHEN broken THEN 2 ELSE 1 END AS verdict FROM shared
  UNION ALL SELECT fold, 1 FROM nameless WHERE (nobody_tests AND others) OR (nobody_else AND tests)
)
SELECT k.fold, coalesce(max(v.verdict), 0) AS verdict
FROM (
  SELECT DISTINCT fold FROM fold_roles WHERE protocol = $protocol AND tested_in = fold AND corpus IN (SELECT corpus FROM cells)
) k
LEFT JOIN verdicts v ON v.fold = k.fold
GROUP BY k.fold ORDER BY k.fold
"""

_WORDS: tuple[Independence, ...] = ("kept", "unknown", "broken")


def fold_independence(connection: duckdb.DuckDBPyConnection, protocol: str, corpus: str) -> dict[int, Independence]:
    """Return for each fold of a protocol whether its test speakers are new to the head; nothing if its rows are not there.

    Args:
        connection: an open catalogue.
        protocol: the protocol's canonical name.
        corpus: the corpus; of a protocol over several, all of them as `protocols.corpora` joins them. Within
            `audited.audited`, the rows are those that are being audited, a foreign split's too.
    """
    found = connection.execute(_QUERY, {"protocol": protocol, "corpora": corpus}).fetchall()
    return {fold: _WORDS[verdict] for fold, verdict in found}


def worst(folds: Iterable[Independence]) -> Independence:
    """Return the verdict on several folds together: what the worst of them is; of none, `unknown`.

    >>> worst(["kept", "unknown"]), worst(["broken", "unknown"]), worst(["kept"]), worst([])
    ('unknown', 'broken', 'kept', 'unknown')
    """
    return max(folds, key=_WORDS.index, default="unknown")
