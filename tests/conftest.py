"""Fixtures that tests of all rooms use."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib.util
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from click.testing import Result
from few_cases import far_apart
from hypothesis import settings
from typer.testing import CliRunner

from tfser.cli import app
from tfser.manifests import notes
from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.keeping import kept_open
from tfser.manifests.catalogue.reading import Connection, copy_audited, refresh
from tfser.manifests.files import write_json, write_table
from tfser.manifests.utterances import Measured, Skipped, Utterance, skipped_table, to_table
from tfser.pipeline.corpora import locate
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.feature_set import fingerprint_of
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.rows import write_rows
from tfser.pipeline.shards.writer import ShardMember, write_shard

# How long one example takes says how busy the machine is, and nothing about the program. Twenty examples and not a hundred,
# because most properties here have a handful of kinds of input; a property that has more of them says so beside the test.
# `pytest --hypothesis-profile thorough` looks at more of those that say nothing.
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.register_profile("tfser", deadline=None, max_examples=20)
settings.load_profile("tfser")

# A process that pytest starts for tests may be told of a terminal of 80 columns, which is nobody's: tables would keep to it.
os.environ.pop("COLUMNS", None)

# As `make test` has it: the last bits of an encoder depend on the number of threads, which fixtures and tests have to share.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _written_enough(file: int) -> None:
    """Stand in for `os.fsync`: what a test writes need not outlive a power failure, and the disk is slow."""


os.fsync = _written_enough  # type: ignore[assignment]

# Whoever is started in the background of a shell ignores Ctrl-C; tests of it, and the programs that they start, want it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What is imported and collected stays to the end: to look for garbage among it takes seconds of each process.
gc.disable()

_YOUNG = 20_000
"""Objects, some megabytes, that are made before garbage is looked for: after each 700, as Python does, is seconds more."""

# A process that runs tests for another has sent all that it has to say when it ends: to free a million objects, one by one, takes
# a second. What was registered later than this, to remove temporary folders for instance, is done before it.
if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)


def pytest_collection_finish() -> None:
    """Take what is imported and collected out of the garbage collector's sight: it is a million objects."""
    gc.freeze()  # with what little garbage there is: to look for it takes a second of each process
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let everything go in the end, or DuckDB says that it leaks."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` takes its choice
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked `few(n)`, leave n cases fast, those that differ most, and mark the others slow."""
    cases: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("few") and item.get_closest_marker("slow") is None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        marker = found[0].get_closest_marker("few")
        assert marker is not None
        kept = far_apart([tuple(item.callspec.indices.values()) for item in found], *marker.args)
        for place, item in enumerate(found):
            if place not in kept:
                item.add_marker(pytest.mark.slow)


def covering(*axes: Sequence[Any]) -> list[Any]:
    """Return the product of parameters, of which a covering set is fast and the rest is slow.

    Each value of each axis is in a fast case: case i takes the i-th value of every axis, those of shorter axes again and again.
    """
    longest = max(map(len, axes))
    fast = {tuple(i % len(axis) for axis in axes) for i in range(longest)}
    return [
        pytest.param(*values, marks=() if places in fast else pytest.mark.slow)
        for places, values in zip(itertools.product(*(range(len(a)) for a in axes)), itertools.product(*axes), strict=True)
    ]


def run(*words: object) -> Result:
    """Run a command in this process; its output, messages and exit code are in what comes back."""
    return CliRunner().invoke(app, [str(word) for word in words])


@functools.cache
def _memory() -> Connection:
    return duckdb.connect()


_NUMBERS = itertools.count()


@contextlib.contextmanager
def memory_catalogue() -> Iterator[Connection]:
    """Yield an empty catalogue in memory, with what audits read; all in one DuckDB, whose start is dearer than most tests."""
    connection = _memory().cursor()
    name = f"memory_{next(_NUMBERS)}"
    connection.execute(f"ATTACH ':memory:' AS {name}")
    connection.execute(f"USE {name}")
    try:
        copy_audited(connection)
        yield connection
    finally:
        connection.execute("USE memory")
        connection.execute(f"DETACH {name}")
        connection.close()


def fill_with_tones(
    cache: Cache,
    root: Path,
    *,
    seconds: float = 0.5,
    each: Sequence[int] = (4, 4, 4),
    noise: float = 0.02,
    logmel: Sequence[Mapping[str, str]] = ({},),
) -> None:
    """Write, scan and extract a corpus of speakers a, b ... who say anger high and sadness low.

    Args:
        cache: where its rows and features go.
        root: the folder of its files.
        seconds: their length, times 0.8 to 2.
        each: files of each speaker and label.
        noise: beside a tone of 0.2; more of it makes the labels harder to tell.
        logmel: settings of log-Mel frames, one feature set each.
    """
    lines = ["path,label,speaker"]
    for s, (speaker, n) in enumerate(zip("abcdefgh", each, strict=False)):
        for label, hz in (("anger", 1500), ("sadness", 300)):
            for i in range(n):
                rng = np.random.default_rng([s, hz, i])
                t = np.arange(int(16000 * seconds * rng.uniform(0.8, 2))) / 16000
                path = root / speaker / f"{label}{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.2 * np.sin(2 * np.pi * hz * t) + noise * rng.standard_normal(len(t)), 16000)
                lines.append(f"{speaker}/{label}{i}.wav,{label},{speaker}")
    (root / "toy.csv").write_text("\n".join(lines))
    found = locate(cache, "table", table=root / "toy.csv")
    scan(cache, found.reader, corpus=found.corpus, root=found.root, options=found.options)
    for settings_of in logmel:
        extract(cache, found.corpus, feature_set("logmel", settings_of))
    refresh(cache)


FINDINGS: dict[object, list[Finding]] = {}


OPENING_THEMSELVES = ("test_catalogue", "test_integrity", "test_edges_cli", "test_full_disk")
"""Files whose tests open the catalogue's file beside tfser, in the same process, or ask what a command by itself does."""


