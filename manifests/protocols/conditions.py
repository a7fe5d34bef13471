"""A user's own SQL condition on `utterances`: checked before it is used, so that it can only choose rows, always the same ones.

What DuckDB's own parser makes of the text is looked through: one expression, of columns that `utterances` has, without
sub-queries (which could read other tables and files) and without functions whose value changes from call to call.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tfser.manifests.connections import lock_down, open_memory
from tfser.manifests.errors import UsageError, unknown

if TYPE_CHECKING:
    import duckdb


@functools.cache
def check_condition(text: str, where: str) -> frozenset[str]:
    """Return the columns that a condition reads, in lower case.

    >>> sorted(check_condition("scenario = 'improvised' AND duration_s BETWEEN 1 AND 30", "x"))
    ['duration_s', 'scenario']

    Args:
        text: the condition.
        where: what an error calls it.

    Raises:
        UsageError: if it is none, or more than one.
    """
    tree, changing = _parsed(text, where)
    # One SELECT of one table with a WHERE and nothing else, or the text has closed the condition and begun something of its own.
    statements = tree.get("statements", [])
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = node.get("type") == "SELECT_NODE" and node.get("where_clause") and not node.get("modifiers")
    rest = ("group_expressions", "group_sets", "having", "qualify", "sample")
    if not plain or any(node.get(key) for key in rest) or (node.get("from_table") or {}).get("type") != "BASE_TABLE":
        raise UsageError(f"{where}: {text!r} is no SQL condition, but more than one expression")
    columns: set[str] = set()
    for part in _parts(node["where_clause"]):
        kind = part.get("class")
        if kind == "SUBQUERY":
            raise UsageError(f"{where}: {text!r} holds a sub-query; a condition may read only the utterance's own columns")
        if kind == "WINDOW" or str(part.get("function_name", "")).lower() in changing:
            name = part.get("function_name", "a window")
            raise UsageError(f"{where}: {text!r} calls {name}(), whose value depends on more than the utterance's own columns")
        if kind == "STAR":  # what it stands for depends on the own columns of all corpora of the cache
            raise UsageError(f"{where}: {text!r} holds a pattern of columns; name each of them")
        if kind in ("PARAMETER", "LAMBDA"):
            raise UsageError(f"{where}: {text!r} holds a {str(kind).lower()}; write plain comparisons of columns")
        if kind == "COLUMN_REF":
            columns.add(str(part["column_names"][-1]).lower())
    return frozenset(columns)


def _parsed(text: str, where: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the tree that DuckDB makes of a condition, and its functions whose value depends on more than a row.

    DuckDB itself reads it: a pattern over the text would let through what only DuckDB understands. The connection has no files,
    so nothing can be read by trying. Functions that look at other rows or at the clock would make a protocol's rows, and so its
    hash, depend on more than the corpus.

    Raises:
        UsageError: if DuckDB cannot read it.
    """
    query = f"SELECT 1 FROM utterances WHERE {text}\n"
    with _parser(os.getpid()).cursor() as connection:
        tree = json.loads((connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone() or ("{}",))[0])
    if tree.get("error"):
        message = str(tree.get("error_message", "")).splitlines()[0]
        raise UsageError(f"{where}: {text!r} is no SQL condition ({message})")
    return tree, _changing()


@functools.cache
def _parser(process: int) -> duckdb.DuckDBPyConnection:
    """Return a database of nothing that can reach nothing, opened once in each process: its parser is all that is asked of it."""
    connection = open_memory()
    lock_down(connection)
    return connection


_MISJUDGED = ("age", "current_localtime", "current_localtimestamp", "version")
"""Functions of the clock and of the program, of which DuckDB says that their value depends on what they are given alone."""


@functools.cache
def _changing() -> frozenset[str]:
    """Return the functions whose value depends on more than a row; of macros, those that ask the clock or hold a query."""
    with _parser(os.getpid()).cursor() as connection:
        found = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type = 'aggregate' OR (stability IS NOT NULL AND stability <> 'CONSISTENT') "
            r"OR regexp_matches(macro_definition, 'current_|\bsleep|\bSELECT\b')"
        ).fetchall()
    return frozenset(name for (name,) in found).union(_MISJUDGED)


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a parse tree."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _parts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _parts(value)


def check_columns(connection: duckdb.DuckDBPyConnection, needed: frozenset[str] | set[str], where: str) -> None:
    """Make sure that `utterances` has the columns that a protocol reads.

    Raises:
        UsageError: if one is missing; corpora of other kinds have other columns.
    """
    have = [row[0] for row in connection.execute("SELECT column_name FROM (DESCRIBE utterances)").fetchall()]
    known = {name.lower() for name in have}
    for name in sorted(needed):
        if name.lower() not in known:
            raise unknown(f"column of utterances, of {where},", name, have)
