"""Stamps and rows that mislead: swapped files, older caches, damaged rows, limits that change; and files that overflow alone."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh
from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json
from tfser.pipeline.corpora.base import absolute
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import ExtractReport, extract
from tfser.pipeline.features import feature_set as described
from tfser.pipeline.features.engine import one_by_one
from tfser.pipeline.features.feature_set import write_description
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.resources import cores
from tfser.pipeline.scanning import measure
from tfser.pipeline.scanning.measure import Advance, in_order
from tfser.pipeline.scanning.scan import ScanListeners, ScanOptions, ScanReport, scan

RATE = 16000
LOGMEL = feature_set("logmel")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files of one length."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(3):
        soundfile.write(folder / f"u{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(3200), RATE)
    (folder / "t.csv").write_text("path\nu0.wav\nu1.wav\nu2.wav\n")
    return folder


def run(cache: Cache, root: Path, begin: Callable[[int], Advance] | None = None, **how: Any) -> ScanReport:
    options = {"table": str(root / "t.csv")}
    heard = ScanListeners(begin=begin)
    return scan(cache, READER, corpus="c", root=root, options=options, how=ScanOptions(**how), listeners=heard)


def hashes(cache: Cache) -> dict[str, str]:
    rows = pq.read_table(cache.corpus("c") / "utterances.parquet").to_pylist()
    return {row["utterance_id"]: row["content_hash"] for row in rows}


def swap(root: Path) -> None:
    """Swap two files of one size, and give both the times that they had."""
    times = [(root / name).stat() for name in ("u0.wav", "u1.wav")]
    (root / "u0.wav").rename(root / "aside")
    (root / "u1.wav").rename(root / "u0.wav")
    (root / "aside").rename(root / "u1.wav")
    for name, status in zip(("u0.wav", "u1.wav"), times, strict=True):
        os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns))


def without_ctime(cache: Cache) -> None:
    """Make the rows those of a version that did not know the third stamp."""
    path = cache.corpus("c") / "utterances.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["ctime_ns"]), path)


def test_swapped_files_of_one_size_and_time_are_found(cache: Cache, root: Path) -> None:
    run(cache, root)
    before = hashes(cache)
    swap(root)
    report = run(cache, root)
    assert report.decoded == 2 and report.changed
    assert hashes(cache) == {"u0": before["u1"], "u1": before["u0"], "u2": before["u2"]}


def test_a_cache_of_the_version_before_is_not_decoded_for_nothing(cache: Cache, root: Path) -> None:
    run(cache, root)
    without_ctime(cache)
    path = cache.corpus("c") / "utterances.parquet"
    was = path.stat().st_mtime_ns, path.stat().st_ino
    report = run(cache, root)
    assert (report.decoded, report.changed) == (0, False)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == was
    assert extract(cache, "c", LOGMEL).extracted == 3


def test_a_rescan_decodes_everything_and_says_how_much_is_other_sound(cache: Cache, root: Path) -> None:
    run(cache, root)
    without_ctime(cache)
    swap(root)
    assert run(cache, root).decoded == 0  # nothing tells, in a row without the third stamp
    report = run(cache, root, rescan=True)
    assert report.decoded == 3
    assert any("of 3 utterances that were known, 2 hold other sound" in note for note in report.notes)
    again = run(cache, root, rescan=True)
    assert again.decoded == 3 and not again.changed
    assert any("of 3 utterances that were known, 0 hold other sound" in note for note in again.notes)


def test_what_an_older_version_could_not_read_is_tried_once(cache: Cache, root: Path) -> None:
    whole = (root / "u2.wav").read_bytes()
    (root / "u2.wav").write_text("no audio")
    run(cache, root)
    without_ctime(cache)
    tried: list[int] = []
    for _ in range(2):
        run(cache, root, begin=lambda count: tried.append(count) or (lambda done, seconds: None))
    assert tried == [1]
    (root / "u2.wav").write_bytes(whole)
    assert run(cache, root).skipped == ()


def test_a_row_whose_hash_is_wrong_mends_itself_in_the_next_run(cache: Cache, root: Path) -> None:
    run(cache, root)
    right = hashes(cache)
    path = cache.corpus("c") / "utterances.parquet"
    table = pq.read_table(path)
    wrong = pa.array(["0" * 32, *table["content_hash"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("content_hash"), "content_hash", wrong), path)
    assert run(cache, root).decoded == 0
    report = extract(cache, "c", LOGMEL)
    assert report.extracted == 2 and [s.stage for s in report.skipped] == ["changed:logmel"]
    assert "run the extraction again" in report.skipped[0].reason
    assert run(cache, root).decoded == 1 and hashes(cache) == right
    report = extract(cache, "c", LOGMEL)
    assert (report.before, report.extracted, report.skipped) == (2, 1, [])
    assert run(cache, root).decoded == 0


def test_a_clock_that_was_set_back_hides_nothing(cache: Cache, root: Path) -> None:
    """What comes later counts, whatever its time says: a list of changed files, and shards beside an older catalogue."""
    run(cache, root)
    path = cache.corpus("c") / "utterances.parquet"
    table = pq.read_table(path)
    wrong = pa.array(["0" * 32, *table["content_hash"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("content_hash"), "content_hash", wrong), path)
    refresh(cache)
    extract(cache, "c", LOGMEL)
    for later in cache.feature_root.glob("*/c/*"):
        os.utime(later, (1, 1))
    with open_catalogue(cache) as connection:
        assert connection.execute("SELECT count(*) FROM features").fetchone() == (2,)
    assert run(cache, root).decoded == 1
    assert extract(cache, "c", LOGMEL).extracted == 1


def test_of_two_of_a_name_the_one_that_was_made_last_has_it_whatever_the_clock_says(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a feature set means its newest configuration: an older one would be trained on, and nobody told."""
    for year, taps in ((2025, 1), (2024, 2), (2024, 3)):
        monkeypatch.setattr(described, "now", lambda year=year: f"{year}-01-01T00:00:00+00:00")
        write_description(cache, dataclasses.replace(LOGMEL, config={**LOGMEL.config, "taps": taps}))
    with open_catalogue(cache) as connection:
        (config,) = connection.execute("SELECT config FROM feature_sets WHERE feature_set = 'logmel'").fetchall()
        assert connection.execute("SELECT count(*) FROM feature_sets").fetchone() == (3,)
    assert json.loads(config[0])["taps"] == 3


