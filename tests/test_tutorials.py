"""The tutorials run: each line of a `console` block that begins with `$` is typed, and what it prints is what stands below it.

    TFSER_WRITE_DOCS=1 python -m pytest tests/test_tutorials.py      writes what is printed into the pages instead

Folders are shown as below the working folder, times as they stand on the page.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.catalogue.statements import select
from tfser.manifests.utterances import Utterance

from .conftest import PutCorpus, run

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```console\n(.*?)```", re.S)
_SECONDS = re.compile(r"(?:\bunder )?\b\d+(\.\d+)? (s|min)\b(?! of audio)|\b\d+(\.\d+)? x real time|\bseconds \d+(\.\d+)?")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not DOCS.exists():
        pytest.skip("the pages are not part of an installed package")
    monkeypatch.setenv("TFSER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def tones(here: Path) -> None:
    """Write the table of the tutorial on tables, and its files but the last: anger is higher than sadness, mostly."""
    (text,) = re.findall(r"```csv\n(.*?)```", (DOCS / "tutorial_own_table.md").read_text(encoding="utf-8"), re.S)
    (here / "my.csv").write_text(text, encoding="utf-8")
    for number, row in enumerate(list(csv.DictReader(text.splitlines()))[:-1]):
        rng = np.random.default_rng(number)
        t = np.arange(16000 // 2) / 16000
        hz = {"anger": 700, "sadness": 500}.get(row["emo"], 600) * rng.uniform(0.8, 1.25)
        (here / "wavs" / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        sound = 0.1 * np.sin(2 * np.pi * hz * t) + 0.2 * rng.standard_normal(len(t))
        soundfile.write(here / "wavs" / row["file"], sound, 16000)


def typed(page: Path, here: Path, codes: tuple[int, ...] = (0,)) -> str:
    """Type a page's commands; return the page with what they print."""

    def printed(block: re.Match[str]) -> str:
        lines = []
        for line in re.findall(r"^\$ (.*)$", block[1], re.M):
            result = run(*shlex.split(line)[1:])
            assert result.exit_code in codes, (line, result.output)
            output = result.output.replace(f"{here}/", "").replace(str(here), ".")
            lines += [f"$ {line}", *(text.rstrip() for text in output.splitlines())]
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(printed, page.read_text(encoding="utf-8"))


def timeless(page: str) -> str:
    """Return a page without its times: those in words, and the column `seconds` of its tables."""
    lines, column = [], None
    for line in page.splitlines():
        if "  seconds" in line:
            column = line.index("  seconds") + len("  seconds")
        elif column is not None and (not line or line.startswith(("$", "`"))):
            column = None
        elif column is not None:
            line = line[:column].rpartition(" ")[0].rstrip() + line[column:]
        lines.append(_SECONDS.sub("TIME", line))
    return re.sub(r", (about )?TIME left", "", "\n".join(lines))


def check(page: Path, made: str) -> None:
    """Compare but for times, or write."""
    if os.environ.get("TFSER_WRITE_DOCS"):
        page.write_text(made, encoding="utf-8")
    there = page.read_text(encoding="utf-8")
    assert timeless(made) == timeless(there), f"if it should be so: TFSER_WRITE_DOCS=1 pytest {Path(__file__).name}"


def test_times_are_not_compared() -> None:
    a = "head  seconds  audit\nsvm       9.4  passed\n\nfold 1: UA 60.3%, 9 s, under 1 s left\n12 min of audio"
    b = "head  seconds  audit\nsvm         0  passed\n\nfold 1: UA 60.3%, under 1 s\n12 min of audio"
    assert timeless(a) == timeless(b) and timeless(a) != timeless(a.replace("60.3", "60.4"))


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table's files."""
    if not DOCS.exists():
        pytest.skip("the pages are not part of an installed package")
    here = tmp_path_factory.mktemp("tutorial")
    tones(here)
    return here


@pytest.mark.slow
def test_the_tutorial_on_a_table(scanned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scanned)
    monkeypatch.setenv("TFSER_CACHE", str(scanned / "cache"))
    page = DOCS / "tutorial_own_table.md"
    made = typed(page, scanned)
    check(page, made)
    assert made.count("$ tfser") >= 9


@pytest.mark.slow
def test_the_tutorial_on_audits(scanned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scanned)
    monkeypatch.setenv("TFSER_CACHE", str(scanned / "second"))
    page = DOCS / "tutorial_audit.md"
    (split,) = re.findall(r"```csv\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    (scanned / "theirs.csv").write_text(split, encoding="utf-8")
    made = typed(page, scanned, codes=(0, 1))
    check(page, made)
    assert "speakers on both sides" in made and all(f"\n{name} " in made for name in ("anna", "bert", "carl"))


def test_statements_of_tutorials_can_be_asked(cache: Cache, put_corpus: PutCorpus) -> None:
    put_corpus(cache, [Utterance(utterance_id="a", path="a.wav")])
    with open_catalogue(cache) as connection:
        for page in DOCS.glob("tutorial_*.md"):
            for query in re.findall(r"```sql\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
                assert select(connection, query).names


@pytest.mark.slow
def test_the_tutorial_on_emodb(shared: Path, tmp_path: Path) -> None:
    corpus = shared / "corpora" / "emodb"
    if not corpus.exists():
        pytest.skip("EmoDB is not at hand")
    (tmp_path / "emodb").symlink_to(corpus)
    page = DOCS / "tutorial_emodb.md"
    check(page, typed(page, tmp_path))
