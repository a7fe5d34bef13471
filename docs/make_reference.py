"""Writes docs/reference.md from the program itself: every command with its words, arguments, options and example.

    python docs/make_reference.py > docs/reference.md

In goes the contents page of `tfser.cli`, out comes Markdown on standard output. A test compares the page with what this gives, so
that the page never says what the program does not. Nothing is read from the cache or the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from tfser.cli import CONTENTS, app
from tfser.manifests.commands.program import help_panels

HEAD = """# Reference of the command line

Made by `python docs/make_reference.py > docs/reference.md` from the program; a test compares. The same text stands in
each command's `--help`. A command exits with 0 where all went well, 1 where something failed or an audit found an error, 2 where
the request itself is off, and 130 after Ctrl-C. Results go to standard output, everything said beside them to standard error;
`--debug` anywhere shows the traceback of an error. Words of the field are explained in the [glossary](glossary.md)."""


def reference() -> str:
    """Return the page."""
    program: Any = typer.main.get_command(app)
    parts = [HEAD]
    for stage in CONTENTS:
        parts.append(f"## {stage.heading}")
        for line in stage.lines:
            command = program
            for word in line.name.split():
                command = command.commands[word]
            parts += _command(f"tfser {line.name}", command.loaded())
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    """Yield the paragraphs of one command."""
    context = typer.Context(command, info_name=name)
    yield f"### {name}"
    yield _plain(str(command.help))
    singular = {"Arguments": "Argument", "Options": "Option"}
    panels = {singular.get(heading, heading): records for heading, records in help_panels(command, context).items()}
    panels["Option"] = [record for record in panels["Option"] if record[0] != "--help"]
    # One table for all, with the headings in its rows: pages with a table a heading are hard to read through.
    rows = [row for heading, records in panels.items() for row in _rows(heading, records)]
    if rows:
        yield "\n".join(["| kind | argument or option | meaning |", "|---|---|---|", *rows])
    yield f"```sh\n{command.epilog}\n```"


def _rows(heading: str, records: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the rows of a heading's options; the heading stands before the first."""
    for number, (option, meaning) in enumerate(records):
        first = "" if number else heading
        words = _cell(_plain(meaning)).replace("<", "&lt;")  # or a page shows nothing there
        yield f"| {first} | {_code(option)} | {words} |"


def _code(option: str) -> str:
    """Return an option as code within a table's cell."""
    return f"`{_cell(option)}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _plain(text: str) -> str:
    """Return words with each paragraph on one line."""
    return "\n\n".join(re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n"))


if __name__ == "__main__":
    print(reference(), end="")
