"""What the audits see: temporary tables and views of the catalogue's own table names that hold only what is being audited.

They hold a protocol of the catalogue, or a foreign split: the rows that `foreign` read and matched. Beside the catalogue's
tables `protocols`, `assignments`, `held_out`, `fold_roles`, `folds`, `fold_utterances` and `skipped` there are more:

* `members`: one row an utterance of the split, with its class and the columns of `utterances` that audits compare; `turn_s` is
  its place in the dialogue in seconds, where the corpus says it;
* `scales` (corpus, low, high): the scale that ratings of a corpus are on, where it is known or declared;
* `checked_feature_sets` (feature_set, corpus): those that have to be complete;
* `split_rows` (file, line, written, fold, role, corpus, utterance_id, matches, label, speaker): what a foreign split says, row by
  row; empty for a protocol.

* `all_assignments` and `all_members`: the same as `assignments` and `members`, but of all rows (see below);
* `sided` (kind, protocol, corpus, fold, role, value, n): how many of the rows of a side have a speaker, session, dialogue or
  sentence (`kind`), of all rows; `shared_values` (kind, ..., value, test_utterances ...): those values that a test side shares;
* `sided_labels` (protocol, fold, role, label, n): the same of classes, of all corpora of the protocol together;
* `class_by_length`, `class_by_level` (protocol, corpus, ua, chance, gain, test_utterances): how far the length or the level of
  an utterance alone gives its class away;
* `voices` (speaker, voice): spellings of what may be one speaker have the same voice.

Utterances that the scan or every checked feature set listed as skipped, so that nobody trains or tests on them, are not among
the rows. Who speaks needs no samples: the audits that compare speakers, sessions, dialogues and sentences read `all_assignments`
and `all_members`, which leave nobody out. Of a foreign split, and where no audio can be read at all, the two kinds are the same.
A speaker called "Unknown" and the like is null here, as in `utterances`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from tfser.manifests.audits.encoders import cards_query, names_query
from tfser.manifests.catalogue.views import BOUND, VIEWS
from tfser.manifests.connections import Connection, quote, quote_name
from tfser.manifests.dimensions import scales_query
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.protocols.speakers import named, voice

_COLUMNS = (
    *("speaker", "gender", "session", "dialogue", "sentence", "duration_s", "rms_db", "sample_rate", "flags", "content_hash"),
)
_TURNS = ("turn_start_s", "start_s")
"""Columns that place an utterance in its dialogue, the better one first; the first is some corpora's own."""

_FIRST = ("utterances", "protocols", "all_assignments")
_NEXT = ("checked_feature_sets", "skipped", "unused", "held_out", "fold_roles", "voices")
"""The order in which they are made: each reads those before it."""

_VIEWS = ("utterances", "split_rows", "folds", "fold_utterances", "class_by_length", "class_by_level")
"""What stays a view: the catalogue's own rows, rows times folds, and what one audit alone reads. All else is computed once, and
not anew by each audit, most of whose time would go into planning the same joins again."""

_WORD = re.compile(r"\w+")

_USED = " AND NOT EXISTS (SELECT 1 FROM temp.unused s WHERE s.corpus = m.corpus AND s.utterance_id = m.utterance_id)"

_NO_UNUSED = "SELECT NULL::VARCHAR AS corpus, NULL::VARCHAR AS utterance_id LIMIT 0"
_UNUSED = """
WITH excused AS (
  SELECT DISTINCT s.corpus, s.utterance_id, s.stage, c.feature_set FROM temp.skipped s
  LEFT JOIN temp.checked_feature_sets c ON c.corpus = s.corpus AND s.stage = 'extract:' || c.feature_set
), lost AS (
  SELECT e.corpus, e.utterance_id FROM excused e WHERE NOT EXISTS (
    SELECT 1 FROM {main}.features f JOIN temp.checked_feature_sets USING (feature_set, corpus)
    WHERE f.corpus = e.corpus AND f.utterance_id = e.utterance_id)
  GROUP BY e.corpus, e.utterance_id
  HAVING bool_or(e.stage = 'scan') OR (count(DISTINCT e.feature_set) > 0 AND count(DISTINCT e.feature_set) =
    (SELECT count(*) FROM temp.checked_feature_sets k WHERE k.corpus = e.corpus))
)
SELECT * FROM lost WHERE EXISTS (  -- where nothing can be read, the rows are all that there is to judge
  SELECT 1 FROM temp.all_assignments a ANTI JOIN lost l ON l.corpus = a.corpus AND l.utterance_id = a.utterance_id)
"""

