"""`tfser demo` on an encoder: extracted, audited, layers scored, a head trained on their mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import run


@pytest.mark.slow
def test_the_demo_goes_the_whole_way_with_an_encoder(tiny_whisper: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "demo")
    result = run("demo", "--features", "whisper-base", "--weights", str(tiny_whisper), "--epochs", 2, "--cache", cache)
    assert result.exit_code == 0, result.stderr
    name = "whisper-base/all+window=clip+float16"
    for step in (
        f"--features whisper-base --layer all --dtype float16 --weights {tiny_whisper} --set window=clip",
        f"$ tfser layers --features {name} --mix none --validation speakers:1",
        f"$ tfser train --head mean_pool --fold all --features {name} --epochs 2",
        "does best on the validation speakers of all",
        "These sounds are made up",
    ):
        assert step in result.stderr
    assert "chosen" in result.stdout and "mean_pool" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weights", "folder"), "--weights goes with the features of an encoder"),
        (("--features", "no-such"), "unknown feature set 'no-such'"),
    ],
)
def test_wrong_requests_get_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = run("demo", *words, "--cache", str(tmp_path / "demo"))
    assert result.exit_code == 2 and said in result.stderr
