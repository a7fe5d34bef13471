"""What is finished can be shown from a cache that cannot be written, and a first error is not hidden by a later one."""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tfser.cli import app
from tfser.manifests import cache as cache_module
from tfser.manifests.cache import Cache
from tfser.manifests.errors import CannotWriteError, TfserError, UsageError
from tfser.manifests.files import write_bytes

OLD = Path(__file__).parent.parent / "data" / "cache-0.1"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(Path(shutil.copytree(OLD, tmp_path / "cache")))


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@contextlib.contextmanager
def _refuse(self: Cache, *_: object) -> Iterator[None]:
    raise CannotWriteError(f"cache {self.root}: cannot be written (read-only file system)")
    yield


@pytest.mark.slow
def test_a_finished_run_is_shown_from_a_read_only_cache(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """U6."""
    monkeypatch.setattr(Cache, "lock", _refuse)
    here = ("--corpus", "tones", "--features", "logmel", "--cache", str(cache.root))
    done = run("train", "--head", "logreg", *here)
    assert done.exit_code == 0 and "91.7" in done.stdout, done.output
    assert not cache.catalogue.exists() and not (cache.root / "locks").exists()
    other = run("train", "--head", "logreg", "--seed", "1", *here)
    assert other.exit_code == 1 and "cannot be written (read-only file system)" in other.stderr, other.output


@pytest.mark.slow
def test_the_first_error_is_the_one_that_is_told(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """U5: a full disk stops the training, and then the catalogue cannot be written either."""
    from tfser.heads.runs import one_fold as fold_runs
    from tfser.manifests.catalogue import reading as catalogue

    def full(*_: object, **__: object) -> None:
        raise TfserError("the disk is full at runs/x; make room")

    def late(*_: object, **__: object) -> None:
        raise CannotWriteError("the catalogue cannot be written")

    monkeypatch.setattr(fold_runs, "begin_run", full)
    monkeypatch.setattr(catalogue, "refresh", late)
    here = ("--corpus", "tones", "--features", "logmel", "--cache", str(cache.root))
    failed = run("train", "--head", "logreg", "--seed", "1", *here)
    assert failed.exit_code == 1 and "the disk is full at runs/x" in failed.stderr, failed.output
    assert "the catalogue cannot be written" not in failed.stderr


@pytest.mark.slow
def test_runs_are_kept_beside_a_cache_that_cannot_be_written(cache: Cache, tmp_path: Path) -> None:
    """Small ones: a lab's shared cache is read, and never written to."""
    before = {path: path.read_bytes() for path in sorted(cache.root.rglob("*")) if path.is_file()}
    mine = tmp_path / "mine"
    words = ("train", "--head", "logreg", "--corpus", "tones", "--features", "logmel", "--seed", "3")
    done = run(*words, "--cache", str(cache.root), "--runs", str(mine))
    assert done.exit_code == 0, done.output
    asked = run(*words, "--protocol", "group-kfold:2", "--cache", str(cache.root), "--runs", str(mine))
    assert asked.exit_code == 0, asked.output
    assert {path: path.read_bytes() for path in sorted(cache.root.rglob("*")) if path.is_file()} == before
    shown = run("scores", "--cache", str(mine), "--format", "json")
    assert shown.exit_code == 0 and shown.stdout.count('"experiment"') >= 2, shown.output
    assert (mine / "features").is_symlink() and len(list((mine / "runs").iterdir())) > 2
    assert run("cache", "verify", "--cache", str(mine)).exit_code == 0
    # What is removed there is the link, and nothing behind it.
    assert run("cache", "rm", "--run", next((mine / "runs").iterdir()).name, "--yes", "--cache", str(mine)).exit_code == 0
    assert all(path.exists() for path in before)


def test_rows_beside_follow_those_of_the_cache_and_other_features_are_refused(cache: Cache, tmp_path: Path) -> None:
    mine = cache.beside(tmp_path / "mine")
    rows = mine.corpus("tones") / "utterances.parquet"
    first = rows.read_bytes()
    (mine.corpus("tones") / "protocols.json").write_text('["group-kfold:3"]')
    theirs = cache.corpus("tones") / "utterances.parquet"
    cache.write_table(theirs, cache.read_table(theirs))
    cache.beside(mine.root)
    assert rows.read_bytes() != first and mine.read_table(rows).num_rows  # sealed now, for the same place
    assert "group-kfold:3" in (mine.corpus("tones") / "protocols.json").read_text()
    assert cache.beside(cache.root) is cache
    other = Cache(Path(shutil.copytree(OLD, tmp_path / "other")))
    with pytest.raises(UsageError, match="features that are not those of"):
        cache.beside(other.root)
    with pytest.raises(UsageError, match="no cache at"):
        Cache(tmp_path / "nowhere").beside(tmp_path / "x")


def test_a_cache_without_locks_that_cannot_be_written_says_where_runs_may_go(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CannotWriteError, match="keep runs elsewhere with --runs DIR"), cache.lock("runs/x"):
        pass
    with pytest.raises(CannotWriteError, match="cannot be created"):
        Cache(cache.root / "corpora" / "none").make()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["held", "streamed"])
def test_training_on_a_mount_that_is_really_read_only(cache: Cache, tmp_path: Path, how: str) -> None:
    """In a mount namespace of its own, where not even root can write there."""
    mine = tmp_path / "mine"
    words = ["train", "--head", "mean_pool", "--preset", "linear", "--corpus", "tones", "--features", "logmel", "--epochs", "2",
             "--device", "cpu", "--cache", str(cache.root), "--runs", str(mine)]  # fmt: skip
    words += ["--stream"] if how == "streamed" else ["--no-stream"]
    mounted = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(cache.root)]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a read-only mount cannot be had here")
    assert subprocess.run([*inside, "touch", str(cache.root / "x")], capture_output=True, check=False).returncode != 0
    done = subprocess.run([*inside, sys.executable, "-m", "tfser.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((mine / "runs").glob("*/run.json"))) == 3
    words = words[: words.index("--runs")]
    refused = subprocess.run([*inside, sys.executable, "-m", "tfser.cli", *words], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "keep runs elsewhere with --runs DIR" in " ".join(refused.stderr.split()), refused.stderr


def test_a_file_that_is_exchanged_while_it_is_copied_is_copied_again(cache: Cache, tmp_path: Path, monkeypatch) -> None:
    theirs = cache.corpus("tones") / "corpus.json"
    first = theirs.read_bytes()
    later = first.replace(b"tones", b"TONES", 1)

    def read(path: Path) -> bytes:
        content = path.read_bytes()
        if path == theirs and content == first:
            write_bytes(theirs, later)
        return content

    with monkeypatch.context() as patched:
        patched.setattr(cache_module.files, "read_bytes", read)
        mine = cache.beside(tmp_path / "mine")
    assert (mine.corpus("tones") / "corpus.json").read_bytes() == first
    cache.beside(mine.root)
    assert (mine.corpus("tones") / "corpus.json").read_bytes() == later