_ROLE = "CASE WHEN h.part IS NOT NULL AND coalesce(c.fixed, r.role) = 'train' THEN h.role ELSE coalesce(c.fixed, r.role) END"
_ROLLED_OUT = """
FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
WHERE h.role IS DISTINCT FROM 'out'
GROUP BY ALL
"""
"""Counts of rows, rolled out to the folds: counted first, so that a million rows stay a million. Who is left out of a fold is on
none of its sides."""


def _sided(kind: str) -> str:
    """Return SQL for how many rows of each side of each fold have each value of a column of `utterances`."""
    return f"""
WITH counted AS (
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, u.{kind}::VARCHAR AS value, count(*) AS n
  FROM all_assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id GROUP BY ALL
)
SELECT '{kind}' AS kind, c.protocol, c.corpus, r.fold, {_ROLE} AS role, c.value, sum(c.n)::BIGINT AS n {_ROLLED_OUT}"""


_SIDED = {
    "sided": " UNION ALL ".join(f"({_sided(kind)})" for kind in ("speaker", "session", "dialogue", "sentence")),
    "sided_labels": f"""
WITH counted AS (
  SELECT protocol, corpus, fold AS tested_in, role AS fixed, part, label, count(*) AS n FROM assignments
  WHERE label IS NOT NULL GROUP BY ALL
)
SELECT c.protocol, r.fold, {_ROLE} AS role, c.label, sum(c.n)::BIGINT AS n {_ROLLED_OUT}""",
    "shared_values": """
SELECT t.kind, t.protocol, t.corpus, t.fold,
  CASE WHEN list_contains(p.keeps_apart, t.kind) THEN 'error' ELSE 'warning' END AS level,
  t.value, t.n AS test_utterances, coalesce(sum(o.n) FILTER (o.role = 'train'), 0)::BIGINT AS train_utterances,
  coalesce(sum(o.n) FILTER (o.role = 'val'), 0)::BIGINT AS val_utterances
FROM sided t JOIN sided o ON o.kind = t.kind AND o.protocol = t.protocol AND o.corpus = t.corpus AND o.fold = t.fold
  AND o.value = t.value AND t.role = 'test' AND o.role IN ('train', 'val')
JOIN protocols p ON p.protocol = t.protocol AND p.corpus = t.corpus
GROUP BY ALL
""",
}
"""Views that several audits begin with."""


