"""Scanning: every file decoded once, nothing counted twice, and a second scan leaves the cache alone."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Reading, audio_files, relative
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning import measure
from tfser.pipeline.scanning.scan import ScanListeners, ScanOptions, ScanReport, scan

RATE = 16000


def read_folder(root: Path, options: Mapping[str, Any]) -> Reading:
    """Each audio file below the root is an utterance, and so is each extra one that the options name."""
    names = [relative(path, root) for path in audio_files(root)] + list(options.get("also", []))
    return Reading(utterances=[Utterance(utterance_id=n, path=n, **options.get("own", {})) for n in names])


READER = CorpusReader(name="folder", summary="", source="", layout="", read=read_folder, default_protocol=None)


def run(cache: Cache, root: Path, **options: Any) -> ScanReport:
    return scan(cache, READER, corpus="c", root=root, options=options, how=ScanOptions(workers=2))


def rows(cache: Cache) -> dict[str, dict[str, Any]]:
    table = pq.read_table(cache.corpus("c") / "utterances.parquet")
    return {row["utterance_id"]: row for row in table.to_pylist()}


def stamps(cache: Cache) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in cache.corpus("c").iterdir()}


def noise(seconds: float, seed: int = 0, rate: int = RATE, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype("f4")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(4):
        soundfile.write(folder / f"u{i}.wav", noise(0.3 + i / 10, i), RATE)
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded, as they are."""
    names: list[str] = []
    real = measure.survey

    def spy(path: Path, *segment: Any, **named: Any) -> Any:
        names.append(path.name)
        return real(path, *segment, **named)

    monkeypatch.setattr(measure, "survey", spy)
    return names


def test_a_second_scan_decodes_nothing_and_touches_no_file(cache: Cache, root: Path, decoded: list[str]) -> None:
    (root / "bad.wav").write_text("no audio")
    first = run(cache, root, also=["gone.wav"])
    assert (first.utterances, first.decoded, first.changed) == (6, 4, True)
    before = stamps(cache)
    decoded.clear()
    begun: list[int] = []
    second = scan(
        cache,
        READER,
        corpus="c",
        root=root,
        options={"also": ["gone.wav"]},
        listeners=ScanListeners(begin=lambda n: begun.append(n) or (lambda count, seconds: None)),  # type: ignore[func-returns-value]
    )
    assert decoded == [] and begun == []
    assert (second.utterances, second.decoded, second.changed, second.removed) == (6, 0, False, 0)
    assert second.skipped == first.skipped and len(first.skipped) == 2
    assert stamps(cache) == before


def test_not_a_number_equals_itself(cache: Cache, root: Path) -> None:
    own = {"valence": math.nan, "extra": {"score": math.nan, "list": [1.0, math.nan]}}
    assert run(cache, root, own=own).changed
    before = stamps(cache)
    table, skipped = (cache.corpus("c") / name for name in ("utterances.parquet", "skipped.parquet"))
    assert table.exists() and skipped.exists()
    about = json.loads((cache.corpus("c") / "corpus.json").read_text())
    about["options"] = {}  # JSON has no not-a-number that equals itself either
    del about["seal"]
    (cache.corpus("c") / "corpus.json").write_text(json.dumps(about))
    reader = CorpusReader(
        name="folder",
        summary="",
        source="",
        layout="",
        read=lambda root, options: read_folder(root, {"own": own}),
        default_protocol=None,
    )
    again = scan(cache, reader, corpus="c", root=root)
    assert not again.changed and again.decoded == 0
    assert stamps(cache)["utterances.parquet"] == before["utterances.parquet"]


def test_segments_whose_edges_are_no_numbers_are_known_again(cache: Cache, root: Path, decoded: list[str]) -> None:
    def read(root: Path, options: Mapping[str, Any]) -> Reading:
        return Reading(utterances=[Utterance(utterance_id="a", path="u0.wav", start_s=math.nan, end_s=math.nan)])

    reader = CorpusReader(name="folder", summary="", source="", layout="", read=read, default_protocol=None)
    assert scan(cache, reader, corpus="c", root=root).decoded == 1
    again = scan(cache, reader, corpus="c", root=root)
    assert (again.decoded, again.changed) == (0, False)


def test_another_time_and_the_same_content_extracts_nothing(cache: Cache, root: Path, decoded: list[str]) -> None:
    run(cache, root)
    extract(cache, "c", feature_set("logmel"))
    os.utime(root / "u1.wav", ns=(10**18, 10**18))
    decoded.clear()
    report = run(cache, root)
    assert decoded == ["u1.wav"] and report.changed
    again = extract(cache, "c", feature_set("logmel"))
    assert (again.before, again.extracted) == (4, 0)


