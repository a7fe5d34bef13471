"""Writing aside: never half a file, nothing left behind."""

from __future__ import annotations

import os

import pytest

from tfser.manifests.errors import DamagedError, MissingFileError
from tfser.manifests.files import aside, read_json, sweep, write_json


def test_success_replaces(tmp_path):
    path = tmp_path / "new" / "x.json"
    write_json(path, {"ä": 1})
    before = path.stat().st_ino
    write_json(path, {"ä": 2})
    assert read_json(path) == {"ä": 2}
    assert path.stat().st_ino != before  # renamed over, not written into
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(error), aside(path) as temporary:
        temporary.write_text("half")
        temporary.with_name(temporary.name + ".wal").write_text("log")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_nothing_written_is_a_failure(tmp_path):
    with pytest.raises(FileNotFoundError), aside(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_sweep_takes_what_killed_writers_left(tmp_path):
    for name in (".x.1-a.tmp", ".x.1-a.tmp.wal", "x.tmp", ".hidden", "x"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / ".x.1-a.tmp", (0, 0))
    assert sweep(tmp_path, older_than_s=60) == 1
    assert sweep(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "x", "x.tmp"]
    assert sweep(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (None, MissingFileError, "is missing"),
        (b"", DamagedError, "is no JSON"),
        (b"{", DamagedError, "is no JSON"),
        (b"\xff", DamagedError, "is no JSON"),
    ],
)
def test_json_that_is_none_names_the_file(tmp_path, content, error, reason):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(error, match=rf"x\.json: {reason}"):
        read_json(tmp_path / "x.json")
