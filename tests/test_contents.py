"""The contents page: every line leads to a command and says what it does, its example can be typed, nothing is imported early."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tfser.cli import CONTENTS, Contents, app
from tfser.heads.reports.wishes import PLOTS
from tfser.manifests.commands.program import Line, load, parted

LINES = [line for stage in CONTENTS for line in stage.lines]
HEAVY = ("torch", "pyarrow", "h5py", "duckdb", "sklearn", "transformers", "rich", "numpy")


def command_of(line: Line) -> Any:
    found: Any = typer.main.get_command(app)
    for word in line.name.split():
        found = found.commands[word]
    return found.loaded()


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_line_says_what_the_command_says(line: Line) -> None:
    words, _ = parted(inspect.getdoc(load(line.where)) or "")
    first = " ".join(words.split("\n\n")[0].split())
    assert line.help.endswith(".") and (first == line.help or first.startswith(line.help + " "))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_every_command_has_examples_that_the_parser_takes(line: Line) -> None:
    command = command_of(line)
    assert command.epilog, "no example"
    for example in command.epilog.splitlines():
        program, *words = shlex.split(example)
        named = line.name.split()
        assert program == "tfser" and words[: len(named)] == named, example
        command.make_context(line.name, words[len(named) :])
    assert "Example:\n" in command.get_help(typer.Context(command))


def test_commands_take_few_parameters_and_declare_their_options() -> None:
    for line in LINES:
        function = load(line.where)
        assert len(inspect.signature(function).parameters) <= 8, line.name
        assert function.__module__.split(".")[-2] == "commands"


def test_every_kind_of_figure_is_drawn_by_something_and_stands_in_the_help() -> None:
    for kind in PLOTS.values():
        module, _, function = kind.drawn_by.partition(":")
        assert callable(getattr(import_module(f"tfser.heads.reports.{module}"), function))
    shown = CliRunner().invoke(app, ["plot", "--help"]).stdout.partition("Kind:\n")[2].partition("Output and cache:")[0]
    words = " ".join(shown.split())
    assert words == " ".join(f"{name} {kind.shows}" for name, kind in PLOTS.items())


def test_every_chapter_has_its_sentence() -> None:
    assert {line.name.split()[0] for line in LINES if " " in line.name} == set(Contents.chapters)
    assert len({line.name for line in LINES}) == len(LINES)


@pytest.mark.parametrize(("words", "heavy"), [([], HEAVY), (["cache"], HEAVY), (["train"], HEAVY[:6])])
def test_help_imports_nothing_heavy(words: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        f"import sys\nfrom tfser.cli import main\nsys.argv = {['tfser', *words, '--help']}\n"
        f"try:\n    main()\nfinally:\n    print(sorted(m for m in {heavy} if m in sys.modules), file=sys.stderr)\n"
        "    print(sorted(m for m in sys.modules if '.commands.' in m), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, commands = done.stderr.strip().splitlines()
    assert found == "[]" and "Usage: " in done.stdout
    if not words or words == ["cache"]:
        assert commands == "['tfser.manifests.commands.opening', 'tfser.manifests.commands.program']"


def completed(text: str) -> list[str]:
    """Ask as bash does for what the last word of a line may become."""
    asked = {"_TFSER_COMPLETE": "complete_bash", "COMP_WORDS": text, "COMP_CWORD": str(text.count(" "))}
    done = CliRunner().invoke(app, [], prog_name="tfser", env=asked)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_and_options() -> None:
    assert completed("tfser s") == ["scan", "sweep", "scores", "sql"]
    assert completed("tfser cache v") == ["verify"]
    assert "--protocol" in completed("tfser train --pr") and "--preset" in completed("tfser train --pr")
    assert completed("tfser protocol export --out") == ["--output"]
