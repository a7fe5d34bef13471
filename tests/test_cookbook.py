"""docs/cookbook.md: every statement is run on the synthetic corpus, and gives what the page says.

Set TFSER_WRITE_COOKBOOK=1 to write the answers into the page instead.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, ensure_protocol, open_catalogue
from tfser.manifests.catalogue.statements import select
from tfser.manifests.display import Output, print_rows
from tfser.pipeline.copies.fingerprints import update_fingerprints
from tfser.pipeline.copies.search import search
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan

from .conftest import fill_with_tones

PAGE = Path(__file__).parents[1] / "docs" / "cookbook.md"
ENTRY = re.compile(
    r"### (?P<title>\d+\. [^\n]*)\n(?:(?!###|```)[^\n]*\n)*```sql\n(?P<query>.*?)```\n(?:\n```text\n(?P<answer>.*?)```\n)?", re.S
)


def entries() -> list[re.Match[str]]:
    return list(ENTRY.finditer(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """What the page's commands make."""
    root = tmp_path_factory.mktemp("cookbook")
    cache = Cache(root / "cache")
    scan(cache, CORPORA["synthetic"], corpus="synthetic", root=root)
    extract(cache, "synthetic", feature_set("logmel", {}, "float32"))
    for spec in ("random-kfold:4", "group-kfold:4"):
        ensure_protocol(cache, "synthetic", spec)
    update_fingerprints(cache, "synthetic")
    search(cache, "synthetic")
    with open_catalogue(cache) as connection:
        yield connection


def answer(connection: Connection, query: str) -> str:
    """What `tfser sql` prints."""
    found = select(connection, query)
    names = found.names
    rows = [dict(zip(names, row, strict=True)) for row in found.rows]
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_rows(rows, Output.table, names)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def test_there_are_twenty() -> None:
    assert [int(e["title"].partition(".")[0]) for e in entries()] == list(range(1, 21))


def test_every_statement_has_the_columns_of_its_answer(tmp_path: Path) -> None:
    """On a cache of a few tones, and without the search for copies; the answers themselves are compared in the slow test."""
    cache = Cache(tmp_path / "cache")
    fill_with_tones(cache, tmp_path, seconds=0.2, each=(1, 1))
    with open_catalogue(cache) as connection:
        for entry in entries():
            assert select(connection, entry["query"]).names == entry["answer"].partition("\n")[0].split(), entry["title"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_every_answer_is_the_page_s(catalogue: Connection, number: int) -> None:
    entry = entries()[number]
    found = answer(catalogue, entry["query"])
    if os.environ.get("TFSER_WRITE_COOKBOOK"):
        text = PAGE.read_text(encoding="utf-8")
        end = entry.end("query") + len("```\n")
        PAGE.write_text(f"{text[:end]}\n```text\n{found}```\n{text[entry.end() :]}", encoding="utf-8")
    else:
        assert found == entry["answer"], "if it should be so: TFSER_WRITE_COOKBOOK=1 python -m pytest tests/test_cookbook.py"
