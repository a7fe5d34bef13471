"""Tables and notes on a terminal: headers keep whole words, numbers stay in one piece, lines end at words."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.display import Output, print_rows, say
from tfser.manifests.widths import GAP, at_words, column_widths, unbroken_widths

WORDS = st.text("abcdefg ", min_size=1, max_size=30)


@given(st.lists(st.tuples(WORDS, WORDS, st.booleans()), min_size=1, max_size=6), st.integers(20, 120))
def test_columns_fit_and_keep_whole_words(columns: list[tuple[str, str, bool]], room: int) -> None:
    names, texts, whole = zip(*columns, strict=True)
    widths = column_widths(names, [texts], whole, room)
    if widths is None:  # nothing that could be shown has been given up
        assert sum(max(map(len, [*name.split(), *text.split(), text if one else ""]), default=0)
                   for name, text, one in columns) + GAP * (len(names) - 1) > room  # fmt: skip
        return
    assert sum(widths) + GAP * (len(names) - 1) <= room
    for (name, text, one_piece), width in zip(columns, widths, strict=True):
        assert width >= max(map(len, name.split()), default=0)
        assert not one_piece or width >= len(text)


@given(st.lists(st.tuples(WORDS, WORDS, st.booleans()), min_size=1, max_size=6), st.integers(20, 120))
def test_a_pipe_gets_whole_words(columns: list[tuple[str, str, bool]], room: int) -> None:
    names, texts, whole = zip(*columns, strict=True)
    widths = unbroken_widths(names, [texts], whole, room)
    least = [max([1, *map(len, name.split()), *([len(text)] if one_piece else map(len, text.split()))])
             for name, text, one_piece in columns]  # fmt: skip
    assert all(width >= needed for width, needed in zip(widths, least, strict=True))
    assert sum(widths) + GAP * (len(widths) - 1) <= max(room, sum(least) + GAP * (len(widths) - 1))


@given(st.text("abc ", min_size=1, max_size=200), st.integers(10, 60))
def test_lines_lose_no_word(line: str, width: int) -> None:
    lines = at_words(line, width)
    assert " ".join(lines).split() == line.split()
    assert all(len(part) <= width or len(part.split()) == 1 for part in lines if line.strip())


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_shows_whole_headers_or_records(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal, notes = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", notes)
    row = {"feature_set": "logmel", "utterances": 107535, "macro F1": "39.6", "action": "choose folds or a label map " * 3}
    print_rows([row, row], Output.table)
    text = terminal.getvalue()
    assert "feature_set" in text and "utterances" in text and "107535" in text
    assert max(map(len, text.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines())) <= columns
    say("upper bounds, and no results " * 4)
    assert all(word in {"upper", "bounds,", "and", "no", "results"} for word in notes.getvalue().split())
    assert max(map(len, notes.getvalue().splitlines())) <= columns


ROW = {"name": "a/path/that/nobody/would/want/to/see/broken/into/two.wav", "detail": "why it is so " * 40, "UA": "51.2 ± 3.4"}


def test_a_table_in_a_pipe_is_wrapped_at_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts end at 120 columns, or where COLUMNS says; nothing of it is lost."""
    for columns, widest in ((None, 120), ("90", 90)):
        monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        print_rows([ROW, ROW], Output.table)
        lines = [line.rstrip() for line in pipe.getvalue().splitlines()]
        assert max(map(len, lines)) <= widest
        assert pipe.getvalue().split().count("why") == 80 and pipe.getvalue().count(ROW["UA"]) == 2
        assert (pipe.getvalue().count(ROW["name"]) == 2) is (columns is None)


def test_what_is_said_to_a_pipe_stays_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    monkeypatch.setenv("COLUMNS", "40")
    say(str(ROW["detail"]).strip())
    assert pipe.getvalue() == str(ROW["detail"]).strip() + "\n"


def test_long_words_make_a_table_in_a_pipe_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    print_rows([{name: str(n) * 50 for n, name in enumerate("abcd")}], Output.table)
    assert [line.rstrip() for line in pipe.getvalue().splitlines()][1] == "  ".join(str(n) * 50 for n in range(4))


def test_a_long_table_in_parts_is_the_table_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n": n, "name": "x" * (n % 13), "detail": "why it is so " * (n % 17)} for n in range(40)]
    texts = []
    for at_once in (1000, 7):
        monkeypatch.setattr("tfser.manifests.display._DRAWN_AT_ONCE", at_once)
        monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
        print_rows(rows, Output.table)
        texts.append(pipe.getvalue())
    assert texts[0] == texts[1] and texts[0].count("detail") == 1
