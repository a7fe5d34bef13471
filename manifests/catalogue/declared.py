"""The catalogue's tables and views as `tables.toml` declares them: a name, what it holds, and a line a column.

In: that file. Out: `Table`, of which the DDL and docs/schema.md are made.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from tfser.manifests.texts import packaged


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table or view, with its columns as (name, type, meaning)."""

    name: str
    summary: str
    columns: tuple[tuple[str, str, str], ...]
    view: bool = False

    def ddl(self) -> str:
        """Return the CREATE TABLE statement."""
        body = ", ".join(f'"{name}" {kind}' for name, kind, _ in self.columns)
        return f"CREATE TABLE {self.name} ({body})"


def declared_tables() -> tuple[Table, ...]:
    """Return all of them, in the order of the file."""
    tables = tomllib.loads(packaged("manifests.catalogue", "tables.toml"))
    return tuple(
        Table(
            name=name,
            summary=" ".join(table["summary"].split()),
            columns=tuple(_column(line) for line in table["columns"].splitlines()),
            view=table.get("view", False),
        )
        for name, table in tables.items()
    )


def _column(line: str) -> tuple[str, str, str]:
    """Return a column of a line `name TYPE -- meaning`."""
    declaration, _, meaning = line.partition(" -- ")
    name, _, kind = declaration.partition(" ")
    return name, kind, meaning