@pytest.fixture(autouse=True, scope="module")
def _as_in_a_command(request: pytest.FixtureRequest) -> Iterator[None]:
    """Open a catalogue once for each of its states, as commands do: to start a DuckDB is dearer than what most tests ask of it.

    For as long as the tests of a file run: they share caches, and one command after the other reads the same state.
    """
    if request.path.stem in OPENING_THEMSELVES:
        yield
        return
    with kept_open():
        yield


AUDITING = ("tfser.heads.runs.one_fold", "tfser.manifests.audits.report")
"""Who audits a protocol: a training before it begins, and `tfser audit`."""


@pytest.fixture(autouse=True)
def _the_same_rows_are_audited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audit the same rows once: a copy of a cache keeps the stamps by which the catalogue knows its files.

    All audits over a small corpus take half a second, and tests train on the same few caches again and again. What has no files
    (a split in memory) or is no protocol's is audited each time, and so is what calls `run_audits` itself: tests of audits.
    """
    # Modules that nobody has imported are not imported for the sake of this: a training brings torch.
    for module in [sys.modules[name] for name in AUDITING if name in sys.modules]:
        monkeypatch.setattr(module, "run_audits", _once(module.run_audits))


def _once(run_audits: Callable[..., list[Finding]]) -> Callable[..., list[Finding]]:
    def once(connection: Connection, **options: Any) -> list[Finding]:
        stamps = connection.execute("FROM sources WHERE NOT starts_with(path, 'runs/') ORDER BY ALL").fetchall()
        if not stamps or options.get("claims") is not None:
            return run_audits(connection, **options)
        key = (tuple(stamps), repr(sorted(options.items())))
        if key not in FINDINGS:
            FINDINGS[key] = run_audits(connection, **options)
        return list(FINDINGS[key])

    return once


class _Kept(logging.Handler):
    """Keeps messages, as they would be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the program notes during a test, after a command, too; to have pytest keep it costs every test a millisecond."""
    handler = _Kept()
    notes.LOGGER.addHandler(handler)
    yield handler.messages
    notes.LOGGER.removeHandler(handler)


class WriteWav(Protocol):
    """Writes noise of a given length as a 16-bit wav file and returns its path."""

    def __call__(self, path: Path, seconds: float, seed: int = 0, rate: int = 16000) -> Path: ...


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared material beside the repository: corpora, metadata."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the shared material is not here: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def iemocap_tree() -> ModuleType:
    """The module that lays out a folder like IEMOCAP."""
    name = "tfser_tests_iemocap_tree"
    if name not in sys.modules:
        path = Path(__file__).parent / "iemocap_tree.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def write_wav() -> WriteWav:
    """Write a short wav file of seeded noise; folders are made as needed."""

    def write(path: Path, seconds: float, seed: int = 0, rate: int = 16000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
        soundfile.write(path, samples, rate, subtype="PCM_16")
        return path

    return write


class PutCorpus(Protocol):
    """Writes a corpus into a cache as a scan would, without audio; returns nothing."""

    def __call__(
        self,
        cache: Cache,
        utterances: list[Utterance],
        *,
        corpus: str = "toy",
        adapter: str = "table",
        default_protocol: str | None = None,
        hashes: dict[str, str | None] | None = None,
        skipped: list[tuple[str | None, str]] | None = None,
    ) -> None: ...


@pytest.fixture(scope="session")
def put_corpus() -> PutCorpus:
    """Write utterance rows as a scan does; each has audio of its own unless `hashes` says otherwise."""

    def put(
        cache: Cache,
        utterances: list[Utterance],
        *,
        corpus: str = "toy",
        adapter: str = "table",
        default_protocol: str | None = None,
        hashes: dict[str, str | None] | None = None,
        skipped: list[tuple[str | None, str]] | None = None,
    ) -> None:
        folder = cache.corpus(corpus)
        measured = [
            Measured(
                size=1,
                mtime_ns=1,
                duration_s=1.0,
                sample_rate=16000,
                content_hash=(hashes or {}).get(u.utterance_id, f"hash of {u.utterance_id}"),
            )
            for u in utterances
        ]
        listed = [
            Skipped(corpus=corpus, utterance_id=name, path=None, stage=stage, reason="planted") for name, stage in skipped or []
        ]
        write_table(folder / "skipped.parquet", skipped_table(listed))
        write_table(folder / "utterances.parquet", to_table(corpus, utterances, measured))
        about = {
            "corpus": corpus,
            "adapter": adapter,
            "root": "/nowhere",
            "options": {},
            "default_protocol": default_protocol,
            "scanned_at": "2025-01-01T00:00:00+00:00",
        }
        write_json(folder / "corpus.json", about)

    return put


class PutFeatures(Protocol):
    """Writes the rows of a feature set's shard, without frames; returns nothing."""

    def __call__(self, cache: Cache, ids: list[str], *, corpus: str = "toy", name: str = "logmel", shard: str = "0") -> None: ...