def _given_away(value: str) -> str:
    """Return SQL for how far a number of an utterance, an expression over `utterances` u, gives its class away.

    The classifier is that of the nearest class mean, learnt on each fold's training side; `ua` is its UA over all test
    utterances, `gain` how much of the way it is from chance to 1. A row a protocol of several classes.
    """
    return f"""
WITH measured AS (
  SELECT a.protocol, a.corpus, a.fold AS tested_in, a.role AS fixed, a.part, a.label, {value} AS x
  FROM assignments a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id
  WHERE isfinite({value})
), counted AS (
  SELECT protocol, corpus, tested_in, fixed, part, label, count(*) AS n, sum(x) AS total FROM measured GROUP BY ALL
), means AS (  -- of each class, on the training side of each fold
  SELECT c.protocol, r.fold, c.label, sum(c.total) / sum(c.n) AS mean
  FROM counted c JOIN fold_roles r ON r.protocol = c.protocol AND r.corpus = c.corpus AND r.tested_in = c.tested_in
  LEFT JOIN held_out h ON h.protocol = c.protocol AND h.corpus = c.corpus AND h.part = c.part AND h.fold = r.fold
  WHERE coalesce(c.fixed, r.role) = 'train' AND h.part IS NULL GROUP BY ALL
), borders AS (  -- a class is the nearest from the middle to the one below on
  SELECT *, coalesce((lag(mean) OVER w + mean) / 2, '-inf'::DOUBLE) AS low
  FROM means WINDOW w AS (PARTITION BY protocol, fold ORDER BY mean, label)
), classifiers AS (
  SELECT protocol, fold, list(low ORDER BY mean, label) AS lows, list(label ORDER BY mean, label) AS labels
  FROM borders GROUP BY protocol, fold
), tested AS (
  SELECT m.protocol, r.fold, m.label, m.x FROM measured m
  JOIN fold_roles r ON r.protocol = m.protocol AND r.corpus = m.corpus AND r.tested_in = m.tested_in
    AND coalesce(m.fixed, r.role) = 'test'
), recalls AS (
  SELECT t.protocol, t.label, count(*) AS n,
    avg((c.labels[list_sum(list_transform(c.lows, lambda low: (t.x >= low)::INTEGER))::BIGINT] = t.label)::INTEGER) AS recall
  FROM tested t JOIN classifiers c ON c.protocol = t.protocol AND c.fold = t.fold
  GROUP BY ALL
), scores AS (
  SELECT protocol, count(*) AS classes, avg(recall) AS ua, sum(n)::BIGINT AS n FROM recalls GROUP BY protocol
)
SELECT s.protocol, (SELECT any_value(p.corpora) FROM protocols p WHERE p.protocol = s.protocol) AS corpus,
  ua, 1 / classes AS chance, (ua - 1 / classes) / (1 - 1 / classes) AS gain, n AS test_utterances
FROM scores s WHERE classes > 1
"""


SPLIT_COLUMNS = (
    "file VARCHAR, line BIGINT, written VARCHAR, fold INTEGER, role VARCHAR, corpus VARCHAR, utterance_id VARCHAR, "
    "matches INTEGER, label VARCHAR, speaker VARCHAR"
)


@contextlib.contextmanager
def audited(
    connection: Connection,
    *,
    protocol: str,
    corpus: str,
    feature_sets: Sequence[str] | None,
    claims: Sequence[str] | None = None,
    queries: Sequence[str] | None = None,
) -> Iterator[None]:
    """Let temporary views stand before the tables, which hold only what is audited; take them away in the end.

    Args:
        connection: an open catalogue; for a foreign split, with what `matching.install` puts there.
        protocol: the protocol's name, or what the foreign split is called.
        corpus: the corpus, or all corpora of the protocol as `protocols.corpora` joins them.
        feature_sets: the ones that have to be complete; None takes those that hold any feature of the corpus and
            are bound to no fold.
        claims: columns that a foreign split is held to keep apart; None: the rows are a protocol's.
        queries: all that will be asked, so that nothing is made that nobody reads; None: anything may be.
    """
    # Views stand before the tables under the same names, so an audit is plain SQL that cannot see more than it
    # is to judge, and a foreign split needs no other one.
    main = _database(connection)
    turn = _turn(connection)
    views = _own(main, turn, protocol, corpus) if claims is None else _foreign(turn, protocol, corpus, claims)
    views |= _common(main, feature_sets, is_foreign=claims is not None)
    if nobody := _nobody(connection, corpus):  # before all others: they read it
        said = ", ".join(quote(name) for name in nobody)
        kept = f"CASE WHEN speaker IN ({said}) THEN NULL ELSE speaker END AS speaker"
        views = {"utterances": f"SELECT * REPLACE ({kept}) FROM {main}.utterances"} | views
    if queries is not None:
        views = _named_in(queries, views)
    made: list[str] = []
    try:
        order = (name for name in (*_FIRST, *_NEXT, *views) if name in views)
        for name in dict.fromkeys(order):
            kind = "VIEW" if name in _VIEWS else "TABLE"
            connection.execute(f"CREATE OR REPLACE TEMP {kind} {name} AS {views[name]}")
            made.append(f"{kind} IF EXISTS temp.{name}")
        yield
    finally:
        for name in reversed(made):
            connection.execute(f"DROP {name}")


