"""Looking after the cache: what is listed is there, what is damaged is found, what is removed is gone and nothing else."""

from __future__ import annotations

import dataclasses
import os
import runpy
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import write_json
from tfser.pipeline import inventory as storage
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import FeatureSet, feature_set
from tfser.pipeline.inventory import Unwanted, delete, doomed, list_features, size_of, usage
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.verify import Problem, repair, verify

LOGMEL = feature_set("logmel")
HALF = feature_set("logmel", dtype="float16")


def write(root: Path, number: int, seed: int) -> None:
    noise = 0.1 * np.random.default_rng(seed).standard_normal(1600)
    soundfile.write(root / f"u{number}.wav", noise, 16000)


def index(cache: Cache, root: Path, corpus: str = "c") -> None:
    scan(cache, READER, corpus=corpus, root=root, options={"table": str(root / "t.csv")})


def work(cache: Cache, features: FeatureSet = LOGMEL, corpus: str = "c") -> tuple[int, int]:
    report = extract(cache, corpus, features, shard_utterances=2)
    return report.before, report.extracted


def folder_of(cache: Cache, features: FeatureSet = LOGMEL, corpus: str = "c") -> Path:
    return cache.feature_root / features.folder / corpus


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `corpus` and `cache` are put back for each test: a cache knows the path of its recordings.

    Beside them lies `kept`, what is put back: five recordings, and a cache of two corpora, one of them in two feature sets, three
    shards each.
    """
    above = tmp_path_factory.mktemp("storage")
    (above / "corpus").mkdir()
    for i in range(5):
        write(above / "corpus", i, i)
    (above / "corpus" / "t.csv").write_text("path,label\n" + "".join(f"u{i}.wav,anger\n" for i in range(5)))
    cache = Cache(above / "cache")
    for corpus in ("c", "d"):
        index(cache, above / "corpus", corpus)
        work(cache, LOGMEL, corpus)
    work(cache, HALF)
    refresh(cache)
    (above / "kept").mkdir()
    for name in ("corpus", "cache"):
        (above / name).rename(above / "kept" / name)
    return above


@pytest.fixture
def cache(home: Path) -> Iterator[Cache]:  # type: ignore[override]
    """An empty cache."""
    yield Cache(home / "cache")
    for name in ("corpus", "cache"):
        shutil.rmtree(home / name, ignore_errors=True)


@pytest.fixture
def root(home: Path, cache: Cache) -> Path:
    """Five recordings and their table."""
    return Path(shutil.copytree(home / "kept" / "corpus", home / "corpus"))


@pytest.fixture
def full(home: Path, cache: Cache, root: Path) -> Cache:
    """The cache that was kept, of `root`."""
    shutil.copytree(home / "kept" / "cache", cache.root, symlinks=True)
    return cache


def mend(cache: Cache, on_wait: Callable[[str], None] | None = None) -> list[Problem]:
    """Find what is wrong, and move it away."""
    found = verify(cache)
    repair(cache, found, on_wait)
    return found


def files(cache: Cache) -> set[str]:
    found = (p for p in cache.root.rglob("*") if p.is_file() and p != cache.catalogue and "locks" not in p.parts)
    return {p.relative_to(cache.root).as_posix() for p in found}


def test_what_is_there(full: Cache) -> None:
    found = {(e.feature_set, e.corpus): e for e in list_features(full)}
    assert set(found) == {("logmel", "c"), ("logmel", "d"), ("logmel+float16", "c")}
    one = found["logmel", "c"]
    assert (one.utterances, one.live, one.stale, one.shards, one.frames, one.dim, one.dtype) == (5, 5, 0, 3, 55, 80, "float32")
    assert one.folder == f"features/{LOGMEL.folder}/c" and one.bytes == size_of(full.root / one.folder) > 55 * 80 * 4
    parts = usage(full)
    assert {"catalogue.duckdb", "corpora/c", "corpora/d", f"features/{LOGMEL.folder}"} <= parts.keys()
    assert all(size > 0 for size in parts.values()) and "locks" not in parts


def test_no_cache_at_all(tmp_path: Path) -> None:
    for act in (lambda c: verify(c), lambda c: list_features(c), lambda c: doomed(c, Unwanted(stale=True))):
        with pytest.raises(TfserError, match="no cache at"):
            act(Cache(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_sizes_do_not_mind_files_that_vanish(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: iter([self / "gone", self / "corpora/c/corpus.json"]))
    assert size_of(full.root) == (full.root / "corpora/c/corpus.json").stat().st_size


def test_a_whole_cache_has_no_problems_and_progress_is_told(full: Cache) -> None:
    told: list[tuple[int, int]] = []
    assert verify(full, progress=lambda done, of: told.append((done, of))) == []
    assert told == [(i, 9) for i in range(1, 10)]


def test_every_damage_is_found_repaired_and_made_again(full: Cache, root: Path) -> None:
    folder = folder_of(full)
    first, second, third = sorted(folder.glob("*.h5"))
    data = bytearray(first.read_bytes())
    data[-100] ^= 16
    first.write_bytes(data)
    second.unlink()
    third.with_name(third.name.replace(".h5", ".rows.parquet")).unlink()
    (folder / ".0123.h5.1-2.tmp").write_bytes(b"half")
    (full.root / ".catalogue.duckdb.1-2.tmp").write_bytes(b"half")
    (folder_of(full, HALF).parent / "feature_set.json").write_text("{")
    (full.corpus("d") / "utterances.parquet").write_bytes(b"PAR1")
    found = verify(full)
    assert sorted((p.path.rsplit("/", 1)[-1], p.kind) for p in found) == sorted(
        [
            (first.name, "damaged"),
            (second.name, "missing"),
            (third.name, "left over"),
            (".0123.h5.1-2.tmp", "left over"),
            (".catalogue.duckdb.1-2.tmp", "left over"),
            ("feature_set.json", "damaged"),
            ("utterances.parquet", "damaged"),
        ]
    )
    assert not [p for p in found if "\n" in p.line or str(full.root) in p.line]
    assert mend(full) == found
    assert {p.kind for p in verify(full)} == {"missing"}
    index(full, root, "d")
    assert work(full) == (0, 5) and work(full, HALF) == (5, 0) and work(full, LOGMEL, "d") == (5, 0)
    assert verify(full) == [] and len(list_features(full)) == 3


@pytest.mark.slow
def test_a_corpus_whose_description_is_damaged_can_be_scanned_again(full: Cache, root: Path) -> None:
    (full.corpus("d") / "corpus.json").write_text("{")
    (problem,) = mend(full)
    assert (problem.path, problem.kind) == ("corpora/d/corpus.json", "damaged") and full.corpora() == ["c"]
    index(full, root, "d")
    assert work(full, LOGMEL, "d") == (5, 0) and verify(full) == []


@pytest.mark.slow
def test_a_left_over_of_the_other_format_takes_no_good_shard_along(full: Cache) -> None:
    """Both formats of a shard share the name of their rows."""
    shard = sorted(folder_of(full).glob("*.h5"))[0]
    other = shard.with_name(shard.name.replace(".h5", ".frames.parquet"))
    other.write_bytes(b"PAR1 and no more")
    (problem,) = mend(full)
    assert other.name in problem.path and not other.exists() and shard.exists()
    assert verify(full) == [] and work(full) == (5, 0)


def test_repair_waits_for_a_writer_at_work(full: Cache) -> None:
    """What has no rows yet may be a writer's who is about to write them."""
    folder = folder_of(full)
    temporary = folder / f".new.{os.getpid()}-1.tmp"
    waited: list[str] = []
    temporary.write_bytes(b"half")
    found = verify(full)
    assert [p.kind for p in found] == ["left over"]
    with full.lock(f"features/{LOGMEL.folder}/c"):
        assert verify(full) == []
        thread = threading.Thread(target=repair, args=(full, found, waited.append))
        thread.start()
        until = time.monotonic() + 30
        while not waited and time.monotonic() < until:
            time.sleep(0.01)
        assert waited and temporary.exists()
        temporary.unlink()
    thread.join(60)
    assert not thread.is_alive() and verify(full) == []


