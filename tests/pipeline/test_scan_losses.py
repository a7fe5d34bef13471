"""A scan that finds nothing, or next to nothing of what was there, says so and leaves the cache alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tfser.cli import app
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.corpora import locate
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.inventory import Unwanted, doomed
from tfser.pipeline.scanning.scan import ScanOptions, ScanReport, scan


@pytest.fixture
def root(tmp_path: Path, write_wav) -> Path:
    for i in range(4):
        write_wav(tmp_path / "corpus" / "wav" / f"u{i}.wav", 0.2, seed=i)
    lines = [f"wav/u{i}.wav,{'ab'[i % 2]},s{i}" for i in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,speaker", *lines]) + "\n")
    return tmp_path / "corpus"


def run(cache: Cache, root: Path, *, table: Path | None = None, **how: bool) -> ScanReport:
    options = {"table": str(table or root.parent / "t.csv")}
    return scan(cache, READER, corpus="t", root=root, options=options, how=ScanOptions(workers=1, **how))


def test_an_unmounted_corpus_keeps_its_rows_and_features(cache: Cache, root: Path) -> None:
    run(cache, root)
    extract(cache, "t", feature_set("logmel"), workers=1)
    before = {p: p.read_bytes() for p in cache.corpus("t").iterdir()}
    shutil.move(root / "wav", root.parent / "elsewhere")
    with pytest.raises(TfserError, match=r"t: 4 of the 4 utterances that the last scan could read are gone .*--allow-loss"):
        run(cache, root)
    assert {p: p.read_bytes() for p in cache.corpus("t").iterdir()} == before
    assert doomed(cache, Unwanted(features=None, corpus=None, run=None, stale=True)) == []
    here = ("--corpus", "t", "--cache", str(cache.root))
    for words in (("scan",), ("extract",)):
        result = CliRunner().invoke(app, [*words, *here])
        assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("tfser: t: 4 of the 4 utterances"), words
    shutil.move(root.parent / "elsewhere", root / "wav")
    assert not run(cache, root).changed


@pytest.mark.parametrize(("gone", "refused"), [(1, False), (2, False), (3, True), (4, True)])
def test_more_than_half_is_most(cache: Cache, root: Path, gone: int, refused: bool) -> None:
    run(cache, root)
    for i in range(gone):
        (root / "wav" / f"u{i}.wav").write_bytes(b"no sound")
    if refused:
        with pytest.raises(TfserError, match=f"{gone} of the 4 utterances"):
            run(cache, root)
        report = run(cache, root, allow_loss=True)
    else:
        report = run(cache, root)
    assert report.changed and report.readable == 4 - gone
    assert not run(cache, root).changed  # what was allowed is the state now


def test_renamed_utterances_are_not_lost(cache: Cache, root: Path) -> None:
    run(cache, root)
    shutil.move(root / "wav", root / "sound")
    table = root.parent / "t.csv"
    table.write_text(table.read_text().replace("wav/", "sound/"))
    report = run(cache, root)
    assert (report.removed, report.readable) == (4, 4)


def test_where_nothing_can_be_read_the_exit_code_says_so(cache: Cache, root: Path) -> None:
    for path in (root / "wav").iterdir():
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    words = ("--corpus", "table", "--table", str(root.parent / "t.csv"), "--root", str(root), "--cache", str(cache.root))
    for command in ("scan", "extract"):
        result = CliRunner().invoke(app, [command, *words])
        assert result.exit_code == 1
        assert "0 utterances decoded now" in result.stderr or "nothing had changed" in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith(f"tfser: t: none of the 4 utterances in {root} has audio that can be read (") and "LFS" in last
    assert not list(cache.feature_root.glob("*"))
    rows = pq.read_table(cache.corpus("t") / "utterances.parquet").to_pylist()
    assert [row["speaker"] for row in rows] == ["s0", "s1", "s2", "s3"]  # who speaks can be audited without audio


def test_a_root_a_level_off_is_named(cache: Cache, root: Path) -> None:
    table = root.parent / "t.csv"
    with pytest.raises(UsageError, match=rf"4 of the 4 files that .*t.csv names are not there; 4 .*: --root {root}$"):
        run(cache, root.parent, table=table)
    with pytest.raises(UsageError, match=rf"--root {root}$"):
        run(cache, root / "wav", table=table)
    assert not cache.corpora()
    found = locate(cache, "table", table=table, root=root)
    assert run(cache, found.root).readable == 4


@pytest.mark.parametrize("stems", [False, True])
def test_two_levels_down_and_stems(cache: Cache, root: Path, stems: bool) -> None:
    deep = root / "a" / "b"
    deep.mkdir(parents=True)
    shutil.move(root / "wav", deep / "wav")
    table = root.parent / "t.csv"
    if stems:
        table.write_text(table.read_text().replace(".wav", ""))
    with pytest.raises(UsageError, match=rf"--root {deep}$"):
        run(cache, root)


def test_files_that_are_nowhere_are_rows_and_listed(cache: Cache, root: Path) -> None:
    (root / "wav" / "u0.wav").unlink()
    (root / "wav" / "u1.wav").unlink()
    (root / "wav" / "u2.wav").unlink()
    report = run(cache, root)
    assert (report.utterances, report.readable, len(report.skipped), report.failure) == (4, 1, 3, None)