# -- lengths -----------------------------------------------------------------------------------------------------------------


def test_the_longest_utterance_is_kept_with_the_corpus(cache: Cache, root: Path) -> None:
    soundfile.write(root / "u2.wav", 0.1 * np.random.default_rng(9).standard_normal(2 * RATE), RATE)
    report = run(cache, root, max_duration_s=1.0)
    assert [s.utterance_id for s in report.skipped] == ["u2"] and "2 s of sound" in report.skipped[0].reason
    assert read_json(cache.corpus("c") / "corpus.json")["max_duration_s"] == 1.0
    again = run(cache, root)
    assert (again.decoded, again.changed, len(again.skipped)) == (0, False, 1)
    more = run(cache, root, max_duration_s=5.0)
    assert (more.decoded, more.skipped) == (1, ())
    less = run(cache, root, max_duration_s=0.5)  # what is known already is too long now, and is not decoded for that
    assert (less.decoded, [s.utterance_id for s in less.skipped]) == (0, ["u2"])
    assert run(cache, root, max_duration_s=5.0).skipped == ()


def test_a_corpus_without_a_limit_of_its_own_says_nothing_of_one(cache: Cache, root: Path) -> None:
    run(cache, root)
    assert "max_duration_s" not in read_json(cache.corpus("c") / "corpus.json")


def test_a_file_that_became_a_long_one_is_not_decoded_to_its_end(
    cache: Cache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cache, root)
    soundfile.write(root / "u1.wav", np.zeros(60 * RATE), RATE)
    read: list[int] = []
    real = soundfile.SoundFile.read

    def spy(self: Any, *args: Any, **named: Any) -> Any:
        block = real(self, *args, **named)
        read.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    report = extract(cache, "c", LOGMEL)
    assert report.extracted == 2 and [s.stage for s in report.skipped] == ["changed:logmel"]
    assert sum(read) == 2 * 3200


def test_heavy_items_wait_for_one_another() -> None:
    import threading

    held, most = 0.0, 0.0
    lock = threading.Lock()

    def work(weight: float) -> float:
        nonlocal held, most
        with lock:
            held += weight
            most = max(most, held)
        threading.Event().wait(0.01)
        with lock:
            held -= weight
        return weight

    items = [1.0, 7.0, 7.0, 1.0, 1.0, 20.0, 1.0, 9.0, 1.0]
    assert list(in_order(work, items, 4, weight=lambda item: item, most=10.0)) == items
    assert most == 20.0  # alone, since nothing else fits beside it
    most = 0.0
    assert list(in_order(work, [5.0] * 8, 4, weight=lambda item: item, most=10.0)) == [5.0] * 8
    assert most <= 10.0