def _named_in(queries: Sequence[str], views: dict[str, str]) -> dict[str, str]:
    """Return those of the views that stand as words in the queries, or in a view that does."""
    found: dict[str, str] = {}
    words = set(_WORD.findall(" ".join(queries).casefold()))
    while more := {name: sql for name, sql in views.items() if name in words and name not in found}:
        found |= more
        words |= {word for sql in more.values() for word in _WORD.findall(sql.casefold())}
    return {name: sql for name, sql in views.items() if name in found}


def _own(main: str, turn: str, protocol: str, corpus: str) -> dict[str, str]:
    """Return the views of a protocol of the catalogue."""
    p = quote(protocol)
    of = f"SELECT * FROM {main}.{{}} m WHERE m.protocol = {p} AND m.corpus IN (SELECT corpus FROM temp.protocols)"
    return {
        "protocols": f"SELECT * FROM {main}.protocols WHERE protocol = {p} AND corpora = {quote(corpus)}",
        "all_assignments": of.format("assignments"),
        "assignments": f"SELECT * FROM temp.all_assignments m WHERE TRUE{_USED}",
        "held_out": of.format("held_out"),
        "fold_roles": VIEWS["fold_roles"],
        "split_rows": f"SELECT {', '.join(f'NULL::{c.split()[1]} AS {c.split()[0]}' for c in SPLIT_COLUMNS.split(', '))} LIMIT 0",
        "all_members": _members(turn, "temp.all_assignments"),
        "members": f"SELECT * FROM temp.all_members m WHERE TRUE{_USED}",
    }


def _foreign(turn: str, protocol: str, corpus: str, claims: Sequence[str]) -> dict[str, str]:
    """Return the views of a foreign split: its rows have their roles by themselves, or, where they name none, by fold."""
    p, c = quote(protocol), quote(corpus)
    apart = "[" + ", ".join(quote(name) for name in claims) + "]::VARCHAR[]"
    return {
        "split_rows": "SELECT * FROM temp.foreign_rows",
        "protocols": f"SELECT {p} AS protocol, {c} AS corpus, {c} AS corpora, NULL::INTEGER AS version, "
        "(SELECT sha256(string_agg(concat_ws(chr(9), fold, role, utterance_id), chr(10) ORDER BY fold, role, utterance_id))[:16] "
        "FROM temp.foreign_rows) AS hash, (SELECT count(DISTINCT fold) FROM temp.foreign_rows) AS folds, "
        "(SELECT list(DISTINCT label ORDER BY label) FROM temp.foreign_members) AS classes, "
        f"{apart} AS keeps_apart, 'split' AS grouped_by, 'none' AS validation, 'a foreign split' AS summary, "
        "[]::VARCHAR[] AS used_by",
        "all_assignments": f'SELECT DISTINCT {p} AS protocol, m.corpus, m.utterance_id, m.label, NULL::VARCHAR AS "group", '
        "m.fold, m.role, NULL::INTEGER AS part FROM temp.foreign_members m",
        "assignments": "SELECT * FROM temp.all_assignments",
        "held_out": "SELECT NULL::VARCHAR AS protocol, NULL::VARCHAR AS corpus, NULL::INTEGER AS part, NULL::INTEGER AS fold, "
        "NULL::VARCHAR AS role, NULL::VARCHAR AS reason LIMIT 0",
        # Folds keep their own numbers, so that those in between need not be there.
        "fold_roles": "WITH numbers AS (SELECT DISTINCT fold FROM temp.foreign_rows) "
        "SELECT p.protocol, p.corpus, p.validation, g.fold AS tested_in, k.fold, "
        "CASE WHEN g.fold = k.fold THEN 'test' ELSE 'train' END AS role FROM temp.protocols p, numbers g, numbers k "
        "WHERE g.fold = k.fold OR (SELECT bool_and(role IS NULL) FROM temp.foreign_rows)",
        "all_members": _members(
            turn,
            "(SELECT protocol, corpus, utterance_id, any_value(label) AS label FROM temp.all_assignments GROUP BY ALL)",
        ),
        "members": "SELECT * FROM temp.all_members",
    }