def test_removing_a_feature_set_or_a_part_of_it(full: Cache) -> None:
    paths = doomed(full, Unwanted(features="logmel", corpus="c"))
    assert paths == [folder_of(full)]
    need = size_of(folder_of(full))
    assert delete(full, paths) == need
    assert {(e.feature_set, e.corpus) for e in list_features(full)} == {("logmel", "d"), ("logmel+float16", "c")}
    delete(full, doomed(full, Unwanted(features="logmel")))
    assert [e.feature_set for e in list_features(full)] == ["logmel+float16"]
    assert not (full.feature_root / LOGMEL.folder).exists() and verify(full) == []
    assert work(full) == (0, 5)


def test_removing_a_corpus_takes_its_features_along(full: Cache) -> None:
    delete(full, doomed(full, Unwanted(corpus="c")))
    assert full.corpora() == ["d"]
    assert {(e.feature_set, e.corpus) for e in list_features(full)} == {("logmel", "d")}
    assert not [name for name in files(full) if "/c/" in name]


@pytest.mark.slow
def test_removing_a_run(full: Cache) -> None:
    (full.runs / "r1").mkdir(parents=True)
    (full.runs / "r1" / "run.json").write_text('{"status": "running"}')
    assert doomed(full, Unwanted(run="r1")) == [full.runs / "r1"]
    delete(full, doomed(full, Unwanted(run="r1")))
    assert not (full.runs / "r1").exists()
    with pytest.raises(UsageError, match="unknown run 'r1'"):
        doomed(full, Unwanted(run="r1"))