# -- features that cannot be stored ------------------------------------------------------------------------------------------


def overflowing(names: set[int], count: int) -> Any:
    """Return a front-end whose frames are infinite for the rows of those numbers, which their peaks tell."""

    class Front:
        def extract(self, samples: np.ndarray) -> np.ndarray:
            number = round(float(samples[0]) * 200)
            return np.full((3, 80), np.inf if number in names else 1.0)

    return dataclasses.replace(LOGMEL, engine=one_by_one(lambda: Front().extract))


def numbered(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        samples = np.full(3200, i / 200, np.float32)
        samples[1:] += 0.01 * np.random.default_rng(i).standard_normal(3199).astype(np.float32)
        soundfile.write(folder / f"u{i}.wav", samples, RATE, subtype="FLOAT")
    (folder / "t.csv").write_text("path\n" + "".join(f"u{i}.wav\n" for i in range(count)))
    return folder


def done(report: ExtractReport) -> tuple[int, list[str | None]]:
    return report.extracted, [s.utterance_id for s in report.skipped]


def test_one_file_that_overflows_is_skipped_with_the_reason(cache: Cache, tmp_path: Path) -> None:
    run(cache, numbered(tmp_path / "numbered", 6))
    report = extract(cache, "c", overflowing({3}, 6))
    assert done(report) == (5, ["u3"]) and report.refused is None
    assert "NaN or infinite" in report.skipped[0].reason and report.skipped[0].stage == "extract:logmel"
    again = extract(cache, "c", overflowing({3}, 6))  # one that is tried again beside five that are there is still one
    assert (again.before, *done(again)) == (5, 0, ["u3"]) and again.refused is None


def test_a_set_ends_only_where_most_overflow_and_says_how_many(cache: Cache, tmp_path: Path) -> None:
    run(cache, numbered(tmp_path / "numbered", 6))
    assert done(extract(cache, "c", overflowing({1, 3, 5}, 6))) == (3, ["u1", "u3", "u5"])
    cache = Cache(tmp_path / "other")
    run(cache, tmp_path / "numbered")
    with pytest.raises(TfserError, match="the features of 4 of 6 utterances cannot be stored, first of u1: its features hold"):
        extract(cache, "c", overflowing({1, 3, 4, 5}, 6))
    assert extract(cache, "c", overflowing(set(), 6)).before == 2


def test_a_set_in_which_all_overflow_ends_early(cache: Cache, tmp_path: Path) -> None:
    run(cache, numbered(tmp_path / "numbered", 80))
    with pytest.raises(TfserError, match="the features of 64 of 64 utterances cannot be stored"):
        extract(cache, "c", overflowing(set(range(80)), 80))


# -- cores -------------------------------------------------------------------------------------------------------------------


def test_threads_are_as_many_as_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cores.cores() == 1 and measure.threads_for(None) == 1 and measure.threads_for(5) == 5
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.cores() == 64 and measure.threads_for(None) == 8


def test_nobody_counts_cores_by_himself() -> None:
    here = Path(cores.__file__).resolve().parents[2]
    asking = ("os.cpu_count(", "sched_getaffinity(")
    sources = [p for room in ("manifests", "pipeline", "heads") for p in (here / room).rglob("*.py")]
    assert len(sources) > 100
    assert [p.name for p in sources if any(word in p.read_text(encoding="utf-8") for word in asking)] == ["cores.py"]


@pytest.mark.parametrize("spelling", ["relative", "dots", "slash", "link"])
def test_a_root_that_is_named_in_another_way_is_the_same_root(
    cache: Cache, root: Path, tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(cache, root)
    assert first.decoded > 0
    monkeypatch.chdir(root.parent)
    (tmp_path / "beside").mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(root)
    said = {
        "relative": Path(root.name),
        "dots": tmp_path / "beside" / ".." / root.relative_to(tmp_path),
        "slash": Path(f"{root}/"),
        "link": tmp_path / "link",
    }[spelling]
    stored = (cache.corpus("c") / "corpus.json").read_bytes()
    again = scan(cache, READER, corpus="c", root=said, options={"table": str(root / "t.csv")})
    assert (again.decoded, again.changed, again.root) == (0, False, root)
    assert (cache.corpus("c") / "corpus.json").read_bytes() == stored


def test_two_dots_behind_a_link_mean_the_folder_above_its_target(tmp_path: Path) -> None:
    (tmp_path / "far" / "corpus").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "corpus")
    assert absolute(tmp_path / "link" / "..") == (tmp_path / "far").resolve()
    assert absolute(tmp_path / "link") == tmp_path / "link"
