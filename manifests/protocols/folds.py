"""What a protocol makes of a corpus, or of several: each utterance's class, group and fold.

Comes in: a `Protocol` and the rows of `utterances`. Goes out: the rows of `protocols`, `assignments` and `held_out`, from which
the view `folds` says who trains, validates and tests. One row an utterance is stored, whatever the number of folds.

Within a protocol over several corpora every name is `corpus/name`: utterances, groups, speakers. Nothing of two corpora is ever
taken for one thing because it is called the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import duckdb

from tfser.manifests.connections import Connection, quote_name
from tfser.manifests.dimensions import DIMENSIONS
from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.manifests.labels import NO_EMOTION, normalise
from tfser.manifests.natural import natural_key
from tfser.manifests.protocols.conditions import check_columns, check_condition
from tfser.manifests.protocols.dealing import deal, deal_strata
from tfser.manifests.protocols.known import PROTOCOLS
from tfser.manifests.protocols.listed import Placed, PublishedList, place_list, published_lists
from tfser.manifests.protocols.protocol import JOINED_BY, Protocol
from tfser.manifests.protocols.validation import HOLDING_OUT, hold_out

_MOST_FOLDS = 100
"""A generic protocol of more folds than this is made when asked for by name, not for every corpus."""


def _strata(connection: Connection, protocol: Protocol) -> dict[str, dict[str, int]]:
    """Return how many members each group has of each stratum: of each class, or of each dimension's quartiles in its corpus."""
    if protocol.rated:
        # Utterances with the same rating are of one quartile: `percent_rank` is the same for both.
        quartile = "least(floor(4 * percent_rank() OVER (PARTITION BY m.corpus ORDER BY u.{0}))::INTEGER, 3)"
        sources = " UNION ALL ".join(
            f"SELECT m.\"group\" AS name, '{of}' || {quartile.format(of)} AS stratum FROM members m "
            "JOIN utterances u ON u.corpus = m.corpus AND u.utterance_id = m.utterance_id"
            for of in protocol.rated
        )
    else:
        sources = 'SELECT "group" AS name, label AS stratum FROM members'
    found: dict[str, dict[str, int]] = {}
    for name, stratum, n in connection.execute(
        f"SELECT name, stratum, count(*) FROM ({sources}) WHERE name IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).fetchall():
        found.setdefault(name, {})[stratum] = n
    return found


def applicable(connection: Connection, corpus: str) -> list[str]:
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


def _adapter(connection: Connection, corpus: str) -> str | None:
    """Return which corpus this is a copy of, whatever name it got in this cache."""
    row = connection.execute("SELECT adapter FROM corpora WHERE corpus = ?", [corpus]).fetchone()
    return row[0] if row else None


def install(connection: Connection, corpus: str, protocol: Protocol) -> None:
    """Write a protocol's rows into the tables `protocols`, `assignments` and `held_out` of an open catalogue.

    Args:
        connection: the catalogue, which holds the corpora.
        corpus: the corpus; of a protocol that names its corpora, what it names.
        protocol: the protocol.

    Raises:
        TfserError: if the corpus is not the protocol's, or not enough of it fits: fewer than two classes or two folds.
    """
    try:
        _install(connection, corpus, protocol)
    finally:
        with contextlib.suppress(duckdb.Error):  # after an error in a transaction nothing more can be said in it
            for name in ("chosen", "members", "dealt", "cells", "placed", *HOLDING_OUT):
                connection.execute(f"DROP TABLE IF EXISTS temp.{name}")


def _install(connection: Connection, corpus: str, protocol: Protocol) -> None:
    corpora = list(protocol.over) if protocol.over else [corpus]
    for name in corpora:
        if protocol.corpora and _adapter(connection, name) not in protocol.corpora:
            raise UsageError(f"protocol {protocol.name} is for {', '.join(protocol.corpora)}, not for {name}")
    # A condition is checked for what it is before it is run: it is a user's SQL, and may read its utterance's
    # columns and nothing else.
    where = f"protocol {protocol.name}" if protocol.over else f"protocol {protocol.name} on corpus {corpus}"
    condition = check_condition(protocol.where, where) if protocol.where != Protocol.where else frozenset()
    columns = {protocol.grouped_by, *(column for column, _ in protocol.crossed), protocol.label_column}
    check_columns(connection, condition | columns, where)
    try:
        classes = _members(connection, corpora, protocol)
    except duckdb.Error as error:
        raise TfserError(f"{where}: its condition cannot be computed ({first_line(error)})") from error
    fold, role, folds = _folds(connection, protocol, where)
    # Who tests is settled before who validates: validation takes from the training side what is there, and
    # never a tester.
    connection.execute(f"CREATE OR REPLACE TEMP TABLE placed AS SELECT m.*, {fold} AS fold, {role} AS role FROM members m")
    if protocol.others == "leave-out":
        connection.execute("DELETE FROM placed WHERE fold IS NULL")
    hold_out(connection, protocol, folds, where)
    connection.execute(
        'INSERT INTO assignments BY NAME SELECT ? AS protocol, corpus, utterance_id, label, "group", fold, role, part '
        "FROM parted ORDER BY corpus, utterance_id",
        [protocol.name],
    )
    connection.execute("INSERT INTO held_out BY NAME SELECT ? AS protocol, * FROM held ORDER BY ALL", [protocol.name])
    grouped_by = JOINED_BY.join([protocol.grouped_by, *dict(protocol.crossed)])
    for name in corpora:
        connection.execute(
            "INSERT INTO protocols VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(protocol.name, name, JOINED_BY.join(corpora), protocol.version),
                *(_hash(connection, protocol, folds), folds, classes, list(protocol.keeps_apart)),
                *(grouped_by, protocol.validation, protocol.summary, list(protocol.used_by)),
            ],
        )


