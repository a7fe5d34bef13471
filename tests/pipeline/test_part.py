"""Parts of an extraction: disjoint, together everything, safe beside each other and beside an extraction of all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import SKIPPED, read_skipped
from tfser.manifests.errors import UsageError
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract, extract_pass
from tfser.pipeline.extraction.extract_report import OTHER_PARTS, ExtractReport
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.features.registry import alone, feature_set
from tfser.pipeline.resources.part import CorpusPart, of_job_array, read_part
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.rows import read_rows
from tfser.pipeline.verify import verify

from ..conftest import run

LOGMEL = feature_set("logmel")
COUNT = 24
SHORT = ("u3", "u7")
BROKEN = "u5"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four files: two too short for a window, one that is no audio, two with the same samples."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(COUNT):
        seed = 9 if i == 10 else i
        samples = 0.1 * np.random.default_rng(seed).standard_normal(100 if f"u{i}" in SHORT else 4000)
        soundfile.write(folder / f"u{i}.wav", samples, 16000)
    (folder / f"{BROKEN}.wav").write_bytes(b"RIFF, but no more")
    (folder / "t.csv").write_text("path\n" + "".join(f"u{i}.wav\n" for i in range(COUNT)))
    return folder


@pytest.fixture
def make(tmp_path: Path, root: Path) -> Callable[[str], Cache]:
    def fresh(name: str) -> Cache:
        cache = Cache(tmp_path / name)
        scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv"), "columns": {}, "delimiter": None})
        return cache

    return fresh


def one_part(cache: Cache, written: str, on_wait: Callable[[str], None] | None = None) -> ExtractReport:
    compute = Compute(part=read_part(written))
    (report,) = extract_pass(cache, "c", alone(LOGMEL), compute=compute, how=ShardWriting(shard_utterances=3, on_wait=on_wait))
    return report


def folder_of(cache: Cache) -> Path:
    return cache.feature_root / LOGMEL.folder / "c"


def stored(cache: Cache) -> list[tuple[str, str, str]]:
    """Return which utterances have frames, and the checksums of those; a list, so that one stored twice shows."""
    rows = read_rows(folder_of(cache), cache)
    return sorted(zip(*(rows[key].to_pylist() for key in ("utterance_id", "content_hash", "checksum")), strict=True))


def listed(cache: Cache) -> list[tuple[str | None, str]]:
    return sorted((row["utterance_id"], row["reason"]) for row in read_skipped(cache, folder_of(cache) / SKIPPED).to_pylist())


@given(st.text("0123456789abcdef", min_size=32, max_size=32), st.integers(1, 40))
def test_every_utterance_is_in_one_part(content_hash: str, parts: int) -> None:
    assert sum(CorpusPart(number, parts).holds(content_hash) for number in range(1, parts + 1)) == 1


@pytest.mark.parametrize("off", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.5/4", "1/99999", "٣/4"])
def test_what_is_no_part_is_refused(off: str) -> None:
    with pytest.raises(UsageError, match="--part"):
        read_part(off)


def array(index: int, first: int, last: int, count: int) -> dict[str, str]:
    values = {"ID": index, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in values.items()}


@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 30))
def test_the_tasks_of_an_array_are_its_parts(first: int, step: int, count: int) -> None:
    last = first + step * (count - 1)
    found = [of_job_array(array(index, first, last, count)) for index in range(first, last + 1, step)]
    assert found == [CorpusPart(number, count) for number in range(1, count + 1)]


def test_an_array_with_gaps_and_no_array(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="even steps"):
        of_job_array(array(5, 1, 9, 4))
    for odd in ("x", "²"):
        with pytest.raises(UsageError, match=f"SLURM_ARRAY_TASK_ID is '{odd}', no number"):
            of_job_array(array(5, 1, 9, 4) | {"SLURM_ARRAY_TASK_ID": odd})
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_ID is not set"):
        read_part("slurm")
    for name, value in array(2, 0, 3, 4).items():
        monkeypatch.setenv(name, value)
    assert read_part("SLURM") == CorpusPart(3, 4)


def test_parts_one_after_the_other_make_what_one_run_makes(make: Callable[[str], Cache]) -> None:
    whole, parted = make("whole"), make("parted")
    report = extract(whole, "c", LOGMEL, shard_utterances=3)
    reports = [one_part(parted, f"{k}/4") for k in (3, 1, 4, 2)]
    assert (stored(parted), listed(parted)) == (stored(whole), listed(whole))
    assert [name for name, _ in listed(parted)] == sorted(SHORT)
    assert sum(r.extracted for r in reports) == report.extracted == COUNT - len(SHORT) - 1
    # What comes in is used or listed, in each part by itself; the last one leaves nothing to others but what they listed.
    assert all(r.tally.given == COUNT for r in reports)
    assert reports[-1].elsewhere == len(set(SHORT)) - len(reports[-1].skipped)
    assert "part 3/4" in reports[0].lines()[0] and OTHER_PARTS in reports[0].lines()[0]
    again = extract(parted, "c", LOGMEL)
    assert (again.extracted, again.before, listed(parted)) == (0, report.extracted, listed(whole))
    assert not verify(parted)


@pytest.mark.slow
def test_parts_beside_each_other_store_nothing_twice(make: Callable[[str], Cache]) -> None:
    """Shares of four and of three overlap: whoever comes second finds the utterance stored when it closes its shard."""
    cache, whole = make("parted"), make("whole")
    failures: list[BaseException] = []

    def work(written: str) -> None:
        try:
            one_part(cache, written)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"{k}/{n}",)) for n in (4, 3) for k in range(1, n + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    extract(whole, "c", LOGMEL)
    assert (stored(cache), listed(cache)) == (stored(whole), listed(whole))


def test_what_an_extraction_of_all_stored_meanwhile_is_not_stored_again(
    make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make("cache")
    from tfser.pipeline.extraction import audio_loading as module

    real, once = module.decode, [True]

    def decode(*args: object, **named: object) -> object:
        if once and once.pop():
            extract(cache, "c", LOGMEL)  # begins after the part has looked at what is there, and ends before its first shard
        return real(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "decode", decode)
    compute = Compute(part=CorpusPart(1, 2), workers=1)
    (report,) = extract_pass(cache, "c", alone(LOGMEL), compute, ShardWriting(shard_utterances=3))
    assert report.extracted == 0 and report.before > 0
    names = [name for name, *_ in stored(cache)]
    assert len(names) == len(set(names)) == COUNT - len(SHORT) - 1


def test_a_part_waits_while_all_are_extracted_and_says_so(make: Callable[[str], Cache]) -> None:
    cache, waited = make("cache"), threading.Event()
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        waited.set()

    with cache.lock(f"features/{LOGMEL.folder}/c"):
        thread = threading.Thread(target=one_part, args=(cache, "1/2", tell))
        thread.start()
        assert waited.wait(30)
        assert not stored(cache)
    thread.join()
    assert stored(cache) and "waiting for it" in told[0]


def test_a_part_whose_feature_set_is_removed_meanwhile_describes_it_again(
    make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from tfser.pipeline.extraction import feature_writer as module

    cache, real, calls = make("cache"), module.store_members, []

    def write(*args: object, **named: object) -> object:
        calls.append(args)
        return real(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "store_members", write)
    still = module.FeatureWriter.close

    def close(self: module.FeatureWriter) -> None:
        if len(calls) == 1:
            shutil.rmtree(self.folder.parent)
        still(self)

    monkeypatch.setattr(module.FeatureWriter, "close", close)
    one_part(cache, "1/2")
    assert len(calls) > 1
    assert not [problem for problem in verify(cache) if problem.kind == "damaged"]
    assert (folder_of(cache).parent / "feature_set.json").exists()


def test_the_report_keeps_its_counts_for_programs(make: Callable[[str], Cache]) -> None:
    report = one_part(make("cache"), "2/3")
    row = report.to_row()
    assert row["utterances"] == COUNT
    assert row["left_out"][OTHER_PARTS] == report.elsewhere > 0
    assert replace(report.part or CorpusPart(1, 1)) == CorpusPart(2, 3)


def test_the_command_takes_its_part_and_says_so(make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make("cache")
    for name, value in array(8, 4, 8, 3).items():  # the last of three tasks: 4, 6 and 8
        monkeypatch.setenv(name, value)
    words = ("extract", "--corpus", "c", "--cache", cache.root)
    done = run(*words, "--part", "slurm")
    assert done.exit_code == 0 and "c / logmel, part 3/3:" in done.stderr, done.stderr
    assert 0 < len(stored(cache)) < COUNT - len(SHORT) - 1
    done = run(*words)
    assert done.exit_code == 0 and len(stored(cache)) == COUNT - len(SHORT) - 1, done.stderr
    refused = run(*words, "--part", "4/3")
    assert refused.exit_code == 2 and "parts of 3 are counted from 1/3 to 3/3" in refused.stderr
