"""What is taken out of a cache for being damaged lies in `removed/` afterwards, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError


def test_what_is_put_away_lies_at_the_same_place(cache: Cache) -> None:
    kept = []
    for content in ("one", "two"):  # of one place, in one second
        (cache.runs / "a").mkdir(parents=True)
        (cache.runs / "a" / "run.json").write_text(content)
        kept.append(cache.put_away(cache.runs / "a"))
        assert not (cache.runs / "a").exists()
    assert [(path / "run.json").read_text() for path in kept] == ["one", "two"]
    assert all(path.relative_to(cache.root / "removed").parts[1:] == ("runs", "a") for path in kept)


def test_links_and_pipes_are_moved_not_followed(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (cache.root / "corpora").mkdir(parents=True)
    link, pipe = cache.root / "corpora" / "link", cache.root / "corpora" / "pipe"
    link.symlink_to(tmp_path / "precious")
    os.mkfifo(pipe)
    assert cache.put_away(link).is_symlink()
    assert cache.put_away(pipe).is_fifo()
    assert (tmp_path / "precious").read_text() == "kept"


def test_what_cannot_be_moved_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache.runs / "a").mkdir(parents=True)

    def refuse(*_: object) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(TfserError, match="Permission denied"):
        cache.put_away(cache.runs / "a")
    assert (cache.runs / "a").is_dir()
