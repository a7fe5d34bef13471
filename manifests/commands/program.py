"""The program around the commands: a contents page whose commands are loaded when they are needed, help, and how it ends.

In: lines of a contents page (`Line`: name, where the function is, one sentence), by stage. Out: a group of commands for the
parser. `tfser --help` shows the sentences and imports no command; a command's module is imported when the command is run, its own
help is asked for, or its options are completed. Every error becomes one line on standard error and an exit code
(`tfser.manifests.failures`); `--debug` anywhere on the line shows the traceback instead. Nothing is computed here.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from tfser.manifests import notes
from tfser.manifests.commands.opening import opened
from tfser.manifests.errors import ReaderGoneError
from tfser.manifests.failures import INTERRUPTED, check_words, describe, interrupted
from tfser.manifests.streams import finish

WIDEST = 120
"""Columns of help on a terminal that has more; longer lines are hard to read."""


@dataclass(frozen=True)
class Line:
    """A line of the contents page.

    Attributes:
        name: of the command; of a sub-command both words, `protocol ls`.
        where: its function, `tfser.heads.commands.train:train`.
        help: one sentence: the first of the function's docstring, which a test compares.
        goes_on: whether the same command, run again after Ctrl-C, finds what it did and goes on from there.
        ends_at_once: whether the process ends with it without freeing what it made, as it only reads, computes and writes.
    """

    name: str
    where: str
    help: str
    goes_on: bool = False
    ends_at_once: bool = False


@dataclass(frozen=True)
class Stage:
    """A heading of the contents page and the lines below it."""

    heading: str
    lines: tuple[Line, ...]


def load(where: str) -> Any:
    """Return what `module:name` names, importing the module."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


class Command(TyperCommand):
    """A command whose help has a heading for each group of options, and ends with its example."""

    def __init__(self, *args: Any, help: str | None = None, **named: Any) -> None:
        words, example = parted(help or "")
        super().__init__(*args, help=words, **{**named, "epilog": example})

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the command's name in its usage, the same whatever the parser's version writes."""
        arguments = [argument_words(param) for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [str(self.options_metavar), *arguments]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, by heading; options without one come first."""
        panels = help_panels(self, ctx)
        last = [heading for heading, records in panels.items() if records][-1]
        if len(panels["Options"]) == 1 and last != "Options":  # --help alone needs no heading
            panels[last] += panels.pop("Options")
        for heading, records in panels.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example as it stands: what can be copied is not wrapped."""
        if self.epilog:
            with formatter.section("Example"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


def argument_words(param: Any) -> str:
    """Return how an argument stands in help: in brackets where it may be left out, with dots where there may be several."""
    words = str(param.metavar or param.name.upper())
    several = f"{words} ..." if param.nargs != 1 else words
    return several if param.required else f"[{several}]"


def help_record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """Return an argument or an option as help shows it, with its meaning; None where it is hidden."""
    record: tuple[str, str] | None = param.get_help_record(ctx)
    if record is None or param.param_type_name != "argument":
        return record
    # The brackets say what has to be given, so it is not said a second time.
    return argument_words(param), record[1].removesuffix("[required]").rstrip()


def help_panels(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return what help says of arguments and options, by heading: each with its meaning; those without a heading come first.

    Lines below an argument's first are the words that it may be, `word: meaning`, which have a heading of their own.
    """
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in command.get_params(ctx):
        if (record := help_record(param, ctx)) is not None:
            name, (meaning, *words) = record[0], record[1].splitlines() or [""]
            plain = "Arguments" if param.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(param, "rich_help_panel", None) or plain, []).append((name, meaning))
            if words:
                panels[name.capitalize()] = [(word, shows) for word, _, shows in (line.partition(": ") for line in words)]
    return panels


def parted(docstring: str) -> tuple[str, str]:
    """Return the words of a command's docstring and the lines of its example; what it raises and returns is for its callers.

    >>> parted("Train.\\n\\nRaises:\\n    X: y.\\n\\nExample:\\n    tfser train\\n    tfser scores\\n")
    ('Train.', 'tfser train\\ntfser scores')
    """
    words, *sections = re.split(r"^(Args|Raises|Returns|Example):\n", docstring, flags=re.M)
    found = dict(zip(sections[::2], sections[1::2], strict=True))
    return words.strip(), "\n".join(line.strip() for line in found.get("Example", "").strip().splitlines())


