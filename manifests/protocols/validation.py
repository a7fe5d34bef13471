"""Who validates: the policies by which some of the training side is held out to choose an epoch on.

    none                nobody: train on all but the test side
    next-group          fold k validates on the group that fold k + 1 tests, cyclically: with folds by session, the next session
    next-part           of folds that keep several columns apart: the cell that is next in all of them, cyclically; whoever
                        shares one of the columns with it, and not all, is of neither side, as with the tested cell
    speakers:N          N speakers of the training side
    random-leaky:SHARE  that share of utterances, whoever speaks: validation then knows the voices, hence the name
    split               what the corpus calls val (official splits; not asked for, but declared)

The choice is one of MD5 sums, not of a random generator: it is the same on every machine, and other rows do not change it.

* `speakers:N` holds out, in fold k, those N speakers of its training side whose MD5 of `k TAB speaker` is smallest. Speakers who
  are tested in the same fold are not chosen. Over several corpora a speaker is called `corpus/speaker`.
* `random-leaky:SHARE` orders the protocol's utterances (but those that only test) by the MD5 of their ids; the first SHARE of
  them, rounded up, validate wherever they would train.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.protocols.protocol import Protocol
from tfser.manifests.protocols.speakers import named

if TYPE_CHECKING:
    import duckdb

NEXT_PART = "next-part"

POLICIES = ("none", "next-group", "speakers:N", "random-leaky:SHARE", NEXT_PART)
"""What can be asked for, as it is written."""

WITHOUT_VAL = ("none", "split")
"""Policies under which a fold may have no validation side."""

HOLDING_OUT = ("parted", "held", "voices", "heard")
"""The temporary tables of `hold_out`."""


def canonical_policy(text: str) -> str:
    """Return the one way to write a policy.

    >>> canonical_policy("speakers:01"), canonical_policy("random-leaky:.10"), canonical_policy("next-group")
    ('speakers:1', 'random-leaky:0.1', 'next-group')
    >>> canonical_policy("random:0.1")
    Traceback (most recent call last):
    ...
    tfser.manifests.errors.UsageError: validation policy 'random:0.1': random utterances share their speakers with ...

    Raises:
        UsageError: if there is no such policy, or its number is off.
    """
    name, _, number = text.partition(":")
    if text in ("none", "next-group", NEXT_PART):
        return text
    if name == "speakers":
        if re.fullmatch("[0-9]{1,6}", number) and int(number):
            return f"speakers:{int(number)}"
        raise UsageError(f"validation policy {text!r}: say how many speakers of the training side: speakers:1")
    if name == "random-leaky":
        if match := re.fullmatch(r"0?\.([0-9]{0,5}[1-9])0*", number):
            return f"random-leaky:0.{match[1]}"
        raise UsageError(f"validation policy {text!r}: say which share, between 0 and 1: random-leaky:0.1")
    if name == "random":
        raise UsageError(
            f"validation policy {text!r}: random utterances share their speakers with training; if that is meant, call it "
            f"random-leaky:{number or '0.1'}"
        )
    raise unknown("validation policy", text, POLICIES)


def hold_out(connection: duckdb.DuckDBPyConnection, protocol: Protocol, folds: int, where: str) -> None:
    """Make the temporary tables `parted` and `held` of `placed`, as the protocol's policy says.

    `placed` has a row an utterance: corpus, utterance_id, key (what the utterance is called in the protocol), label, group, fold,
    role, speaker, voice (what the speaker is called in the protocol). `parted` is that with `part`, `held` says (corpus, part,
    fold, role, reason): who of the training side validates there (val), or is of no side (out), and why.

    Args:
        connection: an open catalogue.
        protocol: the protocol.
        folds: how many it has.
        where: protocol and corpus in words, for errors.

    Raises:
        TfserError: if there is too little to hold out.
    """
    policy, _, number = protocol.validation.partition(":")
    if protocol.crossed:
        if policy not in ("none", NEXT_PART):
            raise UsageError(f"{where}: folds that keep several columns apart at once validate by {NEXT_PART}, not by {policy}")
        _leave_out(connection, protocol, policy == NEXT_PART, where)
        return
    if policy == NEXT_PART:
        raise UsageError(f"{where}: {NEXT_PART} is of folds that keep several columns apart at once; take next-group")
    if policy == "next-group" and folds < 3:
        raise TfserError(
            f"{where}: next-group validation needs three folds, there are {folds}; hold out training speakers instead "
            "(--validation speakers:1), or take a protocol of more folds"
        )
    if policy == "speakers":
        _speakers(connection, int(number), folds, where)
    elif policy == "random-leaky":
        _random(connection, number, folds, where)
    else:
        connection.execute("CREATE OR REPLACE TEMP TABLE parted AS SELECT *, NULL::INTEGER AS part FROM placed")
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE held (corpus VARCHAR, part INTEGER, fold INTEGER, role VARCHAR, reason VARCHAR)"
        )


def _leave_out(connection: duckdb.DuckDBPyConnection, protocol: Protocol, validates: bool, where: str) -> None:
    """Leave out of each fold who shares one of the columns with those that it tests, and not all: they are of neither side.

    Where a fold validates, it does so on the cell of the next part of every column, and the same holds of that one.

    Raises:
        TfserError: a column has two parts alone, or nobody is in the next cell of a fold.
    """
    columns = [protocol.grouped_by, *(column for column, _ in protocol.crossed)]
    tested = [f"c.place_{i} = k.place_{i}" for i in range(len(columns))]
    connection.execute("CREATE OR REPLACE TEMP TABLE parted AS SELECT *, fold AS part FROM placed")
    role, reason, away = "'out'", _shares("tested", columns, tested), " OR ".join(tested)
    if validates:
        tops = ", ".join(f"max(place_{i})" for i in range(len(columns)))
        parts = connection.execute(f"SELECT {tops} FROM cells").fetchone() or ()
        if few := [column for column, n in zip(columns, parts, strict=True) if n < 3]:
            raise TfserError(f"{where}: {NEXT_PART} validation needs three parts of each column; {few[0]} has two")
        following = [f"c.place_{i} = k.place_{i} % {n} + 1" for i, n in enumerate(parts)]
        is_next = " AND ".join(following)
        lacking = connection.execute(
            f"SELECT k.fold FROM cells k WHERE NOT EXISTS (SELECT 1 FROM cells c WHERE {is_next}) ORDER BY 1 LIMIT 1"
        ).fetchone()
        if lacking:
            raise TfserError(f"{where}: fold {lacking[0]} has no validation side: nobody is in the next part of every column")
        role = f"CASE WHEN {is_next} THEN 'val' ELSE 'out' END"
        of_next = _shares("validating", columns, following)
        reason = f"CASE WHEN {is_next} THEN NULL WHEN {away} THEN {reason} ELSE {of_next} END"
        away = " OR ".join([away, *following])
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE held AS SELECT p.corpus, c.fold AS part, k.fold, {role} AS role, {reason} AS reason "
        f"FROM cells c JOIN cells k ON c.fold <> k.fold AND ({away}) "
        "JOIN (SELECT DISTINCT corpus, fold FROM placed) p ON p.fold = c.fold"
    )


def _shares(side: str, columns: list[str], conditions: list[str]) -> str:
    """Return the SQL of why somebody is left out: which columns of a side it shares."""
    words = ", ".join(f"CASE WHEN {one} THEN '{column}' END" for column, one in zip(columns, conditions, strict=True))
    return f"'of the {side} ' || concat_ws(' and ', {words})"


def _check_no_val(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    if (connection.execute("SELECT count(*) FROM placed WHERE role = 'val'").fetchone() or (0,))[0]:
        raise UsageError(f"{where} has its own validation side; leave the policy out")


def _speakers(connection: duckdb.DuckDBPyConnection, number: int, folds: int, where: str) -> None:
    _check_no_val(connection, where)
    # An utterance of an unknown speaker may be of the one who is held out, so nobody can be held out for sure.
    nameless = connection.execute(
        f"SELECT count(*), min(key) FROM placed WHERE {named('speaker')} IS NULL AND fold IS NOT NULL "
        "AND role IS DISTINCT FROM 'test'"
    ).fetchone() or (0, None)
    if nameless[0]:
        raise TfserError(
            f"{where}: {nameless[0]} utterances name no speaker ({nameless[1]}), so no speaker can be held out for sure; fill "
            "the column speaker and scan again, or take another validation policy"
        )
    # A speaker is a part, which is held out as a whole or not at all.
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE voices AS SELECT corpus, voice, row_number() OVER (ORDER BY voice)::INTEGER AS part "
        "FROM placed WHERE voice IS NOT NULL GROUP BY corpus, voice"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE parted AS SELECT p.*, v.part FROM placed p LEFT JOIN voices v ON v.voice = p.voice"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE heard AS "
        "WITH spoken AS (SELECT DISTINCT part, fold AS tested_in, role FROM parted WHERE part IS NOT NULL AND fold IS NOT NULL) "
        "SELECT k.fold, s.part, bool_or(coalesce(s.role = 'test', s.tested_in = k.fold)) AS tested "
        "FROM spoken s, (SELECT unnest(range(1, ? + 1))::INTEGER AS fold) k GROUP BY ALL",
        [folds],
    )
    # Counted before they are held out: a fold must keep somebody to train on.
    few = connection.execute(
        "SELECT fold, count(*) FILTER (NOT tested) AS n FROM heard GROUP BY fold HAVING n <= ? ORDER BY fold LIMIT 1", [number]
    ).fetchone()
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE held AS SELECT corpus, part, fold, 'val' AS role, NULL::VARCHAR AS reason "
        "FROM heard JOIN voices v USING (part) WHERE NOT tested "
        "QUALIFY row_number() OVER (PARTITION BY fold ORDER BY md5(fold || chr(9) || v.voice), v.voice) <= ?",
        [number],
    )
    if few:
        raise TfserError(
            f"{where}: fold {few[0]} trains on {few[1]} speakers that it does not test; "
            f"speakers:{number} would leave none of them"
        )


def _random(connection: duckdb.DuckDBPyConnection, share: str, folds: int, where: str) -> None:
    _check_no_val(connection, where)
    digits = share.partition(".")[2]
    numerator, denominator = int(digits), 10 ** len(digits)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE parted AS SELECT * EXCLUDE (place, many, only_tests), "
        f"CASE WHEN NOT only_tests AND place <= (many * {numerator} + {denominator - 1}) // {denominator} THEN 1 END::INTEGER "
        "AS part "
        "FROM (SELECT *, coalesce(role = 'test', FALSE) OR fold IS NULL AS only_tests, "
        "row_number() OVER (PARTITION BY only_tests ORDER BY md5(key), key) AS place, "
        "count(*) OVER (PARTITION BY only_tests) AS many FROM placed)"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE held AS SELECT DISTINCT corpus, part, unnest(range(1, ? + 1))::INTEGER AS fold, "
        "'val' AS role, NULL::VARCHAR AS reason FROM parted WHERE part IS NOT NULL",
        [folds],
    )
