"""Statements that users write: what `tfser sql` and audits accept, and how it is run.

Goes in: a text. Comes out: the rows of one statement that reads. What may be run is decided by DuckDB's own parser, before
anything is run; the connection, from `open_catalogue`, could reach nothing else anyway.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import duckdb

from tfser.manifests.connections import Connection, interruptibly
from tfser.manifests.errors import UsageError, first_line

_COMMENT = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_EXPLAIN = re.compile(_COMMENT + r"EXPLAIN\b\s*(?:ANALY[ZS]E\b|\(\s*(?:ANALY[ZS]E|FORMAT)\b[^)]*\))?", re.I | re.S)
_PIVOT = re.compile(_COMMENT + r"(?:PIVOT|WITH|FROM|SELECT)\b", re.I | re.S)
_PRAGMA = re.compile(
    _COMMENT + r"PRAGMA\s+(?:table_info|show|show_tables|show_tables_expanded|database_size|database_list|storage_info"
    r"|version)\b",
    re.I | re.S,
)


class Answer(NamedTuple):
    """What a statement gave."""

    names: list[str]
    """Of the columns; they may hold one twice."""
    rows: list[tuple[Any, ...]]
    is_plan: bool
    """Whether it is what EXPLAIN draws, in lines."""


def select(connection: Connection, query: str) -> Answer:
    """Run one reading statement.

    Raises:
        UsageError: if the text is empty, holds several statements, or one that writes, or if DuckDB refuses it; the message
            is then DuckDB's own.
    """

    def ask() -> tuple[list[str], list[tuple[Any, ...]]]:
        result = connection.execute(query)
        return [column[0] for column in result.description or ()], result.fetchall()

    with _only_reading(query) as kind:
        return Answer(*interruptibly(connection, ask), is_plan=kind == "EXPLAIN")


def select_part(connection: Connection, query: str, first: int, most: int) -> Answer:
    """Run one reading statement, and return so many rows of what it gives, from the row `first` (0 is the first) on.

    Of a SELECT no more than these rows are ever held.

    Raises:
        UsageError: as `select`.
    """
    with _only_reading(query) as kind:
        pass
    if kind == "SELECT":
        return select(connection, f"SELECT * FROM (\n{one_select(query)}\n) LIMIT {most:d} OFFSET {first:d}")
    found = select(connection, query)
    return found._replace(rows=found.rows[first : first + most])


def select_arrow(connection: Connection, query: str) -> Any:
    """Run one reading statement and return its result as an Arrow table.

    Raises:
        UsageError: as `select`.
    """
    with _only_reading(query), warnings.catch_warnings():
        # DuckDB 2 remarks that this copies the rows; its other way refuses a connection that is in use.
        warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")
        return interruptibly(connection, lambda: connection.execute(query).to_arrow_table())


def one_select(text: str) -> str:
    """Return the one SELECT that a text holds, without the semicolon and what is behind it.

    Raises:
        UsageError: if it holds none, more than one, or any other statement; the message is DuckDB's where it cannot be parsed.
    """
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise UsageError(first_line(error, 2)) from error
    if len(statements) != 1 or statements[0].type.name != "SELECT":
        found = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise UsageError(f"the file must hold one SELECT and no other statement; it holds {found}")
    content = text.encode()
    ends = [start for start, _ in duckdb.tokenize(text) if content[start : start + 1] == b";"]
    return content[: ends[0] if ends else None].decode().strip()


@contextlib.contextmanager
def _only_reading(query: str) -> Iterator[str]:
    """Refuse a statement that writes before it is run, and turn DuckDB's errors into ours; yield the statement's kind."""
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1:
            raise UsageError(f"SQL: give one statement, not {len(statements)}")
        kind = statements[0].type.name
        if (writing := _writes(query, kind)) is not None:
            raise UsageError(f"SQL: only statements that read are run here, not {writing}; the cache is not edited by SQL")
        yield kind
    except duckdb.PermissionException as error:
        raise UsageError(
            "SQL: only the catalogue's tables can be read here, no file, no address and no setting "
            f"({first_line(error)}); `tfser manifest schema` lists the tables"
        ) from error
    except duckdb.Error as error:
        raise UsageError(f"SQL: {first_line(error, 2)}") from error


def _writes(query: str, kind: str) -> str | None:
    """Return what kind of writing statement this is, None for one that reads."""
    if kind == "SELECT" or (kind == "MULTI" and _PIVOT.match(query)) or (kind == "PRAGMA" and _PRAGMA.match(query)):
        return None
    if kind == "EXPLAIN" and (start := _EXPLAIN.match(query)):  # with ANALYZE, what it explains is run
        inner = duckdb.extract_statements(query[start.end() :])
        if len(inner) == 1:
            return _writes(query[start.end() :], inner[0].type.name)
    return kind
