"""Protocols: which utterances take part, under which class, and who tests whom.

A protocol is written `NAME[:K[:COLUMN]][@LABELS][/VALIDATION]`, for instance

    emodb7-speaker                                     a named protocol
    loso-speaker                                       any corpus: leave one speaker out, all labels
    group-kfold:5                                      any corpus: speakers dealt into 5 folds
    group-kfold:5:session@anger,happiness:happiness+excitement/next-group

Folds count from 1, and fold k tests the k-th group in natural order (speaker 9 before speaker 10). Validation is `none` (train
on everything but the test group), `next-group` (fold k validates on group k + 1, cyclically) or, for an official split, what
the corpus calls val. A protocol's hash covers the rows it makes, so two papers that name the same hash used the same split.

Each protocol declares which columns it keeps apart. The audits take an overlap in those for an error, and any other overlap
for a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.labels import NO_EMOTION, format_label_map, normalise, parse_label_map

if TYPE_CHECKING:
    import duckdb

VALIDATIONS = ("none", "next-group")
_GROUP_COLUMNS = ("speaker", "session", "dialogue")
_MOST_FOLDS = 100
"""A generic protocol of more folds than this is made when asked for by name, not for every corpus."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way of splitting a corpus.

    `corpora` names the corpora (by reader) that it is for; None is any. `labels` maps the field's labels to classes, in the order of the classes; None takes every label as its own class but
    those that name no emotion. `where` is an SQL condition on `utterances`. `grouped_by` is the column whose values become
    the groups; `k` deals the groups into that many folds, None makes one fold a group.
    """

    name: str
    summary: str
    version: int = 1
    corpora: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    where: str = "TRUE"
    grouped_by: str = "speaker"
    k: int | None = None
    keeps_apart: tuple[str, ...] = ("speaker",)
    validation: str = "none"
    needs_k: bool = False


def _same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            name="emodb7-speaker",
            summary="EmoDB, 7 classes, leave one of 10 speakers out",
            corpora=("emodb",),
            labels=_same("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral"),
        ),
        Protocol(
            name="iemocap4-session",
            summary="IEMOCAP, 4 classes (happiness with excitement), improvised and scripted, leave one of 5 sessions out",
            corpora=("iemocap",),
            labels={**_same("anger", "happiness"), "excitement": "happiness", **_same("neutral", "sadness")},
            grouped_by="session",
            keeps_apart=("speaker", "session", "dialogue"),
        ),
        Protocol(name="loso-speaker", summary="leave one speaker out, every label a class"),
        Protocol(
            name="loso-session",
            summary="leave one session out, every label a class",
            grouped_by="session",
            keeps_apart=("speaker", "session"),
        ),
        Protocol(
            name="group-kfold",
            summary="whole groups (speakers, or the column named after K) dealt into K folds of about the same size",
            needs_k=True,
        ),
        Protocol(
            name="random-kfold",
            summary="utterances dealt into K folds whoever speaks: speakers leak, and the name says so",
            grouped_by="utterance_id",
            keeps_apart=(),
            needs_k=True,
        ),
        Protocol(
            name="official-split",
            summary="the corpus's own train, val and test",
            grouped_by="split",
            keeps_apart=(),
            validation="split",
        ),
    )
}
"""The named protocols and the generic ones, by name. One line makes another."""


def parse(text: str) -> Protocol:
    """Return the protocol of a specification.

    >>> parse("group-kfold:5@anger,neutral/next-group").name
    'group-kfold:5@anger,neutral/next-group'
    >>> parse("loso-speker")
    Traceback (most recent call last):
    ...
    tfser.manifests.errors.UsageError: unknown protocol 'loso-speker'; did you mean 'loso-speaker'? Known: ...

    Raises:
        UsageError: if the name is unknown, K is missing or no number, or the labels or the validation policy are off.
    """
    head, slash, validation = text.rpartition("/")
    if not slash or validation not in VALIDATIONS:
        if slash and re.fullmatch(r"[a-z-]+", validation) and "@" not in validation:
            raise unknown("validation policy", validation, VALIDATIONS)
        head, validation = text, ""
    stem, _, labels = head.partition("@")
    base, *arguments = stem.split(":")
    if base not in PROTOCOLS:
        raise unknown("protocol", base, sorted(PROTOCOLS))
    protocol = PROTOCOLS[base]
    name = base
    if protocol.needs_k:
        if not arguments or not arguments[0].isdigit() or int(arguments[0]) < 2:
            raise UsageError(f"protocol {text!r}: say into how many folds, from 2: {base}:5")
        protocol = replace(protocol, k=int(arguments[0]))
        name += f":{protocol.k}"
        if len(arguments) == 2 and base == "group-kfold" and arguments[1] in _GROUP_COLUMNS:
            protocol = replace(protocol, grouped_by=arguments[1], keeps_apart=(arguments[1],))
            name += f":{arguments[1]}" if arguments[1] != "speaker" else ""
        elif len(arguments) > 1:
            raise UsageError(f"protocol {text!r}: groups are one of {', '.join(_GROUP_COLUMNS)}: {base}:5:session")
    elif arguments:
        raise UsageError(f"protocol {text!r}: {base} takes no number")
    if labels:
        protocol = replace(protocol, labels=parse_label_map(labels))
        name += f"@{format_label_map(protocol.labels or {})}"
    if validation and validation != protocol.validation:
        if protocol.grouped_by == "split":
            raise UsageError(f"protocol {text!r}: {base} has its own validation side")
        protocol = replace(protocol, validation=validation)
        name += f"/{validation}"
    return replace(protocol, name=name)


def specify(name: str, *, labels: str | None = None, validation: str | None = None) -> str:
    """Return the canonical specification for a protocol with the options of the command line.

    Raises:
        UsageError: as `parse`, or if an option contradicts what the name says.
    """
    protocol = parse(name)
    spec = protocol.name
    if labels:
        if "@" in spec:
            raise UsageError(f"protocol {name!r} already says which labels; leave --labels out")
        head, slash, policy = spec.rpartition("/")
        spec = f"{head}@{labels}/{policy}" if slash else f"{spec}@{labels}"
    if validation and validation != protocol.validation:
        if validation not in VALIDATIONS:
            raise unknown("validation policy", validation, VALIDATIONS)
        if spec.endswith(tuple(f"/{policy}" for policy in VALIDATIONS)):
            raise UsageError(f"protocol {name!r} already says how to validate; leave --validation out")
        spec = f"{spec}/{validation}"
    return parse(spec).name


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that takes digits as numbers.

    >>> sorted(["s10", "s9", "S1"], key=natural_key)
    ['S1', 's9', 's10']
    """
    parts = re.findall(r"\d+|\D+", text)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part.casefold()) for part in parts)


