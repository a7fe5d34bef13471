"""`tfser sql`: a statement in, from the argument, a file or standard input; rows out, in any format, anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.catalogue.statements import select, select_arrow
from tfser.manifests.commands.printing import SqlOutput, Writing
from tfser.manifests.display import Lines, Output, print_rows
from tfser.manifests.errors import UsageError
from tfser.manifests.outputs import write_parquet
from tfser.manifests.streams import is_file, standard_input
from tfser.manifests.texts import read_text


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT, a file that holds it, or - (or nothing) for standard input.")] = "-",
    *,
    writing: Writing,
) -> None:
    """Ask the catalogue; tables and columns are in docs/schema.md (`tfser manifest schema`).

    Example:
        tfser sql "SELECT corpus, label, count(*) AS n FROM utterances GROUP BY ALL ORDER BY ALL" --format csv
    """
    kind = writing.kind()
    text = _query_text(query)
    with open_catalogue(writing.store) as connection:
        if kind is SqlOutput.parquet and writing.output is not None:
            table = select_arrow(connection, text)
            write_parquet(writing.output, table.rename_columns(_distinct(table.column_names)))
            writing.say_written(table.num_rows)
            return
        found = select(connection, text)
    names = _distinct(found.names)
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in found.rows]
    if found.is_plan and kind is SqlOutput.table:  # a drawing, whose lines are lines
        rows = [{name: Lines(str(value).split("\n")) for name, value in row.items()} for row in rows]
    writing.deliver(rows, lambda: print_rows(rows, Output.table, names), names=names)


def _query_text(query: str) -> str:
    """Return the statement of the argument: itself, or what the file of that name or standard input holds."""
    if query == "-":
        if sys.stdin.isatty():
            raise UsageError("give a SELECT, a file that holds one, or send one to standard input")
        return standard_input()
    if is_file(query):
        return read_text(Path(query), query)
    if query.endswith(".sql") and len(query.split()) == 1:
        raise UsageError(f"{query}: no such file")
    return query


def _distinct(names: Sequence[str]) -> list[str]:
    """Number columns that share a name, so that none hides another."""
    result: list[str] = []
    for name in names:
        unique, n = name, 1
        while unique in result:
            n += 1
            unique = f"{name}_{n}"
        result.append(unique)
    return result
