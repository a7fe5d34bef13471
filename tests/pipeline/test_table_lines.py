"""Tables whose texts hold what Python's splitlines() takes for an end of line."""

from __future__ import annotations

import pytest

from tfser.pipeline.corpora.table import read


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c"])
def test_a_header_ends_where_its_line_ends(tmp_path, write_wav, mark):
    write_wav(tmp_path / "a.wav", 0.1)
    (tmp_path / "t.csv").write_text(f'path,"what{mark}is said",label\na.wav,"so{mark}well",sad\n', encoding="utf-8", newline="")
    (row,) = read(tmp_path, {"table": str(tmp_path / "t.csv")}).utterances
    assert (row.path, row.label, list(row.extra.values())) == ("a.wav", "sadness", [f"so{mark}well"])
