"""What a protocol makes of a corpus: each utterance's class, group and fold.

Comes in: a `Protocol` and the rows of `utterances`. Goes out: the rows of `protocols` and `assignments`, from which the view
`folds` says who trains, validates and tests. One row an utterance is stored, whatever the number of folds.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.labels import NO_EMOTION, normalise
from tfser.manifests.protocols import PROTOCOLS, Protocol

if TYPE_CHECKING:
    import duckdb

_MOST_FOLDS = 100
"""A generic protocol of more folds than this is made when asked for by name, not for every corpus."""


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that takes digits as numbers.

    >>> sorted(["s10", "s9", "S1"], key=natural_key)
    ['S1', 's9', 's10']
    """
    parts = re.findall(r"\d+|\D+", text)
    key = ((0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts)
    return (*key, (-1, 0, text))  # at last as written, so that `S1` and `s1` have an order, too


def deal(groups: Mapping[str, int], k: int) -> dict[str, int]:
    """Deal whole groups into k folds of about the same number of utterances; largest first, to the emptiest fold.

    >>> deal({"a": 5, "b": 3, "c": 2, "d": 1}, 2)
    {'a': 1, 'b': 2, 'c': 2, 'd': 1}

    Raises:
        TfserError: if there are fewer groups than folds.
    """
    if len(groups) < k:
        raise TfserError(f"{len(groups)} groups cannot fill {k} folds; ask for at most {len(groups)}")
    result: dict[str, int] = {}
    emptiest = [(0, fold) for fold in range(1, k + 1)]
    for name in sorted(groups, key=lambda g: (-groups[g], natural_key(g))):
        size, fold = emptiest[0]
        heapq.heapreplace(emptiest, (size + groups[name], fold))
        result[name] = fold
    return result


def applicable(connection: duckdb.DuckDBPyConnection, corpus: str) -> list[str]:
    """Return the protocols that a corpus has without asking: its own, and the generic ones that its columns allow."""
    adapter = _adapter(connection, corpus)
    names = [p.name for p in PROTOCOLS.values() if p.corpora and adapter in p.corpora]
    speakers, sessions, train, test = connection.execute(
        "SELECT count(DISTINCT speaker), count(DISTINCT session), count(*) FILTER (split = 'train'), "
        "count(*) FILTER (split = 'test') FROM utterances WHERE corpus = ?",
        [corpus],
    ).fetchone() or (0, 0, 0, 0)
    if 2 <= speakers <= _MOST_FOLDS:
        names.append("loso-speaker")
    if 2 <= sessions <= _MOST_FOLDS:
        names.append("loso-session")
    if train and test:
        names.append("official-split")
    return names


def _adapter(connection: duckdb.DuckDBPyConnection, corpus: str) -> str | None:
    """Return which corpus this is a copy of, whatever name it got in this cache."""
    row = connection.execute("SELECT adapter FROM corpora WHERE corpus = ?", [corpus]).fetchone()
    return row[0] if row else None


def install(connection: duckdb.DuckDBPyConnection, corpus: str, protocol: Protocol) -> None:
    """Write a protocol's rows for one corpus into the tables `protocols` and `assignments` of an open catalogue.

    Raises:
        TfserError: if the corpus is not the protocol's, or not enough of it fits: fewer than two classes or two folds.
    """
    if protocol.corpora and _adapter(connection, corpus) not in protocol.corpora:
        raise UsageError(f"protocol {protocol.name} is for {', '.join(protocol.corpora)}, not for {corpus}")
    labels, classes = _labels(connection, corpus, protocol)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE chosen AS SELECT unnest(?) AS label, unnest(?) AS class",
        [list(labels), list(labels.values())],
    )
    column = protocol.grouped_by
    connection.execute(
        f'CREATE OR REPLACE TEMP TABLE members AS SELECT u.utterance_id, c.class AS label, u."{column}" AS "group" '
        f"FROM utterances u JOIN chosen c ON u.label = c.label WHERE u.corpus = ? AND ({protocol.where})",
        [corpus],
    )
    fold, role, folds = _folds(connection, corpus, protocol)
    connection.execute(
        'INSERT INTO assignments BY NAME SELECT ? AS protocol, ? AS corpus, m.utterance_id, m.label, m."group", '
        f"{fold} AS fold, {role} AS role FROM members m ORDER BY m.utterance_id",
        [protocol.name, corpus],
    )
    digest = connection.execute(
        "SELECT sha256(concat_ws(chr(10), ?, coalesce(string_agg(concat_ws(chr(9), utterance_id, label, "
        "coalesce(fold::VARCHAR, '-'), coalesce(role, '-')), chr(10) ORDER BY utterance_id), ''))) "
        "FROM assignments WHERE protocol = ? AND corpus = ?",
        [f"{folds} {protocol.validation}", protocol.name, corpus],
    ).fetchone()
    connection.execute(
        "INSERT INTO protocols VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            protocol.name,
            corpus,
            protocol.version,
            digest[0][:16] if digest else None,
            folds,
            classes,
            list(protocol.keeps_apart),
            column,
            protocol.validation,
            protocol.summary,
        ],
    )


