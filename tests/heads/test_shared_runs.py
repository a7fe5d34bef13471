"""Finished runs on a store and back: whole or not at all, and never in the place of what a cache has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import stored_runs as stored

from tfser.heads.runs.store import begin
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import UsageError
from tfser.manifests.experiment_names import give_name, names_of, take_name
from tfser.manifests.files import write_bytes
from tfser.pipeline.stores.remote import RemoteError, RemoteFolder
from tfser.pipeline.stores.sharing import What, committed, pull, push
from tfser.pipeline.stores.stored_objects import object_name
from tfser.pipeline.verify import verify

from ..conftest import run

PEOPLE = stored.make_utterances(speakers=3, each=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of three runs on a protocol that has to be asked for, and one of another corpus by an older version."""
    cache = Cache(tmp_path_factory.mktemp("trained") / "cache")
    cache.make()
    stored.put_utterances(cache, PEOPLE)
    stored.put_utterances(cache, PEOPLE, corpus="other")
    stored.put_experiment(cache, "a", PEOPLE, protocol="group-kfold:3")
    stored.put_old_run(cache, "old-f1-s0", corpus="other")
    return cache


@pytest.fixture
def cache(trained: Cache, tmp_path: Path) -> Cache:
    return Cache(shutil.copytree(trained.root, tmp_path / "cache"))


@pytest.fixture
def remote() -> Iterator[RemoteFolder]:
    """A folder in memory, gone afterwards."""
    url = f"memory://runs{os.getpid()}"
    yield RemoteFolder(url, sleep=lambda seconds: None)
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


def files_of(cache: Cache) -> dict[str, bytes]:
    found = sorted(path for path in cache.runs.glob("[!.]*/*") if path.is_file())
    return {cache.place(path): path.read_bytes() for path in found}


def test_runs_come_back_as_they_were_and_their_scores_with_them(cache: Cache, remote: RemoteFolder, tmp_path: Path) -> None:
    pushed = push(cache, remote)
    assert (pushed.runs, pushed.passed) == (4, [])
    other = Cache(tmp_path / "other")
    done = pull(other, remote)
    assert (done.runs, done.kept) == (4, []) and files_of(other) == files_of(cache) and verify(other) == []
    both = []
    for place in (cache, other):
        with open_catalogue(place) as connection:
            both.append(connection.execute("SELECT run_id, selection, metric, value FROM metrics ORDER BY ALL").fetchall())
            protocols = connection.execute("SELECT protocol FROM protocols WHERE corpora = 'toy'").fetchall()
    assert both[0] == both[1] and both[0]
    assert ("group-kfold:3",) in protocols, "the folds of what came are known here"
    again = pull(other, remote)
    assert (again.moved, again.runs, again.kept) == (0, 0, [])
    assert push(cache, remote).moved == 0 and len(remote.listing("commits")) == 1


def test_names_of_experiments_go_along_and_take_no_name_from_another(cache: Cache, remote: RemoteFolder, tmp_path: Path) -> None:
    give_name(cache, "mine", "old")
    give_name(cache, "ours", "a")
    push(cache, remote, corpus="toy")
    assert push(cache, remote, corpus="toy").moved == 0 and len(remote.listing("commits")) == 1
    other = Cache(tmp_path / "other")
    pull(other, remote)
    assert names_of(other) == {"ours": "a"}, "of what was pushed, not of what was not"
    take_name(other, "ours")
    give_name(other, "ours", "b")
    done = pull(other, remote)
    assert names_of(other) == {"ours": "b"} and done.names_kept == ["ours (there a)"]
    give_name(cache, "better", "a")
    push(cache, remote)
    pull(other, remote)
    assert (
        names_of(other) == {"ours": "b", "better": "a", "mine": "old"}
        and pull(other, remote, what=What.features).names_kept == []
    )


