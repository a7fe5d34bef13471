from __future__ import annotations

from pathlib import Path

import pytest

from tfser.heads.spec import precision
from tfser.heads.spec.precision import settle_precision
from tfser.heads.spec.recipes import Recipe


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx2 avx512_bf16 sse", "bfloat16"), ("fpu amx_bf16", "bfloat16"), ("fpu avx2", "float32")]
)
def test_auto_is_what_the_processor_says(flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags : {flags}\n")
    monkeypatch.setattr(precision, "Path", lambda _: info)
    assert settle_precision(Recipe(precision="auto"), "cpu").precision == expected


def test_where_it_cannot_be_told_it_is_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "Path", lambda _: tmp_path / "nothing")
    assert settle_precision(Recipe(precision="auto"), "cpu").precision == "float32"
    assert settle_precision(Recipe(precision="auto"), "mps").precision == "float32"


def test_a_choice_stays() -> None:
    for chosen in ("float32", "bfloat16"):
        assert settle_precision(Recipe(precision=chosen), "cpu").precision == chosen