put_run = runpy.run_path(str(Path(__file__).parents[1] / "stored_runs.py"))["put_old_run"]


@pytest.mark.slow
def test_damaged_runs_are_found_and_removed(full: Cache) -> None:
    for name in ("good", "cut", "torn", "wide"):
        put_run(full, name)
    (full.runs / "atwork").mkdir()
    write_json(full.runs / "atwork" / "run.json", {"status": "running"})
    os.truncate(full.runs / "cut" / "predictions.parquet", 50)
    os.truncate(full.runs / "torn" / "run.json", 10)
    write_json(full.runs / "wide" / "run.json", {"run_id": "wide", "status": "finished", "seed": 99999999999999999999})
    # The same with a seal was written so: a newer version's might be.
    newer = {"run_id": "newer", "status": "finished", "seed": 99999999999999999999, "files": {"model.safetensors": "0" * 64}}
    full.write_json(full.runs / "newer" / "run.json", newer)
    found = verify(full)
    unreadable = ("runs/newer", "could not be checked")
    damaged = [(f"runs/{name}", "damaged") for name in ("torn", "wide")]
    assert [(p.path, p.kind) for p in found] == [("runs/cut", "damaged"), unreadable, *damaged]
    assert [p.line for p in found if "\n" in p.line or str(full.root) in p.line] == []
    for name in ("cut", "newer", "torn", "wide"):
        assert doomed(full, Unwanted(run=name)) == [full.runs / name]
    waited: list[str] = []
    with full.lock("runs/cut"):
        thread = threading.Thread(target=repair, args=(full, found, waited.append))
        thread.start()
        until = time.monotonic() + 30
        while not waited and time.monotonic() < until:
            time.sleep(0.01)
        assert waited
        put_run(full, "cut")  # trained anew meanwhile
    thread.join(60)
    assert not thread.is_alive() and [(p.path, p.kind) for p in verify(full)] == [unreadable]
    assert sorted(p.name for p in full.runs.iterdir()) == ["atwork", "cut", "good", "newer"]
    assert sorted(p.name for p in full.removed.glob("*/runs/*")) == ["torn", "wide"]


@pytest.mark.slow
def test_a_run_is_named_by_its_folder_alone(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    (full.runs / "left" / "checkpoint").mkdir(parents=True)
    (full.corpus("d") / "utterances.parquet").write_bytes(b"PAR1")  # no catalogue can be built
    assert doomed(full, Unwanted(run="left")) == [full.runs / "left"]
    for name in ("..", ".", "", "left/checkpoint"):
        with pytest.raises(TfserError):
            doomed(full, Unwanted(run=name))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({}, "say what to remove"),
        ({"features": "logmel", "stale": True}, "say what to remove"),
        ({"run": "r", "corpus": "c"}, "say what to remove"),
        ({"features": "logmal"}, "unknown feature set 'logmal'; did you mean 'logmel'"),
        ({"corpus": "e"}, "unknown corpus 'e'"),
        ({"corpus": "../c"}, "unknown corpus"),
        ({"features": "logmel+float16", "corpus": "d"}, "there are no features"),
    ],
)
def test_what_is_not_there_is_not_removed(full: Cache, what: dict[str, Any], message: str) -> None:
    before = files(full)
    with pytest.raises(UsageError, match=message):
        doomed(full, Unwanted(**what))
    assert files(full) == before