def _hash(connection: Connection, protocol: Protocol, folds: int) -> str:
    """Return 16 hexadecimal digits over the rows: who takes part, under which class, tested where, and validating where."""
    digest = connection.execute(
        "SELECT sha256(concat_ws(chr(10), ?, coalesce(string_agg(concat_ws(chr(9), p.key, p.label, "
        "coalesce(p.fold::VARCHAR, '-'), coalesce(p.role, '-'), h.folds), chr(10) ORDER BY p.key), ''))) FROM parted p "
        "LEFT JOIN (SELECT corpus, part, string_agg(fold || CASE role WHEN 'val' THEN '' ELSE role END, ',' ORDER BY fold) "
        "AS folds FROM held GROUP BY ALL) h "
        "ON h.corpus = p.corpus AND h.part = p.part",
        [f"{folds} {protocol.validation}"],
    ).fetchone()
    return str(digest[0])[:16] if digest else ""


def _members(connection: Connection, corpora: Sequence[str], protocol: Protocol) -> list[str]:
    """Make the temporary table `members`, who takes part, and return the classes in order."""
    several = len(corpora) > 1
    classes: list[str] = []
    # Labels become classes by a join, so that whose label is of no class drops out by itself.
    if not protocol.rated:
        labels, classes = _labels(connection, corpora, protocol)
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE chosen AS SELECT unnest(?) AS chosen_label, unnest(?) AS class",
            [list(labels), list(labels.values())],
        )
    # Over several corpora a name is `corpus/name`: speaker 03 of one is not speaker 03 of another.
    named = "corpus || '/' || {0}" if several else "{0}"
    column = f"{quote_name(protocol.grouped_by)}::VARCHAR"
    group = column if protocol.grouped_by == "corpus" else named.format(column)
    # What is kept apart besides the groups, a column each.
    crossed = "".join(
        f", {named.format(f'{quote_name(of)}::VARCHAR')} AS crossed_{i}" for i, (of, _) in enumerate(protocol.crossed)
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE members AS SELECT u.corpus, u.utterance_id, {named.format('utterance_id')} AS key, "
        f'{"NULL::VARCHAR" if protocol.rated else "c.class"} AS label, {group} AS "group", u.speaker, '
        f"{named.format('speaker')} AS voice{crossed} FROM ({_chosen_rows(protocol)}) u "
        + (
            f"WHERE {is_rated(protocol.rated)}"
            if protocol.rated
            else f"JOIN chosen c ON u.{quote_name(protocol.label_column)} = c.chosen_label"
        ),
        [list(corpora)],
    )
    if protocol.rated:
        _check_rated(connection, corpora, protocol)
    return classes


