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

from .conftest import run

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```console\n(.*?)```", re.S)
_SECONDS = re.compile(r"\b\d+(\.\d+)? (s|min)\b(?! of audio)|\b\d+ x real time")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not DOCS.exists():
        pytest.skip("the pages are not part of an installed package")
    monkeypatch.setenv("TFSER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def tones(table: Path, root: Path) -> None:
    """Write the files of the page's table but the last: anger is high, sadness low, what has no label between."""
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows[:-1]):
        rng = np.random.default_rng(number)
        t = np.arange(16000 // 2) / 16000
        hz = {"anger": 1500, "sadness": 300}.get(row["emo"], 600)
        (root / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / row["file"], 0.2 * np.sin(2 * np.pi * hz * t) + 0.5 * rng.standard_normal(len(t)), 16000)


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


def check(page: Path, made: str) -> None:
    """Compare but for times, or write."""
    if os.environ.get("TFSER_WRITE_DOCS"):
        page.write_text(made, encoding="utf-8")
    there = page.read_text(encoding="utf-8")
    assert _SECONDS.sub("TIME", made) == _SECONDS.sub("TIME", there), f"TFSER_WRITE_DOCS=1 pytest {Path(__file__).name}"


def test_the_tutorial_on_a_table(tmp_path: Path) -> None:
    page = DOCS / "tutorial_own_table.md"
    (table,) = re.findall(r"```csv\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    (tmp_path / "my.csv").write_text(table, encoding="utf-8")
    tones(tmp_path / "my.csv", tmp_path / "wavs")
    made = typed(page, tmp_path)
    check(page, made)
    assert made.count("$ tfser") >= 9
