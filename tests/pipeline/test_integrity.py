"""Every kind of file of a cache, damaged in every way: verify finds each, nothing hangs, and no number is shown from it.

And every kind, made unreadable in every way: nothing is called damaged, and nothing is moved.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests import files, notes
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.build import build
from tfser.manifests.catalogue.near_duplicates import FINGERPRINTS, PAIRS
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.protocols.own import parse_own
from tfser.pipeline import verify as verifying
from tfser.pipeline.copies.fingerprints import update_fingerprints
from tfser.pipeline.copies.search import search
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.encoders.weights import Found, content_hash
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.packed import FeatureRow, forget_compared, load_packed
from tfser.pipeline.verify import repair, verify

from ..conftest import covering, memory_catalogue

SETS = {"hdf5": feature_set("logmel"), "parquet": feature_set("logmel", dtype="float16")}
OWN = 'name = "mine"\ncorpus = "c"\nfolds = [["s0"], ["s1"]]\n'


@dataclass(frozen=True, kw_only=True)
class KindOfFile:
    """A kind of file of the cache: where one lies, and whether its lack can be noticed (others may simply not have been made)."""

    pattern: str
    is_needed: bool = True


KINDS: dict[str, KindOfFile] = {
    "corpus.json": KindOfFile(pattern="corpora/{}/corpus.json"),
    "utterances": KindOfFile(pattern="corpora/{}/utterances.parquet"),
    "skipped": KindOfFile(pattern="corpora/{}/skipped.parquet"),
    "fingerprints": KindOfFile(pattern="corpora/{}/fingerprints.parquet", is_needed=False),
    "near_duplicates": KindOfFile(pattern="corpora/{}/near_duplicates.parquet", is_needed=False),
    "protocols.json": KindOfFile(pattern="corpora/{}/protocols.json", is_needed=False),
    "asked.json": KindOfFile(pattern="protocols/asked.json", is_needed=False),
    "own protocol": KindOfFile(pattern="protocols/mine.*.toml", is_needed=False),
    "feature_set.json": KindOfFile(pattern="features/logmel-[0-9]*/feature_set.json"),
    "rows": KindOfFile(pattern="features/logmel-[0-9]*/{}/*.rows.parquet", is_needed=False),  # without rows, a left-over shard
    "HDF5 shard": KindOfFile(pattern="features/logmel-[0-9]*/{}/*.h5"),
    "Parquet shard": KindOfFile(pattern="features/logmel-float16-*/{}/*.frames.parquet"),
    "features skipped": KindOfFile(pattern="features/logmel-[0-9]*/{}/skipped.parquet", is_needed=False),
    "weights.json": KindOfFile(pattern="weights.json", is_needed=False),
    "catalogue": KindOfFile(pattern="catalogue.duckdb", is_needed=False),
}
"""Whoever adds a kind of file to the cache adds a line here; runs stand in tests/heads."""

FAST = ("corpus.json", "near_duplicates", "feature_set.json", "rows", "HDF5 shard", "Parquet shard")
"""Kinds of every sort (JSON, Parquet, HDF5; needed or not): the fast tests of repair and of bad days look at these alone."""

FAST_FIRST = [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]

NO_SOURCES = ("weights.json", "catalogue")
"""Kinds that no number is read from: the one saves time, the other is built anew (see the last test)."""


def _make(folder: Path) -> Cache:
    cache, root = Cache(folder / "cache"), folder / "corpus"
    root.mkdir(parents=True)
    lines = ["path,label,speaker"]
    for i in range(4):
        # Of different lengths and content, so that no file of one corpus or set is like that of another by chance.
        soundfile.write(root / f"u{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(16000 + 400 * i), 16000)
        lines.append(f"u{i}.wav,{'anger' if i % 2 else 'sadness'},s{i // 2}")
    soundfile.write(root / "brief.wav", np.full(100, 0.5), 16000)
    (root / "none.wav").write_bytes(b"no audio")
    (root / "t.csv").write_text("\n".join([*lines, "brief.wav,anger,s0", "none.wav,anger,s1"]) + "\n")
    for corpus in ("c", "d"):
        scan(cache, READER, corpus=corpus, root=root, options={"table": str(root / "t.csv")})
        for format, features in SETS.items():
            extract(cache, corpus, features, format=format, shard_utterances=2)  # type: ignore[arg-type]
        update_fingerprints(cache, corpus)
        search(cache, corpus)
        ensure_protocol(cache, corpus, "random-kfold:2")
    own = parse_own(OWN, "mine.toml")
    ensure_protocol(cache, "c", own.protocol.name, own=own)
    ensure_protocol(cache, "c+d", "loco:c,d")
    (folder / "model.safetensors").write_bytes(b"weights")
    found = Found(folder=folder, source="", commit=None, files=(folder / "model.safetensors",))
    content_hash(found, cache.root / "weights.json")
    with open_catalogue(cache):
        pass
    return cache


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = _make(tmp_path_factory.mktemp("integrity"))
    assert verify(cache) == []
    return cache


@pytest.fixture
def cache(original: Cache, tmp_path: Path) -> Cache:
    """A copy of its own of the cache, in a folder whose name looks like a pattern, with the times of all files."""
    shutil.copytree(original.root, tmp_path / "c[1]*", symlinks=True)
    return Cache(tmp_path / "c[1]*")


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """End a test that hangs."""

    def late(*_: Any) -> None:
        raise TimeoutError("this hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _files(cache: Cache, kind: str, corpus: str = "c") -> list[Path]:
    found = sorted(cache.root.glob(KINDS[kind].pattern.format(corpus)))
    assert found, kind
    return found


def _numbers(cache: Cache) -> dict[str, Any]:
    """What people see of a cache: rows, labels, protocols, copies, and all frames that can be loaded.

    The index is built in memory, as where nothing can be written: to build a file for each of some hundred cases takes minutes.
    """
    with memory_catalogue() as connection:
        build(cache, connection, {}, cache.sources(), fresh=True, is_created=True)
        seen: dict[str, Any] = {
            name: sorted(map(repr, connection.execute(query).fetchall()))
            for name, query in {
                "utterances": "SELECT * EXCLUDE (mtime_ns) FROM utterances",
                "corpora": "SELECT corpus, adapter, root, default_protocol FROM corpora",
                "skipped": "SELECT * FROM skipped WHERE stage NOT IN "
                "('corpus', 'protocols', 'near-duplicates', 'features', 'run')",
                "protocols": "SELECT protocol, corpus, hash FROM protocols",
                "assignments": "SELECT * FROM assignments",
                "sets": "SELECT feature_set, fingerprint, kind, dim, dtype, hop_s, config FROM feature_sets",
                "fingerprints": "FROM fingerprints",
                "near_duplicates": "FROM near_duplicates",
            }.items()
        }
        keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
        stored = rows(connection, "FROM features")
    frames = []
    forget_compared()
    for row in stored:
        where = FeatureRow(path=cache.root / row["shard"], **{key: row[key] for key in keys})
        with contextlib.suppress(TfserError):
            packed = load_packed([where])
            frames.append(repr((row["feature_set"], row["corpus"], row["utterance_id"], packed.frames.tobytes())))
    return seen | {"frames": sorted(frames)}


@functools.cache
def _whole_numbers(root: Path) -> dict[str, Any]:
    return _numbers(Cache(root))


def _shows_nothing_wrong(cache: Cache, original: Cache, kind: str) -> None:
    """Whatever is shown was written: a part of what the whole cache shows, or one line that refuses."""
    if kind in NO_SOURCES:  # the index is built of none of these
        assert not {original.place(path) for path in _files(original, kind)} & set(cache.sources())
        return
    whole = _whole_numbers(original.root)
    for name, values in _numbers(cache).items():
        assert set(values) <= set(whole[name]), name


# -- damage -------------------------------------------------------------------------------------------------------------------


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _gone(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


WAYS: dict[str, Callable[[Path], None]] = {
    "empty": _empty,
    "half": _half,
    "gone": _gone,
    "folder": _folder,
    "pipe": _pipe,
    "link": _link,
}


@pytest.mark.few(4)
@pytest.mark.parametrize(("kind", "way"), covering(list(KINDS), list(WAYS)))
def test_every_damage_is_found_and_no_number_is_shown_from_it(cache: Cache, original: Cache, kind: str, way: str) -> None:
    path = _files(cache, kind)[0]
    WAYS[way](path)
    problems = {problem.path: problem.kind for problem in verify(cache)}
    place = cache.place(path)
    if way == "gone" and kind == "rows":
        assert set(problems.values()) == {"left over"}  # its shard
    elif way == "gone":
        assert problems.get(place) == ("missing" if KINDS[kind].is_needed else None)
    elif kind == "rows":
        place = place.replace(".rows.parquet", ".h5")
        assert problems.get(place) == ("could not be checked" if way == "link" else "damaged")
    else:
        assert problems.get(place) == ("could not be checked" if way == "link" else "damaged")
    _shows_nothing_wrong(cache, original, kind)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 0.999999), st.integers(0, 7)), min_size=3, max_size=3), number=st.integers(0, 3))
def test_every_bit_counts(cache: Cache, original: Cache, kind: str, flips: list[tuple[float, int]], number: int) -> None:
    """Each of several bits is found; what is shown takes longer to see, and is looked at for the last one."""
    found = _files(cache, kind)
    path = found[number % len(found)]
    whole = path.read_bytes()
    try:
        for share, bit in flips:
            at = int(len(whole) * share)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            problems = verify(cache)
            # Of a user's own TOML, spaces and comments may change: what it says is in its name.
            assert {p.kind for p in problems} == {"damaged"} or (kind == "own protocol" and not problems), problems
        _shows_nothing_wrong(cache, original, kind)
    finally:
        path.write_bytes(whole)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "{}" in KINDS[kind].pattern or kind == "feature_set.json"])
def test_a_file_that_was_exchanged_with_its_like_is_damaged(cache: Cache, original: Cache, kind: str) -> None:
    if kind == "feature_set.json":
        one, other = sorted(cache.feature_root.glob("*/feature_set.json"))
    else:
        one = _files(cache, kind)[0]
        # Both corpora hold the same audio: shards of one name are alike, and so are exchanged within the folder.
        other = _files(cache, kind)[1] if kind.endswith("shard") else _files(cache, kind, "d")[0]
    aside = one.with_name("aside")
    for source, target in ((one, aside), (other, one), (aside, other)):
        source.rename(target)
    found = [problem for problem in verify(cache) if problem.kind == "damaged"]
    assert len(found) == 2, found
    _shows_nothing_wrong(cache, original, kind)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", FAST_FIRST)
def test_what_is_damaged_is_moved_and_can_be_made_again(cache: Cache, original: Cache, kind: str) -> None:
    path = _files(cache, kind)[0]
    damaged = path.read_bytes()[:-3]
    path.write_bytes(damaged)
    lines = repair(cache, verify(cache))
    moved = [p for p in cache.removed.rglob(path.name) if p.is_file()]
    assert [p.read_bytes() for p in moved] == [damaged] and any(cache.place(path) in line for line in lines)
    assert {problem.kind for problem in verify(cache)} <= {"missing"}
    root = Path(original.root).parent / "corpus"
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    for format, features in SETS.items():
        extract(cache, "c", features, format=format, shard_utterances=2)  # type: ignore[arg-type]
    assert verify(cache) == []
    if KINDS[kind].is_needed:
        whole, now = _whole_numbers(original.root), _numbers(cache)
        assert {name for name in whole if whole[name] != now[name]} <= {"corpora"}


# -- what cannot be read now --------------------------------------------------------------------------------------------------


def _refusing(real: Callable[..., Any], path: Path, error: BaseException) -> Callable[..., Any]:
    def refuse(file: Any, *rest: Any, **named: Any) -> Any:
        if str(file) == str(path):
            raise error
        return real(file, *rest, **named)

    return refuse


REASONS: dict[str, BaseException] = {
    "permission": PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    "busy": OSError(errno.EBUSY, os.strerror(errno.EBUSY)),
    "memory": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "no memory in Python": MemoryError(),
    "too many files": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "disk": OSError(errno.EIO, os.strerror(errno.EIO)),
    "no locks": OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", FAST_FIRST)
def test_what_cannot_be_read_now_stays(cache: Cache, original: Cache, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _files(cache, kind)[0]
    before = {p: p.read_bytes() for p in cache.root.rglob("*") if p.is_file() and "locks" not in p.parts}
    place = cache.place(path).replace(".rows.parquet", ".h5")
    for reason, error in REASONS.items():
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", _refusing(os.open, path, error))
            problems = verify(cache)
            assert [(p.path, p.kind) for p in problems] == [(place, "could not be checked")], reason
            assert repair(cache, problems) == [] and not cache.removed.exists()
            if reason == "permission":
                _shows_nothing_wrong(cache, original, kind)
                with open_catalogue(cache):  # an index that does without what cannot be read
                    pass
    for file, content in before.items():
        assert file == cache.catalogue or file.read_bytes() == content, file
    assert verify(cache) == []
    with open_catalogue(cache) as connection:  # what could not be read is tried again
        counts = connection.execute("SELECT (SELECT count(*) FROM features), (SELECT count(*) FROM protocols)").fetchone()
        left = "SELECT count(*) FROM skipped WHERE stage IN ('corpus', 'protocols', 'near-duplicates', 'features')"
        assert connection.execute(left).fetchone() == (0,)
    with open_catalogue(original) as connection:
        whole = connection.execute("SELECT (SELECT count(*) FROM features), (SELECT count(*) FROM protocols)").fetchone()
    assert counts == whole


@pytest.mark.few(5)
@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_midway_stays(cache: Cache, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is opened, and reading fails."""
    path = _files(cache, kind)[0]
    real = files.opened

    @contextlib.contextmanager
    def failing(file: Path) -> Iterator[BinaryIO]:
        with real(file) as opened:
            if file == path:
                raise files.could_not_read(file, OSError(errno.EIO, os.strerror(errno.EIO)))
            yield opened

    for module in (files, verifying, __import__("tfser.manifests.catalogue.reading", fromlist=["opened"])):
        monkeypatch.setattr(module, "opened", failing)
    problems = verify(cache)
    assert [p.kind for p in problems] == ["could not be checked"] and repair(cache, problems) == []
    assert path.exists() and not cache.removed.exists()