def test_other_content_of_the_same_size_extracts_that_utterance(cache: Cache, root: Path, decoded: list[str]) -> None:
    run(cache, root)
    extract(cache, "c", feature_set("logmel"))
    before, size = rows(cache), (root / "u1.wav").stat().st_size
    soundfile.write(root / "u1.wav", noise(0.4, 99), RATE)
    os.utime(root / "u1.wav", ns=(10**18, 10**18))
    assert (root / "u1.wav").stat().st_size == size
    decoded.clear()
    assert run(cache, root).decoded == 1 and decoded == ["u1.wav"]
    after = rows(cache)
    assert {n for n in after if after[n]["content_hash"] != before[n]["content_hash"]} == {"u1.wav"}
    again = extract(cache, "c", feature_set("logmel"))
    assert (again.before, again.extracted) == (3, 1)


def test_files_come_go_and_break(cache: Cache, root: Path, decoded: list[str]) -> None:
    run(cache, root, also=["u9.wav"])
    good = (root / "u2.wav").read_bytes()
    (root / "u2.wav").write_bytes(b"RIFF")
    soundfile.write(root / "new.wav", noise(0.3), RATE)
    (root / "u0.wav").unlink()
    decoded.clear()
    report = run(cache, root, also=["u9.wav"])
    assert sorted(decoded) == ["new.wav", "u2.wav"] and report.removed == 1  # u0 is no utterance any more
    assert [s.utterance_id for s in report.skipped] == ["u2.wav", "u9.wav"]
    assert {s.stage for s in report.skipped} == {"scan"} and "No such file" in report.skipped[1].reason
    assert run(cache, root, also=["u9.wav"]).changed is False  # the order of the list does not depend on what was new
    (root / "u2.wav").write_bytes(good)
    soundfile.write(root / "u9.wav", noise(0.3), RATE)
    report = run(cache, root)
    assert report.skipped == () and report.decoded == 2
    assert all(row["content_hash"] for row in rows(cache).values())


def test_the_list_of_what_was_skipped_keeps_the_order_of_the_rows(cache: Cache, root: Path) -> None:
    (root / "u3.wav").write_text("x")
    run(cache, root)
    (root / "u1.wav").write_text("y")
    assert [s.utterance_id for s in run(cache, root).skipped] == ["u1.wav", "u3.wav"]
    assert not run(cache, root).changed