def is_rated(targets: Sequence[str]) -> str:
    """Return the SQL of whether an utterance is rated for all of some dimensions; a rating that is no number is none."""
    return " AND ".join(f"coalesce(isfinite({name}), FALSE)" for name in targets)


def _check_rated(connection: Connection, corpora: Sequence[str], protocol: Protocol) -> None:
    """Make sure that each corpus has rated utterances among the members.

    Raises:
        TfserError: if one has none; the line says which dimensions it is rated for.
    """
    there = {row[0] for row in connection.execute("SELECT DISTINCT corpus FROM members").fetchall()}
    for name in corpora:
        if name not in there:
            counts = ", ".join(f"count({of})" for of in DIMENSIONS)
            found = connection.execute(f"SELECT {counts} FROM utterances WHERE corpus = ?", [name]).fetchone() or (0, 0, 0)
            have = [f"{of} ({n:,})" for of, n in zip(DIMENSIONS, found, strict=True) if n]
            rated = f"ratings of {', '.join(have)}" if have else "no ratings at all: leave out --target to learn its classes"
            raise TfserError(
                f"protocol {protocol.name}: no utterance of {name} is rated for {' and '.join(protocol.rated)}; it has {rated}"
            )


def _chosen_rows(protocol: Protocol) -> str:
    """Return the SQL of the utterances that a protocol's condition lets through; its parameter is the list of corpora."""
    return f"SELECT * FROM utterances WHERE list_contains(?, corpus) AND (\n{protocol.where}\n)"


def _labels(connection: Connection, corpora: Sequence[str], protocol: Protocol) -> tuple[dict[str, str], list[str]]:
    """Return the map from label to class, of labels that the corpora have, and the classes in order.

    A class of the protocol's that the corpora lack stays: the audit says so, rather than a head of fewer outputs.
    """
    column, quoted = protocol.label_column, quote_name(protocol.label_column)
    present: dict[str, list[str]] = {name: [] for name in corpora}
    for name, label in connection.execute(
        f"SELECT DISTINCT corpus, {quoted}::VARCHAR FROM ({_chosen_rows(protocol)}) WHERE {quoted} IS NOT NULL ORDER BY ALL",
        [list(corpora)],
    ).fetchall():
        present[name].append(label)
    subject = f"protocol {protocol.name}: corpus"
    # Without a map, the classes are the labels that all of the corpora have: a class that one of two lacks
    # would be learned from the other's microphones.
    if protocol.labels is None:
        for name, words in present.items():
            if not set(words) - NO_EMOTION:
                raise TfserError(f"{subject} {name} has no labels; fill its column {column} and scan again")
        kept = sorted(set.intersection(*(set(words) for words in present.values())) - NO_EMOTION)
        if len(kept) < 2 and len(corpora) > 1:
            raise TfserError(
                f"protocol {protocol.name}: the corpora share too few labels ({', '.join(kept) or 'none'}); "
                "say which classes with --labels, for instance common4"
            )
        if len(kept) < 2:
            raise TfserError(f"{subject} {corpora[0]} has one class only ({kept[0]}); at least two are needed")
        return {label: label for label in kept}, kept

    def known(label: str) -> str:
        return normalise(label) or label if column == "label" else label

    for name, words in present.items():
        if not any(known(label) in words for label in protocol.labels):
            raise TfserError(
                f"{subject} {name} has none of its labels ({', '.join(protocol.labels)}); it has {', '.join(words) or 'none'}"
            )
    found = {word for words in present.values() for word in words}
    labels = {known(label): name for label, name in protocol.labels.items() if known(label) in found}
    return labels, list(dict.fromkeys(protocol.labels.values()))