@pytest.mark.slow
def test_only_what_is_asked_for_goes_and_comes(cache: Cache, remote: RemoteFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        push(cache, remote, what=What.runs, features="mfcc")
    assert push(cache, remote, what=What.features).runs == 0
    with pytest.raises(UsageError, match="no run"):
        pull(Cache(tmp_path / "none"), remote, what=What.runs)
    assert push(cache, remote, what=What.runs, features="logmel").runs == 3
    assert push(cache, remote, what=What.runs, corpus="other").runs == 1
    some = Cache(tmp_path / "some")
    assert pull(some, remote, what=What.runs, corpus="other").runs == 1
    assert [path.name for path in some.runs.glob("*")] == ["old-f1-s0"] and some.corpora() == ["other"]
    assert pull(some, remote, what=What.features).runs == 0
    assert pull(some, remote, what=What.runs, features="logmel", corpus="toy").runs == 3


def test_what_is_no_finished_run_is_named_and_left_out(cache: Cache, remote: RemoteFolder) -> None:
    begin(cache, {"run_id": "b-f1-s0", "corpus": "toy", "feature_set": "logmel"})
    path = cache.runs / "a-f2-s0" / "predictions.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = push(cache, remote)
    assert done.runs == 3 and [text.partition(" ")[0] for text in done.passed] == ["a-f2-s0", "b-f1-s0"]
    assert not [place for place in committed(remote) if place.startswith(("runs/a-f2-s0", "runs/b-"))]
    shown = run("cache", "push", remote.url, "--cache", cache.root)
    assert shown.exit_code == 0 and "2 runs took no part" in shown.stderr and "not finished" in shown.stderr


def test_an_interrupted_pull_leaves_no_half_of_a_run_and_goes_on(
    cache: Cache, remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(cache, remote, what=What.runs, features="logmel")
    fetch, left = RemoteFolder.fetch, [0]
    number = sum(place.startswith("runs/a-f1") for place in committed(remote))

    def breaking(self: RemoteFolder, name: str, to: Path, *more: Any) -> None:
        if "a-f1-s0" in str(to):
            left[0] += 1
            if left[0] == number:
                raise KeyboardInterrupt
        fetch(self, name, to, *more)

    other = Cache(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "fetch", breaking)
        with pytest.raises(KeyboardInterrupt):
            pull(other, remote)
    assert files_of(other) == {} and verify(other) == []
    with open_catalogue(other) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    write_bytes(other.runs / ".a-f1-s0.pulled" / "nobody-names-me", b"of an older commit")
    done = pull(other, remote)
    assert done.runs == 3 and done.moved == len(files_of(cache)) - 5 - (number - 1)
    assert verify(other) == [] and not list(other.runs.glob(".*")) and not list(other.runs.rglob("nobody*"))


def test_a_run_that_a_cache_has_is_never_replaced(cache: Cache, remote: RemoteFolder, tmp_path: Path) -> None:
    push(cache, remote)
    mine = Cache(tmp_path / "mine")
    mine.make()
    stored.put_utterances(mine, PEOPLE)
    stored.put_experiment(mine, "a", PEOPLE, right=0.2, only_folds=[1])
    begin(mine, {"run_id": "a-f2-s0", "corpus": "toy"})
    before = files_of(mine)
    done = pull(mine, remote)
    assert {"runs/a-f1-s0", "runs/a-f2-s0"} <= set(done.kept) and done.runs == 2
    assert before.items() <= files_of(mine).items()


@pytest.mark.slow
def test_the_run_that_was_pushed_last_comes_and_none_is_made_of_two(cache: Cache, remote: RemoteFolder, tmp_path: Path) -> None:
    push(cache, remote)
    shutil.rmtree(cache.runs / "a-f1-s0")
    stored.put_experiment(cache, "a", PEOPLE, right=0.2, only_folds=[1], seconds=2.0)
    push(cache, remote, features="logmel", what=What.runs)
    other = Cache(tmp_path / "other")
    assert pull(other, remote).runs == 4
    assert files_of(other) == files_of(cache)


def test_a_damaged_object_makes_no_run(cache: Cache, remote: RemoteFolder, tmp_path: Path) -> None:
    push(cache, remote)
    entry = committed(remote)["runs/a-f3-s0/predictions.parquet"][-1]
    files, name = fsspec.filesystem("memory"), f"{remote.url}/{object_name(entry['sha256'])}"
    files.pipe_file(name, files.cat_file(name)[:-1] + b"!")
    other = Cache(tmp_path / "other")
    with pytest.raises(RemoteError, match="is not what was pushed as runs/a-f3-s0/predictions"):
        pull(other, remote)
    assert not (other.runs / "a-f3-s0").exists() and verify(other) == []


def test_a_run_that_changes_while_it_is_sent_is_left_out(
    cache: Cache, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, done = RemoteFolder.put, list[str]()

    def exchanging(self: RemoteFolder, source: Path, name: str) -> None:
        if source.parent.name == "a-f1-s0" and not done:
            done.append(name)
            shutil.rmtree(source.parent)
            stored.put_experiment(cache, "a", PEOPLE, right=0.2, only_folds=[1], seconds=2.0)
        put(self, source, name)

    monkeypatch.setattr(RemoteFolder, "put", exchanging)
    pushed = push(cache, remote)
    assert pushed.runs == 3 and pushed.passed == ["a-f1-s0 (it changed meanwhile; push again)"]