def test_no_library_is_no_damage(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """h5py or pyarrow that cannot be imported, or finds no memory, says nothing about files."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("libhdf5.so: failed to map segment")

    import h5py
    import pyarrow.parquet as pq

    monkeypatch.setattr(h5py.h5f, "open", refuse)
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    problems = verify(cache)
    assert {p.kind for p in problems} == {"could not be checked"} and not [p for p in problems if p.moves]


def test_a_catalogue_that_is_damaged_is_built_anew_with_one_line(cache: Cache, original: Cache, logged: list[str]) -> None:
    """T2: each block of the index."""
    with open_catalogue(original) as connection:
        whole = sorted(map(repr, connection.execute("FROM features").fetchall()))
    for share in (0.001, 0.3, 0.9):
        notes.forget()
        logged.clear()
        data = bytearray(cache.catalogue.read_bytes())
        data[int(len(data) * share)] ^= 8
        cache.catalogue.write_bytes(data)
        with open_catalogue(cache) as connection:
            assert sorted(map(repr, connection.execute("FROM features").fetchall())) == whole
        assert [message.rsplit("; ", 1)[1] for message in logged] == ["it is an index, and is built anew"]
    with contextlib.closing(duckdb.connect(str(cache.catalogue), read_only=True)) as plain:  # others' programs read it, too
        assert plain.execute("SELECT count(*) FROM utterances").fetchone() == (12,)


assert FINGERPRINTS in KINDS["fingerprints"].pattern and PAIRS in KINDS["near_duplicates"].pattern