def test_what_cannot_be_opened_is_tried_again(cache: Cache, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content, time and size need not change for it to become readable: rights, and other files, do."""
    real = Path.open

    def refuse(self: Path, *rest: Any, **named: Any) -> Any:
        if self.name == "u1.wav":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        report = run(cache, root)
        assert [(s.utterance_id, s.reason) for s in report.skipped] == [("u1.wav", "Permission denied")]
        assert report.decoded == 3
        again = run(cache, root)
        assert (again.decoded, again.changed, len(again.skipped)) == (0, False, 1)
    report = run(cache, root)
    assert (report.decoded, report.skipped) == (1, ())


def test_every_kind_of_damage_is_one_line_and_is_not_tried_again(cache: Cache, root: Path, decoded: list[str]) -> None:
    whole = (root / "u3.wav").read_bytes()
    (root / "empty.wav").write_bytes(b"")
    (root / "text.wav").write_text("hello, this is a text\n" * 40)
    (root / "header.wav").write_bytes(whole[:44])
    soundfile.write(root / "none.wav", np.zeros(0, "f4"), RATE)
    soundfile.write(root / "nan.wav", np.array([0.1, math.nan] * 500, "f4"), RATE, subtype="FLOAT")
    (root / "cut.flac").write_bytes(b"")
    soundfile.write(root / "cut.flac", noise(2.0), RATE)
    (root / "cut.flac").write_bytes((root / "cut.flac").read_bytes()[:100])
    bad = {"empty.wav", "text.wav", "header.wav", "none.wav", "nan.wav", "cut.flac"}
    report = run(cache, root, also=["u0.wav/below", "zero\0byte.wav"])
    reasons = {s.utterance_id: s.reason for s in report.skipped}
    assert set(reasons) == bad | {"u0.wav/below", "zero\0byte.wav"}
    assert len(report.skipped) == len(reasons)
    for name, reason in reasons.items():
        assert reason and "\n" not in reason and str(root) not in reason, name
    assert "0 bytes" in reasons["empty.wav"] and "NaN" in reasons["nan.wav"] and "decoded" in reasons["cut.flac"]
    decoded.clear()
    assert not run(cache, root, also=["u0.wav/below", "zero\0byte.wav"]).changed and decoded == []


def test_a_truncated_wav_is_read_as_far_as_it_goes(cache: Cache, root: Path) -> None:
    whole = (root / "u3.wav").read_bytes()
    (root / "u3.wav").write_bytes(whole[: len(whole) // 2])
    assert run(cache, root).skipped == ()
    assert rows(cache)["u3.wav"]["duration_s"] == pytest.approx(0.3, abs=0.01)


def test_folders_and_pipes_with_names_of_audio(cache: Cache, root: Path) -> None:
    os.mkfifo(root / "pipe.wav")  # opening it would wait for ever
    (root / "folder.flac").mkdir()
    report = run(cache, root, also=["folder.flac"])
    assert {s.utterance_id: s.reason for s in report.skipped} == {"pipe.wav": "not a file", "folder.flac": "not a file"}


def test_channels_rates_kinds_and_flags(cache: Cache, tmp_path: Path) -> None:
    root = tmp_path / "kinds"
    root.mkdir()
    for name, rate in (("8.wav", 8000), ("48.wav", 48000), ("a.flac", 16000), ("a.ogg", 16000), ("a.mp3", 16000)):
        soundfile.write(root / name, noise(0.5, rate=rate), rate)
    soundfile.write(root / "stereo.wav", np.stack([noise(0.5, 1), noise(0.5, 2)], 1), RATE)
    soundfile.write(root / "silent.wav", np.zeros(8000, "f4"), RATE)
    soundfile.write(root / "clipped.wav", np.clip(noise(0.5, level=3), -1, 1), RATE)
    soundfile.write(root / "long.wav", noise(5.0), RATE)
    soundfile.write(root / "short.wav", noise(0.05), RATE)
    assert run(cache, root).skipped == ()
    found = rows(cache)
    assert {n: r["sample_rate"] for n, r in found.items() if n[0] in "48"} == {"8.wav": 8000, "48.wav": 48000}
    flags = {name: row["flags"] for name, row in found.items() if row["flags"]}
    assert flags == {"silent.wav": ["silent"], "clipped.wav": ["clipped"], "long.wav": ["long"], "short.wav": ["short"]}
    for name in ("8.wav", "48.wav", "a.flac", "stereo.wav"):
        assert found[name]["duration_s"] == pytest.approx(0.5)
    report = extract(cache, "c", feature_set("logmel"))
    assert report.extracted == len(found) and report.skipped == []
    assert not run(cache, root).changed  # flags that depend on the others are not added up


def test_a_moved_root_is_read_anew_and_nothing_is_extracted_again(cache: Cache, root: Path, tmp_path: Path) -> None:
    run(cache, root)
    extract(cache, "c", feature_set("logmel"))
    moved = tmp_path / "elsewhere" / "corpus"
    moved.parent.mkdir()
    shutil.move(root, moved)
    report = run(cache, moved)
    assert (report.utterances, report.removed, report.skipped, report.changed) == (4, 0, (), True)
    assert extract(cache, "c", feature_set("logmel")).before == 4
    soundfile.write(moved / "u5.wav", noise(0.3, 5), RATE)
    run(cache, moved)
    assert extract(cache, "c", feature_set("logmel")).extracted == 1  # from the new place


@pytest.mark.few(3)
@pytest.mark.parametrize("name", ["utterances.parquet", "skipped.parquet", "corpus.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_index_is_made_again(cache: Cache, root: Path, name: str, damage: str) -> None:
    (root / "bad.wav").write_text("no audio")
    first = run(cache, root)
    expected, file = rows(cache), cache.corpus("c") / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:20])
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"[]")
    report = run(cache, root)
    assert report.changed and report.skipped == first.skipped and rows(cache) == expected
    assert not run(cache, root).changed


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_names_that_are_not_utf8_are_listed(cache: Cache, root: Path) -> None:
    try:
        (root / os.fsdecode("schön.wav".encode("latin-1"))).write_bytes((root / "u0.wav").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    report = run(cache, root)
    assert report.utterances == 4
    ((skipped,), again) = report.skipped, run(cache, root)
    assert skipped.path == "sch\\udcf6n.wav" and "UTF-8" in skipped.reason
    assert not again.changed


def test_a_reason_that_names_such_a_file_is_no_change(cache: Cache, root: Path) -> None:
    def read(folder: Path, options: Mapping[str, Any]) -> Reading:
        return Reading(
            utterances=read_folder(folder, {}).utterances, skipped=[("u9", "u9.wav", "the same utterance as \udcf6/u9.wav")]
        )

    reader = replace(READER, read=read)
    first, again = (scan(cache, reader, corpus="c", root=root) for _ in range(2))
    assert (first.changed, again.changed) == (True, False) and again.skipped[0].reason.endswith("\\udcf6/u9.wav")


def test_a_scan_takes_away_what_killed_writers_left_and_nothing_of_those_at_work(cache: Cache, root: Path) -> None:
    run(cache, root)
    names = (".utterances.parquet.1-ab.tmp", ".fingerprints.parquet.1-ab.tmp")
    for name in names:
        (cache.corpus("c") / name).write_text("")
    with cache.lock("fingerprints/c"):
        run(cache, root)
    assert [(cache.corpus("c") / name).exists() for name in names] == [False, True]
    run(cache, root)
    assert not (cache.corpus("c") / names[1]).exists()


def test_ids_must_be_unique_and_a_corpus_keeps_its_reader(cache: Cache, root: Path) -> None:
    with pytest.raises(TfserError, match=r"'u1.wav' stands for u1.wav and u1.wav"):
        run(cache, root, also=["u1.wav"])
    assert cache.corpora() == []
    run(cache, root)
    other = CorpusReader(name="other", summary="", source="", layout="", read=read_folder, default_protocol=None)
    with pytest.raises(TfserError, match="read as folder"):
        scan(cache, other, corpus="c", root=root)


def test_a_full_disk_is_one_line(cache: Cache, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TfserError, match=r"the disk is full at .*; make room"):
            run(cache, root)
    assert cache.corpora() == [] and not list(cache.corpus("c").glob(".*"))
    assert run(cache, root).utterances == 4


def _scan_in_process(cache: Path, root: Path, queue: Any) -> None:
    report = run(Cache(cache), root)
    queue.put((report.decoded, report.utterances))


def test_two_scans_at_once(cache: Cache, root: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_scan_in_process, args=(cache.root, root, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert found == [(0, 4), (4, 4)]  # the second waited, and found all of it known


KINDS = {
    "good": lambda path, i: soundfile.write(path, noise(0.1, i), RATE),
    "tiny": lambda path, i: soundfile.write(path, noise(0.01, i), RATE),
    "text": lambda path, i: path.write_text("text"),
    "empty": lambda path, i: path.write_bytes(b""),
    "nan": lambda path, i: soundfile.write(path, np.full(800, math.nan, "f4"), RATE, subtype="FLOAT"),
    "missing": lambda path, i: None,
}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=8),
    then=st.dictionaries(st.integers(0, 7), st.sampled_from(sorted(KINDS)), max_size=4),
    shard=st.integers(1, 4),
)
def test_what_goes_in_comes_out_or_is_listed(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], then: dict[int, str], shard: int
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    cache, root = Cache(folder / "cache"), folder / "corpus"
    root.mkdir()
    kinds = dict(enumerate(first))
    before: dict[int, str] = {}
    for changes in (kinds, {i: k for i, k in then.items() if i in kinds}):
        for i, kind in changes.items():
            (root / f"{i}.wav").unlink(missing_ok=True)
            KINDS[kind](root / f"{i}.wav", i)
        kinds |= changes
        reader = CorpusReader(
            name="folder",
            summary="",
            source="",
            layout="",
            read=lambda root, options: Reading(
                utterances=[Utterance(utterance_id=f"{i}", path=f"{i}.wav") for i in range(len(first))]
            ),
            default_protocol=None,
        )
        scanned = scan(cache, reader, corpus="c", root=root, how=ScanOptions(workers=1, allow_loss=True))
        report = extract(cache, "c", feature_set("logmel"), shard_utterances=shard, workers=1)
        listed = {s.utterance_id for s in (*scanned.skipped, *report.skipped)}
        assert len(listed) == len(scanned.skipped) + len(report.skipped)
        assert listed == {str(i) for i, kind in kinds.items() if kind != "good"}
        assert len(first) == report.utterances == report.extracted + report.before + len(listed)
        kept = sum(kinds[i] == "good" and kind == "good" for i, kind in before.items())
        assert report.before == kept
        before = dict(kinds)