def _folds(connection: Connection, protocol: Protocol, where: str) -> tuple[str, str, int]:
    """Return the SQL of a member's fold and role, and the number of folds."""
    if protocol.listed is not None:
        return _published(connection, protocol, where)
    if protocol.sides is not None:
        return _sides(connection, protocol, where)
    if protocol.crossed:
        return _crossed(connection, protocol, where)
    # Dealt by the hash of the key: who is in which fold stays so when utterances are added, and does not follow
    # the order of the rows.
    if protocol.grouped_by == "utterance_id" and protocol.k:
        count = (connection.execute("SELECT count(*) FROM members").fetchone() or (0,))[0]
        if count < protocol.k:
            raise TfserError(f"{where}: {count} utterances cannot fill {protocol.k} folds")
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE dealt AS SELECT key AS name, "
            f"((row_number() OVER (ORDER BY md5(key), key) - 1) % {protocol.k} + 1)::INTEGER AS fold FROM members"
        )
        return _DEALT, "NULL::VARCHAR", protocol.k
    # In the order in which people count (S2 before S10), so that fold numbers are those that papers print.
    counted: Sequence[tuple[str, int]] = connection.execute(
        'SELECT "group", count(*) FROM members WHERE "group" IS NOT NULL GROUP BY 1'
    ).fetchall()
    groups = dict(sorted(counted, key=lambda row: natural_key(row[0])))
    if protocol.groups is not None:
        folds_of = {name: fold for fold, names in enumerate(protocol.groups, 1) for name in names}
        folds = len(protocol.groups)
        _check_listed(folds_of, groups, protocol, where)
    else:
        if len(groups) < 2:
            raise TfserError(f"{where}: the column {protocol.grouped_by} has {_words(groups)}; at least two groups are needed")
        try:
            if protocol.k and protocol.stratified:
                folds_of = deal_strata(_strata(connection, protocol), protocol.k)
            else:
                folds_of = deal(groups, protocol.k) if protocol.k else {name: i for i, name in enumerate(groups, 1)}
        except TfserError as error:
            raise TfserError(f"{where}: {error}") from error
        folds = max(folds_of.values())
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE dealt AS SELECT unnest(?) AS name, unnest(?)::INTEGER AS fold",
        [list(folds_of), list(folds_of.values())],
    )
    if protocol.others == "train":  # who is in no list trains in every fold, whichever of them bears the row
        listed = 'm."group" IS NOT NULL AND m."group" NOT IN (SELECT name FROM dealt)'
        return f"CASE WHEN {listed} THEN 1 ELSE {_DEALT} END", f"CASE WHEN {listed} THEN 'train' END", folds
    return _DEALT, "NULL::VARCHAR", folds


def _crossed(connection: Connection, protocol: Protocol, where: str) -> tuple[str, str, int]:
    """Return the SQL of fold and role where several columns are kept apart at once: a fold a cell that somebody is in.

    Each column's values are dealt into parts by themselves; `cells` has the parts of each fold, by which `hold_out` tells who
    shares some of them.
    """
    columns = [(protocol.grouped_by, protocol.k), *protocol.crossed]
    names = ['"group"', *(f"crossed_{i}" for i in range(len(protocol.crossed)))]
    # Each column is dealt by itself, so that its parts are the same whatever the others are.
    places: list[str] = []
    for (column, k), name in zip(columns, names, strict=True):
        counted = connection.execute(f"SELECT {name}, count(*) FROM members WHERE {name} IS NOT NULL GROUP BY 1").fetchall()
        groups = dict(sorted(counted, key=lambda row: natural_key(row[0])))
        if len(groups) < 2:
            raise TfserError(f"{where}: the column {column} has {_words(groups)}; at least two groups are needed")
        try:
            dealt = deal(groups, k) if k else {value: i for i, value in enumerate(groups, 1)}
        except TfserError as error:
            raise TfserError(f"{where}, column {column}: {error}") from error
        words = ", ".join("(?, ?::INTEGER)" for _ in dealt)
        values = [cell for pair in dealt.items() for cell in pair]
        place = f"place_{len(places)}"
        connection.execute(f"CREATE OR REPLACE TEMP TABLE dealt AS SELECT * FROM (VALUES {words}) v(name, place)", values)
        connection.execute(f"ALTER TABLE members ADD COLUMN {place} INTEGER")
        connection.execute(f"UPDATE members SET {place} = (SELECT d.place FROM dealt d WHERE d.name = members.{name})")
        places.append(place)
    # A fold is a combination of parts that somebody is in; empty ones would be folds that test nobody.
    of_all = ", ".join(places)
    known = " AND ".join(f"{place} IS NOT NULL" for place in places)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE cells AS SELECT {of_all}, row_number() OVER (ORDER BY {of_all})::INTEGER AS fold "
        f"FROM members WHERE {known} GROUP BY {of_all}"
    )
    connection.execute(f"UPDATE members SET \"group\" = concat_ws(' / ', {', '.join(names)})")
    same = " AND ".join(f"c.{place} = m.{place}" for place in places)
    folds = (connection.execute("SELECT count(*) FROM cells").fetchone() or (0,))[0]
    return f"(SELECT c.fold FROM cells c WHERE {same})", "NULL::VARCHAR", int(folds)


