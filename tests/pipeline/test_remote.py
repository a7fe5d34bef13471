"""Corpora and features on stores elsewhere: read through a copy, pushed and pulled, whatever fails on the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.stores import remote as remotely
from tfser.pipeline.stores.corpus_copy import copied
from tfser.pipeline.stores.remote import RemoteError, RemoteFolder, as_url
from tfser.pipeline.stores.sharing import COMMITS, OBJECTS, committed, pull, push
from tfser.pipeline.verify import verify

from ..conftest import run

LOGMEL = feature_set("logmel")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files in two folders and their table."""
    folder = tmp_path_factory.mktemp("audio")
    lines = ["path,label,speaker"]
    for i in range(6):
        path = folder / f"s{i % 2}" / f"u{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(i).standard_normal(4000), 16000)
        lines.append(f"s{i % 2}/u{i}.wav,{'ab'[i // 3]},s{i % 2}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def filled(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache with that corpus and its log-Mel frames."""
    cache = Cache(tmp_path_factory.mktemp("filled") / "cache")
    scan(cache, READER, corpus="c", root=audio, options={"table": str(audio / "t.csv"), "columns": {}, "delimiter": None})
    extract(cache, "c", LOGMEL, shard_utterances=2)
    return cache


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder in memory, gone afterwards."""
    name = f"memory://bucket{os.getpid()}"
    yield name
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


def folder(url: str, waits: list[float] | None = None) -> RemoteFolder:
    return RemoteFolder(url, sleep=(waits if waits is not None else []).append)


def fill(url: str, source: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            folder(url).put(path, path.relative_to(source).as_posix())


def contents(cache: Cache) -> dict[str, bytes]:
    found = [path for area in ("corpora", "features") for path in sorted((cache.root / area).rglob("*")) if path.is_file()]
    return {cache.place(path): path.read_bytes() for path in found if not path.name.startswith(".")}


@pytest.mark.parametrize(
    ("written", "url"),
    [("s3://b/x/", "s3://b/x"), ("S3://b", "s3://b"), ("memory://a", "memory://a"), ("/data", None), ("C:/x", None)],
)
def test_urls_and_paths_are_told_apart(written: str, url: str | None) -> None:
    assert as_url(written) == as_url(Path(written)) == url


def test_a_url_that_nothing_reads_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing here reads nosuch://"):
        RemoteFolder("nosuch://x")


# -- corpora -----------------------------------------------------------------------------------------------------------------


def test_a_corpus_elsewhere_is_copied_once_and_again_where_it_changed(audio: Path, bucket: str, tmp_path: Path) -> None:
    cache, told = Cache(tmp_path / "cache"), list[str]()
    fill(f"{bucket}/c", audio)
    here = copied(cache, folder(f"{bucket}/c"), told.append)
    assert {p.name: p.read_bytes() for p in here.rglob("*.wav")} == {p.name: p.read_bytes() for p in audio.rglob("*.wav")}
    assert "copying 7 files of 7" in told[0]
    stamps = {path: path.stat().st_ino for path in here.rglob("*.wav")}
    assert copied(cache, folder(f"{bucket}/c"), told.append) == here and len(told) == 1
    # One changed, one is gone, one is lost here.
    soundfile.write(tmp_path / "other.wav", np.zeros(5000), 16000)
    folder(f"{bucket}/c").put(tmp_path / "other.wav", "s1/u1.wav")
    fsspec.filesystem("memory").rm(f"{bucket}/c/s0/u2.wav")
    (here / "s0/u4.wav").unlink()
    copied(cache, folder(f"{bucket}/c"), told.append)
    assert "copying 2 files of 6" in told[1]
    assert not (here / "s0/u2.wav").exists() and (here / "s1/u1.wav").read_bytes() == (tmp_path / "other.wav").read_bytes()
    assert stamps[here / "s0/u0.wav"] == (here / "s0/u0.wav").stat().st_ino
    with pytest.raises(RemoteError, match="no such folder, or nothing in it"):
        copied(cache, folder(f"{bucket}/none"), told.append)


def test_names_that_only_stores_without_folders_have(
    audio: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks of empty folders are no files; a file that is a folder, too, is one line."""
    fill(f"{bucket}/c", audio)
    from fsspec.implementations.memory import MemoryFileSystem

    remote, find = folder(f"{bucket}/c"), MemoryFileSystem.find
    more: dict[str, Any] = {"/": {"size": 0}, "/s0/": {"size": 0}}

    def listed(self: Any, top: str, *, detail: bool = False, **how: Any) -> Any:
        if not detail:
            return find(self, top, **how)
        return {**find(self, top, detail=True, **how), **{f"{top}{name}": about for name, about in more.items()}}

    monkeypatch.setattr(MemoryFileSystem, "find", listed)
    here = copied(Cache(tmp_path / "cache"), remote, lambda line: None)
    assert len([path for path in here.rglob("*") if path.is_file()]) == 7
    more["/s0"] = {"size": 3}
    with pytest.raises(TfserError, match=r"'s0' is a file and the folder of 's0/u\d.wav'"):
        copied(Cache(tmp_path / "cache"), remote, lambda line: None)


def test_an_interrupted_copy_goes_on(audio: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, told = Cache(tmp_path / "cache"), list[str]()
    fill(f"{bucket}/c", audio)
    monkeypatch.setattr("tfser.pipeline.stores.corpus_copy._THREADS", 1)
    fetch, count = RemoteFolder.fetch, [0]

    def breaking(self: RemoteFolder, *values: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        fetch(self, *values)

    monkeypatch.setattr(RemoteFolder, "fetch", breaking)
    with pytest.raises(KeyboardInterrupt):
        copied(cache, folder(f"{bucket}/c"), told.append)
    monkeypatch.setattr(RemoteFolder, "fetch", fetch)
    copied(cache, folder(f"{bucket}/c"), told.append)
    assert "of 7" in told[1] and "copying 7 files" not in told[1]


@pytest.mark.slow
def test_scan_and_extract_read_a_url(audio: Path, bucket: str, filled: Cache, tmp_path: Path) -> None:
    fill(f"{bucket}/c", audio)
    shutil.copy(audio / "t.csv", tmp_path / "t.csv")
    words = ("extract", "--corpus", "table", "--table", tmp_path / "t.csv", "--root", f"{bucket}/c")
    done = run(*words, "--cache", tmp_path / "cache")
    assert done.exit_code == 0, done.stderr
    cache = Cache(tmp_path / "cache")
    found = []
    for of in (cache, filled):
        with open_catalogue(of) as connection:
            found.append(connection.execute("SELECT utterance_id, checksum FROM features ORDER BY ALL").fetchall())
    assert found[0] == found[1] and len(found[0]) == 6
    assert verify(cache) == []


# -- features ----------------------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_pulled_to_the_byte(filled: Cache, bucket: str, tmp_path: Path) -> None:
    pushed = push(filled, folder(bucket))
    assert (pushed.moved, pushed.before) == (len(contents(filled)), 0)
    assert push(filled, folder(bucket)).moved == 0 and len(folder(bucket).listing(COMMITS)) == 1
    other = Cache(tmp_path / "other")
    assert pull(other, folder(bucket)).moved == pushed.moved
    assert contents(other) == contents(filled) and verify(other) == []
    again = pull(other, folder(bucket))
    assert (again.moved, again.before, again.kept) == (0, pushed.moved, [])


@pytest.mark.slow
def test_only_what_is_named_is_moved_and_the_commands_say_what_they_did(filled: Cache, bucket: str, tmp_path: Path) -> None:
    extract(filled, "c", feature_set("mfcc"))
    assert run("cache", "push", bucket, "--cache", filled.root).exit_code == 0
    done = run("cache", "pull", bucket, "--features", "mfcc", "--cache", tmp_path / "cache")
    assert done.exit_code == 0 and "pulled from" in done.stderr, done.stderr
    assert [path.name.startswith("mfcc") for path in (tmp_path / "cache/features").iterdir()] == [True]
    with open_catalogue(Cache(tmp_path / "cache")) as connection:
        assert connection.execute("SELECT count(*) FROM features").fetchone() == (6,)
    for word, option in (("push", "--features"), ("pull", "--features"), ("push", "--corpus"), ("pull", "--corpus")):
        assert run("cache", word, bucket, option, "none", "--cache", filled.root).exit_code == 2
    assert run("cache", "push", "/a/path", "--cache", filled.root).exit_code == 2
    assert run("cache", "pull", f"{bucket}/none", "--cache", filled.root).exit_code == 1


def test_without_its_commit_nothing_counts(filled: Cache, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = RemoteFolder.write
    monkeypatch.setattr(RemoteFolder, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        push(filled, folder(bucket))
    with pytest.raises(RemoteError, match="nothing was committed"):
        pull(Cache(tmp_path / "a"), folder(bucket))
    monkeypatch.setattr(RemoteFolder, "write", write)
    # The half of an object, and of a commit, that a killed writer left.
    files = fsspec.filesystem("memory")
    name = next(iter(folder(bucket).listing(OBJECTS)))
    files.pipe_file(f"{bucket}/{name}", files.cat_file(f"{bucket}/{name}")[:10])
    assert push(filled, folder(bucket)).moved == 1
    (commit,) = folder(bucket).listing(COMMITS)
    files.pipe_file(f"{bucket}/{COMMITS}/{'0' * 64}.json", files.cat_file(f"{bucket}/{commit}")[:100])
    assert pull(Cache(tmp_path / "b"), folder(bucket)).kept == []
    assert contents(Cache(tmp_path / "b")) == contents(filled)


def test_an_object_that_is_damaged_does_not_come_in(filled: Cache, bucket: str, tmp_path: Path) -> None:
    push(filled, folder(bucket))
    files, name = fsspec.filesystem("memory"), ""
    for place, (of,) in committed(folder(bucket)).items():
        if place.endswith(".h5"):
            name = f"{bucket}/{OBJECTS}/{of['sha256'][:2]}/{of['sha256']}"
    content = files.cat_file(name)
    files.pipe_file(name, content[:-1] + bytes([content[-1] ^ 1]))
    other = Cache(tmp_path / "other")
    with pytest.raises(RemoteError, match="is not what was pushed as features/"):
        pull(other, folder(bucket))
    assert verify(other) == [] and not list(other.root.rglob("*.tmp"))
    files.rm(name)
    with pytest.raises(RemoteError, match="is gone, and was features/"):
        pull(other, folder(bucket))


def test_what_a_cache_has_is_never_replaced(filled: Cache, bucket: str, tmp_path: Path, audio: Path) -> None:
    push(filled, folder(bucket))
    mine = Cache(tmp_path / "mine")
    shutil.copytree(filled.root / "corpora", mine.root / "corpora")
    table = tmp_path / "two.csv"
    table.write_text("path,label\ns0/u0.wav,a\ns1/u1.wav,b\n")
    options = {"table": str(table), "columns": {}, "delimiter": None}
    from tfser.pipeline.scanning.scan import ScanOptions

    scan(mine, READER, corpus="c", root=audio, options=options, how=ScanOptions(allow_loss=True))
    before = {place: of for place, of in contents(mine).items() if place.startswith("corpora/")}
    done = pull(mine, folder(bucket))
    assert {place: of for place, of in contents(mine).items() if place.startswith("corpora/")} == before
    assert set(done.kept) == {"corpora/c/corpus.json", "corpora/c/utterances.parquet"}
    with open_catalogue(mine) as connection:
        mine_alone = "SELECT count(*) FROM features WHERE feature_set = 'logmel'"
        assert connection.execute(mine_alone).fetchone() == (2,)  # those of its own two


def test_what_does_not_count_here_is_no_reason_to_keep_it(filled: Cache, bucket: str, tmp_path: Path) -> None:
    """A shard that a killed writer left; and a file that only the store's scan of a corpus has is not mixed into another scan."""
    push(filled, folder(bucket))
    mine = Cache(tmp_path / "mine")
    shutil.copytree(filled.root, mine.root)
    rows = next(iter(mine.feature_root.rglob("*.rows.parquet")))
    shard = next(path for path in rows.parent.iterdir() if path.name.startswith(rows.name[:16]) and path != rows)
    rows.unlink()
    shard.write_bytes(b"of a killed writer")
    about = mine.corpus("c") / "corpus.json"
    mine.write_json(about, {**mine.read_json(about), "scanned_at": "another time"})
    (mine.corpus("c") / "skipped.parquet").unlink()
    done = pull(mine, folder(bucket))
    assert done.kept == ["corpora/c/corpus.json"] and done.other_scans == ["corpora/c/skipped.parquet"] and done.moved == 2
    assert shard.read_bytes() == (filled.root / mine.place(shard)).read_bytes() and rows.exists()
    assert [problem.path for problem in verify(mine)] == ["corpora/c/skipped.parquet"]


@pytest.mark.parametrize(
    ("commit", "says"),
    [
        ([], "is no commit"),
        ({"format": 1, "number": 1, "files": {"corpora": {"sha256": "0f", "size": 1}}}, "names the place 'corpora'"),
        ({"format": 1, "number": 1, "files": {"features/../../x/y": {"sha256": "0f", "size": 1}}}, "which no cache has"),
        ({"format": 1, "number": "x", "files": {}}, "is no commit"),
        ({"format": 2}, "another version"),
    ],
)
def test_commits_that_somebody_else_wrote(commit: object, says: str, bucket: str) -> None:
    content = json.dumps(commit).encode()
    folder(bucket).write(f"{COMMITS}/{hashlib.sha256(content).hexdigest()}.json", content)
    with pytest.raises(TfserError, match=says):
        committed(folder(bucket))


def test_two_pushes_at_once_and_a_clock_that_went_back(
    filled: Cache, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No clock is asked: commits are counted, and what both name is there."""
    first, second = Cache(tmp_path / "first"), Cache(tmp_path / "second")
    shutil.copytree(filled.root, first.root)
    shutil.copytree(filled.root, second.root)
    extract(second, "c", feature_set("logmel", {"n_mels": "20"}))
    push(first, folder(bucket))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    push(second, folder(bucket))
    assert sorted(json.loads(folder(bucket).read(name))["number"] for name in folder(bucket).listing(COMMITS)) == [1, 2]
    third = Cache(tmp_path / "third")
    pull(third, folder(bucket))
    assert contents(third) == contents(first) | contents(second)


def test_two_pushes_that_commit_in_the_same_moment_both_count(
    filled: Cache, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has seen the other's commit when it writes its own."""
    second = Cache(tmp_path / "second")
    shutil.copytree(filled.root, second.root)
    extract(second, "c", feature_set("logmel", {"n_mels": "20"}))
    whole, waiting = RemoteFolder.write, [second]

    def write(self: RemoteFolder, name: str, content: bytes) -> None:
        # The other push goes its whole way between what this one has read there and the commit that it makes of it.
        if name.startswith(COMMITS) and waiting:
            push(waiting.pop(), folder(bucket))
        whole(self, name, content)

    monkeypatch.setattr(RemoteFolder, "write", write)
    push(filled, folder(bucket))
    assert len(folder(bucket).listing(COMMITS)) == 2
    third = Cache(tmp_path / "third")
    pull(third, folder(bucket))
    assert contents(third) == contents(filled) | contents(second)


# -- what fails for a time ---------------------------------------------------------------------------------------------------


def failing(times: int, error: Exception) -> Callable[..., Any]:
    from fsspec.implementations.memory import MemoryFileSystem

    whole, count = MemoryFileSystem.put_file, [0]

    def put(self: Any, *values: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] <= times:
            raise error
        return whole(self, *values, **more)

    return put


def test_what_fails_for_a_time_is_tried_again_after_a_while(
    filled: Cache, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.put_file", failing(2, TimeoutError("slow down")))
    assert push(filled, folder(bucket, waits)).moved == len(contents(filled))
    assert tuple(waits) == remotely.WAITS[:2] and list(waits) == sorted(waits)


def test_then_one_line_says_so(filled: Cache, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = "fsspec.implementations.memory.MemoryFileSystem.put_file"
    waits: list[float] = []
    monkeypatch.setattr(put, failing(99, ConnectionError("503\nplease reduce your rate")))
    with pytest.raises(RemoteError, match=r"could not be written, 4 times \(ConnectionError: 503"):
        push(filled, folder(bucket, waits))
    assert tuple(waits) == remotely.WAITS and not folder(bucket).listing(COMMITS)
    monkeypatch.setattr(put, failing(99, PermissionError("403")))
    with pytest.raises(RemoteError, match="PermissionError"):  # which no waiting mends
        push(filled, folder(bucket, waits))
    assert tuple(waits) == remotely.WAITS


def test_a_full_disk_here_leaves_a_cache_that_goes_on(
    filled: Cache, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(filled, folder(bucket))
    from fsspec.implementations.memory import MemoryFileSystem

    whole = MemoryFileSystem.get_file

    def full(self: Any, path: str, to: str, *values: Any, **more: Any) -> Any:
        if ".h5" in to:
            Path(to).write_bytes(b"half")
            raise OSError(28, "No space left on device", to)
        return whole(self, path, to, *values, **more)

    other = Cache(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", full)
        with pytest.raises(TfserError, match=r"the disk is full at .*; make room and run the same command again"):
            pull(other, folder(bucket))
    assert not [p for p in other.root.rglob("*") if p.name.endswith(".tmp")] and verify(other) == []
    pull(other, folder(bucket))
    assert contents(other) == contents(filled)


# -- a server ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_s3_server(filled: Cache, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed (tfser[s3])")
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"http://127.0.0.1:{port}"
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_DEFAULT_REGION", "us-east-1"),
                        ("AWS_ENDPOINT_URL", where), ("FSSPEC_S3_ENDPOINT_URL", where)):  # fmt: skip
        monkeypatch.setenv(name, value)
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for _ in range(600):
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        fsspec.filesystem("s3", endpoint_url=where).mkdir("lab")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": where})
        fill("s3://lab/audio", audio)
        here = copied(Cache(tmp_path / "cache"), folder("s3://lab/audio"), print)
        assert {p.name for p in here.rglob("*.wav")} == {p.name for p in audio.rglob("*.wav")}
        push(filled, folder("s3://lab/tfser"))
        other = Cache(tmp_path / "other")
        pull(other, folder("s3://lab/tfser"))
        assert contents(other) == contents(filled) and verify(other) == []
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_of_this_machine_is_where_its_url_says(
    kind: Callable[[str], str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not below the folder that somebody stands in; a path of the command line has lost two of its slashes."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    url = as_url(kind((tmp_path / "store").as_uri()))
    assert url == (tmp_path / "store").as_uri()
    RemoteFolder(url).write("a", b"b")
    assert (tmp_path / "store" / "a").read_bytes() == b"b" and not list(here.iterdir())