def deal(groups: Mapping[str, int], k: int) -> dict[str, int]:
    """Deal whole groups into k folds of about the same number of utterances; largest first, to the emptiest fold.

    >>> deal({"a": 5, "b": 3, "c": 2, "d": 1}, 2)
    {'a': 1, 'b': 2, 'c': 2, 'd': 1}

    Raises:
        TfserError: if there are fewer groups than folds.
    """
    if len(groups) < k:
        raise TfserError(f"{len(groups)} groups cannot fill {k} folds; ask for at most {len(groups)}")
    sizes = [0] * k
    result: dict[str, int] = {}
    for name in sorted(groups, key=lambda g: (-groups[g], natural_key(g))):
        fold = min(range(k), key=lambda i: (sizes[i], i))
        sizes[fold] += groups[name]
        result[name] = fold + 1
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
        TfserError: if the corpus is not the protocol's, or nothing of it fits: no utterance, fewer than two folds.
    """
    if protocol.corpora and _adapter(connection, corpus) not in protocol.corpora:
        raise UsageError(f"protocol {protocol.name} is for {', '.join(protocol.corpora)}, not for {corpus}")
    labels, classes = _labels(connection, corpus, protocol)
    connection.execute("CREATE OR REPLACE TEMP TABLE chosen (label VARCHAR, class VARCHAR)")
    connection.executemany("INSERT INTO chosen VALUES (?, ?)", [list(pair) for pair in labels.items()])
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
        "SELECT sha256(coalesce(string_agg(concat_ws(chr(9), utterance_id, label, coalesce(fold::VARCHAR, '-'), "
        "coalesce(role, '-')), chr(10) ORDER BY utterance_id), '')) FROM assignments WHERE protocol = ? AND corpus = ?",
        [protocol.name, corpus],
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
    """Return the map from label to class and the classes in order; only classes that the corpus has."""
    present = [
        row[0]
        for row in connection.execute(
            f"SELECT DISTINCT label FROM utterances WHERE corpus = ? AND label IS NOT NULL AND ({protocol.where}) ORDER BY 1",
            [corpus],
        ).fetchall()
    ]
    if protocol.labels is None:
        kept = [label for label in present if label not in NO_EMOTION]
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
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE dealt AS SELECT utterance_id AS name, "
            f"((row_number() OVER (ORDER BY md5(utterance_id), utterance_id) - 1) % {k} + 1)::INTEGER AS fold FROM members"
        )
        folds = k
    else:
        counted: Sequence[tuple[str, int]] = connection.execute(
            'SELECT "group", count(*) FROM members WHERE "group" IS NOT NULL GROUP BY 1'
        ).fetchall()
        groups = {name: count for name, count in sorted(counted, key=lambda row: natural_key(row[0]))}
        if len(groups) < 2:
            raise TfserError(
                f"{members}: the column {protocol.grouped_by} has {_words(groups)}; at least two groups are needed"
            )
        try:
            folds_of = deal(groups, protocol.k) if protocol.k else {name: i for i, name in enumerate(groups, 1)}
        except TfserError as error:
            raise TfserError(f"{members}: {error}") from error
        folds = max(folds_of.values())
        connection.execute("CREATE OR REPLACE TEMP TABLE dealt (name VARCHAR, fold INTEGER)")
        connection.executemany("INSERT INTO dealt VALUES (?, ?)", [list(row) for row in folds_of.items()])
    if protocol.validation == "next-group" and folds < 3:
        raise TfserError(f"{members}: next-group validation needs three folds, there are {folds}")
    return '(SELECT d.fold FROM dealt d WHERE d.name = m."group")', "NULL", folds


def _words(values: object) -> str:
    names = sorted(str(v) for v in values) if isinstance(values, (set, dict)) else []
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
