"""The documents run: docstring examples, the README's commands, the schema's page, links and figures of speech."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from tfser.cli import app
from tfser.heads.reports.wishes import PLOTS
from tfser.manifests.catalogue import schema

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("manifests", "pipeline", "heads")


class Finder(doctest.DocTestFinder):
    """Asks an object for its module; doctest's own looks through all modules that are loaded, of torch thousands."""

    def _from_module(self, module: ModuleType | None, object: Any) -> bool:
        return isinstance(object, property) or module is None or getattr(object, "__module__", None) == module.__name__


@pytest.mark.parametrize("room", ROOMS)
def test_docstring_examples_run(room: str) -> None:
    """Of every module of a room."""
    runner, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), 0
    for path in sorted((ROOT / room).rglob("*.py")):
        if ">>>" not in path.read_text(encoding="utf-8"):
            continue  # to look through all that a module imports takes longer than its examples
        name = "tfser." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for example in Finder(exclude_empty=True).find(importlib.import_module(name), name):
            result = runner.run(example)
            tried += result.attempted
            assert result.failed == 0, example.name
    assert tried > 5


def test_the_schema_page_is_made_by_the_program() -> None:
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    assert page == schema.markdown(), "run: tfser manifest schema > docs/schema.md"


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    inline = [shlex.split(line) for line in re.findall(r"`(tfser [^`|]*)`", text)]
    return [words for words in lines + inline if words and words[0] == "tfser"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for words in commands(page.read_text(encoding="utf-8")):
        command, rest = group, words[1:]
        while rest and hasattr(command, "commands"):
            assert rest[0] in command.commands or rest[0].startswith("-"), f"{page.name}: {' '.join(words)}"
            if rest[0].startswith("-"):
                break
            command, rest = command.commands[rest[0]], rest[1:]
        command = command.loaded() if hasattr(command, "loaded") else command
        options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts} | {"--help"}
        used = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert used <= options, f"{page.name}: {' '.join(words)}: no option {used - options}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_a_page_and_names_the_test_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120 and re.search(r"^make test\b", text, re.M)


def test_every_figure_stands_on_the_page_of_figures() -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert [kind for kind in PLOTS if f"`{kind}`" not in page.partition("## Figures")[2]] == []


def test_nothing_of_a_machine_is_in_the_tree() -> None:
    """Paths of one machine, and placeholders."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: which files belong to the tree is unknown")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"cli.py", "README.md", "docs/methods.md"} <= set(files)
    for name in files:
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".sql", ".txt", ""} and name != "tests/test_docs.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"/(home|root|work)/\w+|\bTODO\b|\bFIXME\b|\bRESULTS\n", text), name


def test_the_tree_of_the_house_names_every_file() -> None:
    """docs/design.md: a file that is added has its line there, and nothing stands there that is gone."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tree = page[page.index("## The tree") : page.index("## Two walks")]
    words = set(re.findall(r"[a-z_0-9]+", tree))
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            of_a_family = path.parent.name in ("corpora", "encoders", "models", "commands")
            assert path.stem in words or path.name == "__init__.py" or of_a_family, path
    folders = {path.parent.name for path in ROOT.glob("*/*/__init__.py")} - {"tests"}
    assert folders <= words