def _members(turn: str, rows: str) -> str:
    columns = ", ".join(f"u.{name}" for name in _COLUMNS)
    return (
        f"SELECT a.protocol, a.corpus, a.utterance_id, a.label, {columns}, {turn} AS turn_s "
        f"FROM {rows} a JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id"
    )


def _nobody(connection: Connection, corpus: str) -> list[str]:
    """Return the speakers of these corpora that are nobody: "Unknown" and the like."""
    found = connection.execute(
        f"SELECT speaker FROM (SELECT DISTINCT speaker FROM utterances WHERE corpus IN (SELECT unnest(?))) "
        f"WHERE speaker IS NOT NULL AND {named('speaker')} IS NULL ORDER BY speaker",
        [corpus.split(JOINED_BY)],
    ).fetchall()
    return [row[0] for row in found]


def _turn(connection: Connection) -> str:
    """Return the SQL of an utterance's place in its dialogue, out of the columns that there are."""
    described = connection.execute("DESCRIBE utterances").fetchall()
    numbers = {name for name, kind, *_ in described if kind in ("DOUBLE", "FLOAT", "BIGINT", "INTEGER")}
    known = [f"u.{name}" for name in _TURNS if name in numbers]
    return f"coalesce({', '.join(known)}, NULL)::DOUBLE"


def _common(main: str, feature_sets: Sequence[str] | None, is_foreign: bool) -> dict[str, str]:
    """Return the views that are the same for both."""
    if feature_sets is None:
        chosen = (
            f"SELECT DISTINCT f.feature_set, f.corpus FROM {main}.features f JOIN temp.protocols p ON p.corpus = f.corpus "
            f"WHERE f.feature_set NOT IN (SELECT feature_set FROM {main}.feature_sets WHERE {BOUND})"
        )
    else:
        names = ", ".join(quote(f) for f in feature_sets)
        chosen = f"SELECT f.feature_set, p.corpus FROM temp.protocols p, (SELECT unnest([{names}]::VARCHAR[]) AS feature_set) f"
    return {
        "checked_feature_sets": chosen,
        # What a reader passed over (stage read) was never an utterance, though it may bear the id of one; nor is a run.
        "skipped": f"SELECT * FROM {main}.skipped WHERE corpus IN (SELECT corpus FROM temp.protocols) "
        "AND stage NOT IN ('read', 'rating', 'run')",
        "unused": _NO_UNUSED if is_foreign else _UNUSED.format(main=main),
        "voices": f"SELECT speaker, {voice('speaker')} AS voice FROM (SELECT DISTINCT speaker FROM utterances "
        "WHERE corpus IN (SELECT corpus FROM temp.protocols)) WHERE speaker IS NOT NULL",
        "scales": scales_query(f"{main}.corpora"),
        "encoder_cards": cards_query(),
        "encoder_names": names_query(),
        "folds": VIEWS["folds"],
        "fold_utterances": VIEWS["fold_utterances"],
        "class_by_length": _given_away("ln(greatest(u.duration_s, 1e-3))"),
        "class_by_level": _given_away("u.rms_db"),
        **_SIDED,
    }


def _database(connection: Connection) -> str:
    """Return the schema of the catalogue's own tables, as SQL writes it."""
    row = connection.execute("SELECT current_database()").fetchone()
    return f"{quote_name(row[0] if row else 'memory')}.main"