def _labels(
    connection: duckdb.DuckDBPyConnection, corpus: str, protocol: Protocol
) -> tuple[dict[str, str], list[str]]:
    """Return the map from label to class, of labels that the corpus has, and the classes in order.

    A class of the protocol's that the corpus lacks stays: the audit says so, rather than a head of fewer outputs.
    """
    present = [
        row[0]
        for row in connection.execute(
            f"SELECT DISTINCT label FROM utterances WHERE corpus = ? AND label IS NOT NULL AND ({protocol.where}) ORDER BY 1",
            [corpus],
        ).fetchall()
    ]
    if protocol.labels is None:
        kept = [label for label in present if label not in NO_EMOTION]
        if not kept:
            raise TfserError(f"protocol {protocol.name}: corpus {corpus} has no labels; fill its column label and scan again")
        if len(kept) < 2:
            raise TfserError(
                f"protocol {protocol.name}: corpus {corpus} has one class only ({kept[0]}); at least two are needed"
            )
        return {label: label for label in kept}, kept
    labels = {label: name for label, name in protocol.labels.items() if normalise(label) in present}
    classes = list(dict.fromkeys(protocol.labels.values()))
    if not labels:
        raise TfserError(
            f"protocol {protocol.name}: corpus {corpus} has none of its labels "
            f"({', '.join(protocol.labels)}); it has {', '.join(present) or 'none'}"
        )
    return labels, classes


def _folds(connection: duckdb.DuckDBPyConnection, corpus: str, protocol: Protocol) -> tuple[str, str, int]:
    """Return the SQL of a member's fold and role, and the number of folds."""
    members = f"protocol {protocol.name} on corpus {corpus}"
    if protocol.grouped_by == "split":
        sides = {row[0] for row in connection.execute('SELECT DISTINCT "group" FROM members').fetchall()}
        if not {"train", "test"} <= sides:
            raise TfserError(f"{members}: the column split must say train and test; it says {_words(sides)}")
        known = "m.\"group\" IN ('train', 'val', 'test')"
        return f"CASE WHEN {known} THEN 1 END", f'CASE WHEN {known} THEN m."group" END', 1
    if protocol.grouped_by == "utterance_id":
        k = protocol.k or 2
        count = (connection.execute("SELECT count(*) FROM members").fetchone() or (0,))[0]
        if count < k:
            raise TfserError(f"{members}: {count} utterances cannot fill {k} folds")
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE dealt AS SELECT utterance_id AS name, "
            f"((row_number() OVER (ORDER BY md5(utterance_id), utterance_id) - 1) % {k} + 1)::INTEGER AS fold FROM members"
        )
        folds = k
    else:
        counted: Sequence[tuple[str, int]] = connection.execute(
            'SELECT "group", count(*) FROM members WHERE "group" IS NOT NULL GROUP BY 1'
        ).fetchall()
        groups = dict(sorted(counted, key=lambda row: natural_key(row[0])))
        if len(groups) < 2:
            raise TfserError(
                f"{members}: the column {protocol.grouped_by} has {_words(groups)}; at least two groups are needed"
            )
        try:
            folds_of = deal(groups, protocol.k) if protocol.k else {name: i for i, name in enumerate(groups, 1)}
        except TfserError as error:
            raise TfserError(f"{members}: {error}") from error
        folds = max(folds_of.values())
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE dealt AS SELECT unnest(?) AS name, unnest(?)::INTEGER AS fold",
            [list(folds_of), list(folds_of.values())],
        )
    if protocol.validation == "next-group" and folds < 3:
        raise TfserError(f"{members}: next-group validation needs three folds, there are {folds}")
    return '(SELECT d.fold FROM dealt d WHERE d.name = m."group")', "NULL", folds


def _words(values: object) -> str:
    names = sorted(str(v) for v in values) if isinstance(values, (set, dict)) else []
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