def _published(connection: Connection, protocol: Protocol, where: str) -> tuple[str, str, int]:
    """Return the SQL of fold and role where a published split says them by utterance."""
    published = published_lists()[str(protocol.listed)]
    corpora = [row[0] for row in connection.execute("SELECT DISTINCT corpus FROM members").fetchall()]
    placed = placed_list(connection, published, corpora[0]) if corpora else None
    if placed is None or not placed.folds:
        raise TfserError(f"{where}: none of the {published.rows:,} files that {published.name} lists is an utterance of it")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE dealt AS SELECT unnest(?) AS name, unnest(?)::INTEGER AS fold, unnest(?)::VARCHAR AS role",
        [list(placed.folds), list(placed.folds.values()), list(placed.roles.values())],
    )
    return _DEALT, '(SELECT d.role FROM dealt d WHERE d.name = m."group")', published.folds


def placed_list(connection: Connection, of: PublishedList, corpus: str) -> Placed:
    """Return where a published split puts the utterances of a corpus of an open catalogue."""
    utterances = connection.execute(
        "SELECT utterance_id, path, split FROM utterances WHERE corpus = ? ORDER BY utterance_id", [corpus]
    ).fetchall()
    return place_list(of, corpus, utterances)


_DEALT = '(SELECT d.fold FROM dealt d WHERE d.name = m."group")'


def _sides(connection: Connection, protocol: Protocol, where: str) -> tuple[str, str, int]:
    """Return the SQL of fold and role where roles are fixed: one fold."""
    sides = dict(protocol.sides or {})
    groups = {row[0] for row in connection.execute('SELECT DISTINCT "group" FROM members').fetchall()}
    if protocol.grouped_by == "split" and all(name == role for name, role in sides.items()):
        if not {"train", "test"} <= groups:
            raise TfserError(
                f"{where}: the column split must say train and test; it says {_words(groups)}. A protocol of your own says which "
                'value is which side: grouped_by = "split" and a table [sides] (docs/protocols.md)'
            )
    else:
        _check_listed(sides, groups, protocol, where)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE dealt AS SELECT unnest(?) AS name, unnest(?) AS role", [list(sides), list(sides.values())]
    )
    role = '(SELECT d.role FROM dealt d WHERE d.name = m."group")'
    if protocol.others == "train":
        role = f"CASE WHEN m.\"group\" IS NOT NULL THEN coalesce({role}, 'train') END"
    return f"CASE WHEN {role} IS NOT NULL THEN 1 END", role, 1


def _check_listed(listed: Mapping[str, object], present: Mapping[str, int] | set[str], protocol: Protocol, where: str) -> None:
    """Make sure that the corpora have every group that a protocol lists, under some label.

    Raises:
        TfserError: if one is missing: a misspelt group would silently leave a fold without it.
    """
    for name in listed:
        if name not in present:
            raise TfserError(
                f"{where}: it lists {name!r} of the column {protocol.grouped_by}, which takes no part: there is no such value, "
                f"or its utterances have none of the labels; there are {_words(present)}"
            )


def _words(values: object) -> str:
    names = sorted(str(v) for v in values) if isinstance(values, (set, dict)) else []
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