class Unopened(TyperCommand):
    """Stands for a command that is not loaded yet, with its name and its sentence."""

    def __init__(self, line: Line) -> None:
        super().__init__(line.name.split()[-1], help=line.help, rich_markup_mode=None)
        self.line = line

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Load the command, and let it read the words."""
        return self.loaded().make_context(info_name, args, parent=parent, **extra)

    def loaded(self) -> Any:
        """Return the command itself."""
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(self.name, cls=Command)(opened(load(self.line.where)))
        return typer.main.get_command(single)


class Chapter(TyperGroup):
    """Commands that share their first word."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write every command with its whole sentence."""
        _write_commands(formatter, "Commands", {name: str(command.help) for name, command in self.commands.items()})


class Program(TyperGroup):
    """The whole program: its commands by stage, and errors as one line and an exit code, at every depth of sub-commands.

    `contents` are the stages; `chapters` the sentences of commands that have sub-commands; `names` says by option what lists
    the names that it takes (`module:name`, a collection or what returns one), for errors.
    """

    contents: ClassVar[tuple[Stage, ...]] = ()
    chapters: ClassVar[Mapping[str, str]] = {}
    names: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for line in (line for stage in self.contents for line in stage.lines):
            first, _, second = line.name.partition(" ")
            if not second:
                self.add_command(Unopened(line))
                continue
            if first not in self.commands:
                chapter = Chapter(name=first, help=self.chapters[first], no_args_is_help=True, rich_markup_mode=None)
                self.add_command(chapter)
            self.commands[first].add_command(Unopened(line))  # type: ignore[attr-defined]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the contents page."""
        widest = max(map(len, self.commands))
        for stage in self.contents:
            helps = {line.name.split()[0]: line.help for line in stage.lines}
            shown = {name.ljust(widest): self.chapters.get(name, help) for name, help in helps.items()}
            _write_commands(formatter, stage.heading, shown)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """Run the program on the words of a command line, and exit."""
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words
        words = [w for w in words if w != "--debug"]
        _show_notes()
        named["standalone_mode"], standalone = False, named.get("standalone_mode", True)
        try:
            check_words(words)
            code = super().main(words, *rest, **named)
        except ReaderGoneError:
            code = 0
        except Exception as error:
            if debug:
                raise
            code = self._failed(error)
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code == INTERRUPTED:  # the parser of options turns Ctrl-C into this, too
            _say(f"tfser: {interrupted(self.says(words, 'goes_on'))}")
        if standalone:
            sys.exit(finish(code if isinstance(code, int) else 0))
        return code

    @classmethod
    def says(cls, words: Sequence[str], what: Literal["goes_on", "ends_at_once"]) -> bool:
        """Tell whether the line of a command line's command says so of it."""
        lines = (line for stage in cls.contents for line in stage.lines)
        return any(getattr(line, what) for line in lines if line.name.split() == list(words[: len(line.name.split())]))

    def _failed(self, error: Any) -> int:
        """Say what went wrong, and return the exit code; a group without a command shows its help."""
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            return int(error.exit_code)
        message, code = describe(error, {option: _listing(where) for option, where in self.names.items()})
        _say(f"tfser: {message}")
        return code


def _listing(where: str) -> Callable[[], list[str]]:
    def known() -> list[str]:
        listed = load(where)
        return list(listed() if callable(listed) else listed)

    return known


def _write_commands(formatter: Any, heading: str, helps: Mapping[str, str]) -> None:
    with formatter.section(heading):
        formatter.write_dl(list(helps.items()))


def _say(line: str) -> None:
    from tfser.manifests.display import say  # what draws tables takes longer to import than all of `--help`

    say(line)


class _Told(logging.Handler):
    """Prints what `notes` are told, each as a line."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


def _show_notes() -> None:
    """Print the notes of the command that begins now (see `notes`) on standard error."""
    notes.forget()
    if not any(isinstance(handler, _Told) for handler in notes.LOGGER.handlers):
        notes.LOGGER.addHandler(_Told())
        notes.LOGGER.propagate = False
