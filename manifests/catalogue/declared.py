"""How a table of the catalogue is declared: a name, what it holds, and a line a column.

In: text that people read. Out: `Table`, of which the DDL and docs/schema.md are made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table or view, with its columns as `name TYPE -- meaning` lines."""

    name: str
    summary: str
    columns: tuple[tuple[str, str, str], ...]
    view: bool = False

    def ddl(self) -> str:
        """Return the CREATE TABLE statement."""
        body = ", ".join(f'"{name}" {kind}' for name, kind, _ in self.columns)
        return f"CREATE TABLE {self.name} ({body})"


def table(name: str, summary: str, columns: str, *, view: bool = False) -> Table:
    """Return a table whose columns are lines as `name TYPE -- meaning`."""
    rows = []
    for line in columns.strip().splitlines():
        declaration, _, meaning = line.strip().partition(" -- ")
        column, _, kind = declaration.partition(" ")
        rows.append((column, kind, meaning))
    return Table(name=name, summary=summary, columns=tuple(rows), view=view)
