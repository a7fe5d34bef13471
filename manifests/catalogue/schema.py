"""The catalogue's tables: names, columns, types and what they mean. DDL and docs/schema.md are both made from this."""

from __future__ import annotations

from tfser.manifests.catalogue.declared import declared_tables

VERSION = 12
"""Raised when a table changes: an older catalogue is then rebuilt from the files, never read."""

TABLES = declared_tables()
"""All of them, those of the data first, then those of raters, then those of what was learned."""


def markdown() -> str:
    """Return docs/schema.md."""
    lines = [
        "# The catalogue's tables",
        "",
        "Made by `tfser manifest schema`; a test compares. Open the file with `tfser sql`, with Python's `duckdb`, or with the",
        'plain `duckdb` shell: `duckdb -readonly "$(tfser manifest path)"`.',
        "",
    ]
    for table in TABLES:
        lines += [f"## {table.name}", "", table.summary + (" (A view.)" if table.view else ""), ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [f"| {name} | {kind} | {meaning} |" for name, kind, meaning in table.columns]
        lines.append("")
    return "\n".join(lines)
