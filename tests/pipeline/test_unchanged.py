"""A large corpus in which nothing has changed is told at one look at its folder; whatever has changed is seen."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.corpora.patterns import PATTERNS
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.scanning import scan as scanning
from tfser.pipeline.scanning import unchanged
from tfser.pipeline.scanning.scan import ScanOptions, ScanReport, scan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four files in two folders, one of which is no audio, their table, and a file beside them that no row names."""
    lines = ["path,label,speaker"]
    for i in range(4):
        path = tmp_path / "corpus" / f"s{i % 2}" / f"u{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(i).standard_normal(2000), 16000)
        lines.append(f"s{i % 2}/u{i}.wav,{'ab'[i // 2]},s{i % 2}")
    (tmp_path / "corpus" / "s1" / "u3.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "corpus" / "s1" / "nobody.wav", np.zeros(2000), 16000)
    (tmp_path / "corpus" / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "corpus"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is read, of corpora that all count as large."""
    monkeypatch.setattr(unchanged, "LEAST", 1)
    read, found = scanning._read, list[Path]()

    def noting(reader: Any, root: Path, options: Any) -> Any:
        found.append(root)
        return read(reader, root, options)

    monkeypatch.setattr(scanning, "_read", noting)
    return found


def look(cache: Cache, root: Path, **how: Any) -> ScanReport:
    options = {"table": str(root / "t.csv"), "columns": {}, "delimiter": None}
    return scan(cache, READER, corpus="c", root=root, options=options, how=ScanOptions(**how))


def test_where_nothing_changed_the_report_is_given_again_and_nothing_is_read(cache: Cache, root: Path, reads: list[Path]) -> None:
    first = look(cache, root)
    again = look(cache, root)
    assert len(reads) == 1 and (again.decoded, again.changed) == (0, False)
    (cache.corpus("c") / unchanged.SEEN).unlink()
    read = look(cache, root)
    assert len(reads) == 2 and again == read
    assert again.lines() == read.lines() and again.to_row() == read.to_row()
    assert first.skipped == again.skipped and any("in no row" in note for note in again.notes)


def touched(root: Path) -> None:
    os.utime(root / "s0" / "u0.wav", ns=(1, 1))


def in_place(root: Path) -> None:
    """Another file of the same size and times at its place."""
    path = root / "s0" / "u0.wav"
    status, content = path.stat(), path.read_bytes()
    (root / "other").write_bytes(content)
    (root / "other").rename(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file's time": touched,
    "another file of its size and time": in_place,
    "a file more": lambda root: (root / "s0" / "more.wav").write_bytes(b"x"),
    "a file less": lambda root: (root / "s1" / "nobody.wav").unlink(),
    "the table": lambda root: (root / "t.csv").write_text((root / "t.csv").read_text().replace(",b,", ",c,")),
    "a folder that is a link": lambda root: (root / "s2").symlink_to(root / "s0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_seen(cache: Cache, root: Path, reads: list[Path], change: str) -> None:
    look(cache, root)
    CHANGES[change](root)
    seen = look(cache, root)
    assert len(reads) == 2
    (cache.corpus("c") / unchanged.SEEN).unlink()
    assert dataclasses.replace(seen, decoded=0, changed=False, notes=()) == dataclasses.replace(
        look(cache, root), decoded=0, changed=False, notes=()
    )


def test_what_was_asked_otherwise_or_written_otherwise_is_read(
    cache: Cache, root: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    look(cache, root)
    look(cache, root, rescan=True)
    look(cache, root, max_duration_s=9.0)
    assert len(reads) == 3
    look(cache, root)
    path = cache.corpus("c") / "utterances.parquet"
    cache.write_table(path, cache.read_table(path).slice(1))
    assert look(cache, root).changed and len(reads) == 4
    (cache.corpus("c") / unchanged.SEEN).write_text("{}")
    look(cache, root)
    monkeypatch.setattr(unchanged, "_program", lambda: "another")
    look(cache, root)
    assert len(reads) == 6
    look(cache, root)
    assert len(reads) == 6


def test_files_without_a_stamp_or_elsewhere_and_readers_of_others_are_looked_at_each_time(
    cache: Cache, root: Path, reads: list[Path], tmp_path: Path
) -> None:
    (root / "t.csv").write_text((root / "t.csv").read_text() + "s0/none.wav,a,s0\n")
    look(cache, root)
    look(cache, root)
    assert len(reads) == 2 and not (cache.corpus("c") / unchanged.SEEN).exists()
    soundfile.write(tmp_path / "far.wav", np.ones(2000) / 9, 16000)
    (root / "t.csv").write_text((root / "t.csv").read_text().replace("s0/none.wav", str(tmp_path / "far.wav")))
    look(cache, root)
    look(cache, root)
    assert len(reads) == 4
    theirs = dataclasses.replace(READER, read=lambda root, options: READER.read(root, options))
    assert unchanged.state_of(cache, "c", theirs, root, {}) is None


@pytest.mark.parametrize("name", ["pipeline/a/reader.py", "pipeline/a/file_names.toml"])
def test_a_change_of_a_reader_or_of_a_declaration_is_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("")
    monkeypatch.setattr(unchanged.tfser, "__file__", str(tmp_path / "__init__.py"))
    before = unchanged._program.__wrapped__()
    os.utime(tmp_path / name, ns=(1, 1))
    assert unchanged._program.__wrapped__() != before


def test_every_reader_of_this_program_is_known_and_none_of_another(cache: Cache, tmp_path: Path) -> None:
    made = {name for name, reader in CORPORA.items() if reader.prepare is not None}
    known = {name for name, reader in CORPORA.items() if unchanged.state_of(cache, name, reader, tmp_path, {}) is not None}
    assert known == set(CORPORA) - made
    theirs = dataclasses.replace(PATTERNS["esd"], name="theirs").reader()  # who knows when their declaration changes
    assert unchanged.state_of(cache, "theirs", theirs, tmp_path, {}) is None
