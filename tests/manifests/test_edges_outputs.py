"""--output: what is written, what is replaced, what is refused."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.errors import CannotWriteError, TfserError, UsageError
from tfser.manifests.files import write_json
from tfser.manifests.outputs import check_output, format_of, output_to, write_parquet, writing


def write(path: Path, text: str = "new\n") -> None:
    with output_to(path):
        print(text, end="")


def test_a_regular_file_is_replaced_whole(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o600)
    before = path.stat().st_ino
    with pytest.raises(ZeroDivisionError), output_to(path):
        print("half")
        1 / 0  # noqa: B018
    assert path.read_text(encoding="utf-8") == "old"
    write(path)
    assert path.read_text(encoding="utf-8") == "new\n" and path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # nobody reads more than they could
    assert [p.name for p in tmp_path.iterdir()] == ["s.csv"]


def test_of_a_link_the_target_gets_the_content(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.csv", tmp_path / "link.csv"
    for old in ("old", None):
        target.unlink(missing_ok=True)
        if old is not None:
            target.write_text(old, encoding="utf-8")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write(link)
        assert link.is_symlink() and target.read_text(encoding="utf-8") == "new\n"


def test_a_pipe_is_written_into(tmp_path):
    pipe, got = tmp_path / "p.parquet", []
    os.mkfifo(pipe)
    for send in (write, lambda path: write_parquet(path, pa.table({"a": [1, 2]}))):
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        reader.start()
        send(pipe)
        reader.join(20)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert got[0] == b"new\n" and pq.read_table(pa.BufferReader(got[1])).to_pydict() == {"a": [1, 2]}


def test_a_device_is_written_into(tmp_path):
    before = Path("/dev/null").stat()
    write(Path("/dev/null"))
    after = Path("/dev/null").stat()
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    if Path("/dev/full").exists():
        with pytest.raises(TfserError, match=r"--output /dev/full: cannot be written \(no space left on device\)"):
            write(Path("/dev/full"))


def test_refused(tmp_path):
    with pytest.raises(UsageError, match="this is a folder"):
        check_output(tmp_path)
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere; make it first"):
        write(tmp_path / "nowhere" / "s.csv")
    assert list(tmp_path.iterdir()) == []
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(UsageError, match=r"--output .*loop\.csv: cannot be written"), writing(loop):
        pass


def test_the_suffix_says_the_format(tmp_path):
    known = ("csv", "json", "parquet", "txt")
    assert format_of(Path("s.csv"), known) == "csv" and format_of(Path("S.JSON"), known) == "json"
    for name, why in (("s.xlsx", "the suffix .xlsx is no format"), ("s", "the name has no suffix")):
        with pytest.raises(UsageError, match=rf"{why}.*name it \.csv, \.json, \.parquet or \.txt, or say --format"):
            format_of(Path(name), known)
    assert format_of(Path("/dev/null"), known) is None
    with pytest.raises(UsageError, match=r"the suffix \.xlsx is no format"):
        format_of(Path("/dev/shm/s.xlsx"), known)
    os.mkfifo(tmp_path / "pipe")
    assert format_of(tmp_path / "pipe", known) is None


def test_a_full_disk_and_one_without_locks_are_named(tmp_path, monkeypatch):
    """The system names no file where a write or a lock fails."""

    def fail(code: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", lambda *_, **__: fail(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(tmp_path / "x.json", {})
    assert caught.value.filename == str(tmp_path / "x.json") and caught.value.errno == errno.ENOSPC
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: fail(errno.ENOLCK))
    said = rf"cache {re.escape(str(tmp_path / 'cache'))}: its disk knows no file locks.*choose a folder on another disk"
    with pytest.raises(CannotWriteError, match=said), Cache(tmp_path / "cache").lock("catalogue"):
        pass
