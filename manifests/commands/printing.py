"""What commands that show something have in common: which cache, which format, and where to.

In: the options `--cache`, `--format` and `--output`, as dataclasses that commands take. Out: the cache, and rows printed or
written as asked. What the rows are is the commands' business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from tfser.manifests.cache import Cache
from tfser.manifests.display import Output, TableOutput, markdown_lines, print_json, print_rows, say, show
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.outputs import check_output, format_of, output_to, write_parquet
from tfser.manifests.wording import count


class SqlOutput(StrEnum):
    """How `tfser sql`, `scores` and `compare` write their result."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


Format = Annotated[Output, Option("How to print the result.")]
"""Of commands that need no cache."""


@dataclass(frozen=True, kw_only=True)
class InCache:
    """The cache that a command works on."""

    panel: ClassVar[str] = "Output and cache"
    cache: Annotated[Path | None, Option("Cache folder; else $TFSER_CACHE, else the user's cache folder.", metavar="DIR")] = None

    @property
    def store(self) -> Cache:
        """The cache.

        Raises:
            UsageError: if it is a file.
        """
        return Cache(self.cache)


@dataclass(frozen=True, kw_only=True)
class Printing(InCache):
    """How a list is printed."""

    format: Format = Output.table


@dataclass(frozen=True, kw_only=True)
class PrintingTables(InCache):
    """How a table of results is printed, which may go into a paper."""

    format: Annotated[TableOutput, Option("How to print the table.")] = TableOutput.table


@dataclass(frozen=True, kw_only=True)
class Writing(InCache):
    """How rows are written, and where to."""

    format: Annotated[SqlOutput | None, Option("How to write the result; by the output's suffix if left out.")] = None
    output: Annotated[Path | None, Option("Write there instead of standard output.", metavar="FILE")] = None

    def kind(self) -> SqlOutput:
        """Return how to write: as asked, else by the output's suffix (.txt: a table), else a table; and look at the output.

        Raises:
            UsageError: if the output cannot be written, or nothing says how.
        """
        check_output(self.output)
        suffixes = ("csv", "json", "md", "parquet", "txt")
        suffix = None if self.format or self.output is None else format_of(self.output, suffixes)
        named = {"txt": SqlOutput.table, "md": SqlOutput.markdown}
        kind = self.format or (SqlOutput.table if suffix is None else named.get(suffix) or SqlOutput(suffix))
        if kind is SqlOutput.parquet and self.output is None:
            raise UsageError("--format parquet needs --output FILE")
        return kind

    def deliver(
        self,
        rows: Sequence[dict[str, Any]],
        for_people: Callable[[], None],
        *,
        names: Sequence[str] | None = None,
        as_json: Any = None,
        as_markdown: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """Write rows as asked.

        Args:
            rows: the rows.
            for_people: prints them as a table.
            names: of their columns; None: those of the first row.
            as_json: stands for the rows in JSON, if given.
            as_markdown: returns the lines that stand for the rows in Markdown, if given.
        """
        kind = self.kind()
        if kind is SqlOutput.parquet and self.output is not None:
            import pyarrow as pa

            write_parquet(self.output, pa.Table.from_pylist(list(rows)))
        else:
            with output_to(self.output):
                if kind is SqlOutput.table:
                    for_people()
                elif kind is SqlOutput.json and as_json is not None:
                    print_json(as_json)
                elif kind is SqlOutput.markdown:
                    show(*(markdown_lines(rows, names) if as_markdown is None else as_markdown()))
                else:
                    print_rows(rows, Output(kind.value), names)
        self.say_written(len(rows))

    def say_written(self, rows: int) -> None:
        """Say how many rows were written, where they went into a file."""
        if self.output is not None:
            say(f"{count(rows, 'row')} written to {self.output}")


def confirm(yes: bool, refusal: str, question: str) -> None:
    """Ask before something is taken away, unless that was answered; without a terminal there is nobody to ask.

    Raises:
        UsageError: if there is nobody.
    """
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(refusal)
        typer.confirm(question, abort=True, err=True)