@pytest.fixture(scope="session")
def put_features() -> PutFeatures:
    """Write a shard's rows as an extraction does, for utterances of `put_corpus`."""

    def put(cache: Cache, ids: list[str], *, corpus: str = "toy", name: str = "logmel", shard: str = "0") -> None:
        folder = cache.feature_root / f"{name.replace('/', '-')}-abcdef012345"
        about = {
            "name": name,
            "fingerprint": "abcdef012345",
            "kind": name,
            "dim": 80,
            "dtype": "float32",
            "hop_s": 0.01,
            "created_at": "2025-01-01T00:00:00+00:00",
            "config": {"bands": 80},
        }
        if not (folder / "feature_set.json").exists():
            write_json(folder / "feature_set.json", about)
        n = len(ids)
        rows = {
            "utterance_id": pa.array(ids, pa.string()),
            "content_hash": pa.array([f"hash of {i}" for i in ids], pa.string()),
            "shard": pa.array([f"{shard}.h5"] * n, pa.string()),
            "first_frame": pa.array(range(0, 100 * n, 100), pa.int64()),
            "frames": pa.array([100] * n, pa.int64()),
            "dim": pa.array([80] * n, pa.int32()),
            "checksum": pa.array(["00000000"] * n, pa.string()),
        }
        write_table(folder / corpus / f"{shard}.rows.parquet", pa.table(rows))

    return put


class PutStack(Protocol):
    """Writes a feature set that holds an encoder's layers side by side, (t, M*D) for each utterance; returns nothing."""

    def __call__(
        self,
        cache: Cache,
        frames: Mapping[str, np.ndarray],
        layers: int,
        *,
        corpus: str = "toy",
        name: str = "enc/all",
        dtype: Literal["float32", "float16"] = "float32",
        format: Literal["hdf5", "parquet"] = "hdf5",
        per_shard: int = 5,
        config: Mapping[str, Any] | None = None,
    ) -> None: ...


@pytest.fixture(scope="session")
def put_stack() -> PutStack:
    """Write shards as an extraction of `--layer all` does, for utterances of `put_corpus`."""

    def put(
        cache: Cache,
        frames: Mapping[str, np.ndarray],
        layers: int,
        *,
        corpus: str = "toy",
        name: str = "enc/all",
        dtype: Literal["float32", "float16"] = "float32",
        format: Literal["hdf5", "parquet"] = "hdf5",
        per_shard: int = 5,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        config = {"family": "wavlm", "layer": "all"} | ({"layers": layers} if layers > 1 else {}) | dict(config or {})
        fingerprint = fingerprint_of(config, dtype)
        folder = cache.feature_root / f"{name.replace('/', '-')}-{fingerprint}"
        about = {
            "name": name,
            "fingerprint": fingerprint,
            "kind": "enc",
            "dim": next(iter(frames.values())).shape[1],
            "dtype": dtype,
            "hop_s": 0.02,
            "created_at": "2025-01-01T00:00:00+00:00",
            "config": config,
        }
        ids = list(frames)
        for first in range(0, len(ids), per_shard):
            members = [
                ShardMember(utterance_id=i, content_hash=f"hash of {i}", frames=frames[i]) for i in ids[first : first + per_shard]
            ]
            where = folder / corpus
            write_rows(write_shard(where, f"{ids[first]}", members, dtype=dtype, format=format, layers=layers))
        write_json(folder / "feature_set.json", about)

    return put