def test_stale_shards(full: Cache, root: Path) -> None:
    assert doomed(full, Unwanted(stale=True)) == []
    for i in (0, 1):  # both members of the first shard
        write(root, i, 50 + i)
    index(full, root)
    assert work(full) == (3, 2)
    entry = next(e for e in list_features(full) if (e.feature_set, e.corpus) == ("logmel", "c"))
    assert (entry.live, entry.stale, entry.shards) == (5, 2, 4)
    paths = doomed(full, Unwanted(stale=True))
    assert len(paths) == 4  # two files of this set, two of the other, which is stale before it is extracted again
    assert {p.parent for p in paths} == {folder_of(full), folder_of(full, HALF)}
    assert delete(full, paths) > 0
    assert work(full) == (5, 0) and work(full, HALF) == (3, 2) and verify(full) == []


def test_a_shard_that_is_finished_meanwhile_is_not_stale(full: Cache, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, 9, 9)
    (root / "t.csv").write_text((root / "t.csv").read_text() + "u9.wav,anger\n")
    index(full, root)
    real = storage._stale

    def late(*args: Any) -> list[Path]:
        assert work(full) == (5, 1)  # another process finishes a shard just now
        return real(*args)

    monkeypatch.setattr(storage, "_stale", late)
    assert doomed(full, Unwanted(stale=True)) == []


@pytest.mark.slow
def test_an_outdated_feature_set_is_kept_apart_and_can_be_removed(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(LOGMEL, config={**LOGMEL.config, "algorithm": 2})
    from tfser.pipeline.features import feature_set as described

    monkeypatch.setattr(described, "now", lambda: "2100-01-01T00:00:00+00:00")
    assert work(full, changed) == (0, 5)
    with open_catalogue(full) as connection:
        names = {r["feature_set"]: r["fingerprint"] for r in rows(connection, "FROM feature_sets")}
    outdated = f"logmel@{LOGMEL.fingerprint[:8]}"
    assert names == {"logmel": changed.fingerprint, outdated: LOGMEL.fingerprint, "logmel+float16": HALF.fingerprint}
    assert doomed(full, Unwanted(features=outdated)) == doomed(full, Unwanted(stale=True)) == [full.feature_root / LOGMEL.folder]
    delete(full, doomed(full, Unwanted(stale=True)))
    assert {e.feature_set for e in list_features(full)} == {"logmel", "logmel+float16"}


@pytest.mark.slow
def test_what_is_being_written_is_not_removed(full: Cache) -> None:
    with full.lock(f"features/{LOGMEL.folder}/c"):
        for paths in (doomed(full, Unwanted(features="logmel", corpus="c")), doomed(full, Unwanted(features="logmel"))):
            with pytest.raises(TfserError, match=r"is writing features/.*; remove it when that has finished"):
                delete(full, paths)
        assert len(list(folder_of(full).glob("*.h5"))) == 3
    delete(full, doomed(full, Unwanted(features="logmel")))


@pytest.mark.slow
def test_a_removal_that_is_killed_can_be_done_again(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step the catalogue can be read, and what is left can be named."""
    steps = 0
    real = Path.unlink

    def dying(self: Path, *args: Any, **named: Any) -> None:
        nonlocal steps
        if full.root in self.parents and "locks" not in self.parts and self.suffix in (".json", ".parquet", ".h5"):
            steps += 1
            if steps == 3:
                raise KeyboardInterrupt
        real(self, *args, **named)

    for what in ({"features": "logmel"}, {"corpus": "c"}):
        while paths := _named(full, **what):
            steps = 0
            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", dying)
                try:
                    delete(full, paths)
                except KeyboardInterrupt:
                    assert steps == 3
            list_features(full)
            with open_catalogue(full) as connection:
                for row in rows(connection, "SELECT DISTINCT shard FROM features"):
                    assert (full.root / row["shard"]).exists()
    assert full.corpora() == ["d"] and list_features(full) == []


def _named(cache: Cache, **what: str) -> list[Path]:
    try:
        return doomed(cache, Unwanted(**what))  # type: ignore[arg-type]
    except UsageError:
        return []


@pytest.mark.slow
def test_a_removal_that_the_system_refuses_is_one_line(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **named: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    paths = doomed(full, Unwanted(corpus="c"))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_remove", refuse)
        with pytest.raises(TfserError, match=r"cannot be removed \(Permission denied\)"):
            delete(full, paths)


def test_what_is_behind_a_link_is_nothing_that_a_removal_frees(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_bytes(b"x" * 9999)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    assert size_of(tmp_path / "in") < 9999


def test_features_of_a_corpus_of_any_name_are_verified(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.write_json(cache.corpus("my.tmp") / "corpus.json", {})
    shard = tmp_path / "features" / "logmel-0" / "my.tmp" / "0.h5"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"no shard")
    assert any(problem.path.endswith("my.tmp/0.h5") for problem in verify(cache))
