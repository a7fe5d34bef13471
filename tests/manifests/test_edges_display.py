"""What reaches a terminal: no character that it would obey; files and JSON keep the data."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from typing import Any

import pytest

from tfser.manifests.display import Lines, Output, bar, print_json, print_rows, say, show, terminal_width
from tfser.manifests.wording import visible

HOSTILE = "an\x1b[2Jger\x07\n\x9b31m\u202evil\ttab\u2066\ufeff\ud83d\x7f\u2028end"
OBEYED = set("\x1b\x07\x9b\u202e\t\u2066\ufeff\ud83d\x7f\u2028\r")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of standard output."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_every_odd_character_is_an_escape():
    assert visible("plain: é 愤怒 😀 a\\b") == "plain: é 愤怒 😀 a\\b"
    assert visible(HOSTILE) == (r"an\x1b[2Jger\x07\n\x9b31m\u202evil\ttab\u2066\ufeff\ud83d\x7f\u2028end")
    every = "".join(map(chr, [*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
    assert all(" " <= character <= "~" for character in visible(every))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_tables_show_escapes_wherever_they_go(monkeypatch, is_terminal):
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    print_rows([{"speaker": HOSTILE, "other\x1b": Lines(("one", "two\x1b"))}], Output.table)
    show(f"a line {HOSTILE}")
    written = stream.getvalue()
    assert not OBEYED & set(written.replace("\x1b[1m", "").replace("\x1b[0m", ""))
    lines = [line.rstrip() for line in written.splitlines()]
    assert len([line for line in lines if "two\\x1b" in line]) == 1
    assert lines[-1] == f"a line {visible(HOSTILE)}"


def test_csv_keeps_the_data_but_on_a_terminal(monkeypatch):
    terminal = on_terminal(monkeypatch)
    print_rows([{"speaker": HOSTILE}], Output.csv)
    assert not OBEYED & set(terminal.getvalue())
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO(newline=""))
    print_rows([{"speaker": HOSTILE}], Output.csv)
    assert list(csv.reader(io.StringIO(pipe.getvalue(), newline=""))) == [["speaker"], [HOSTILE]]


def test_json_escapes_what_reads_back_as_the_same(monkeypatch):
    terminal = on_terminal(monkeypatch)
    print_rows([{"speaker": HOSTILE, "tag": "\U000e0041"}], Output.json)
    assert not OBEYED & set(terminal.getvalue())
    assert json.loads(terminal.getvalue()) == [{"speaker": HOSTILE, "tag": "\U000e0041"}]


def test_rows_of_unlike_columns_have_them_all(monkeypatch):
    lines = [["a", "b"], ["1", ""], ["", "2"]]
    for output, wanted in ((Output.json, [{"a": 1, "b": None}, {"a": None, "b": 2}]), (Output.csv, lines)):
        monkeypatch.setattr(sys, "stdout", pipe := io.StringIO(newline=""))
        print_rows([{"a": 1}, {"b": 2}], output)
        read = json.loads if output is Output.json else lambda text: list(csv.reader(io.StringIO(text, newline="")))
        assert read(pipe.getvalue()) == wanted


def test_json_has_no_numbers_that_json_lacks(monkeypatch):
    terminal = on_terminal(monkeypatch)
    print_json({"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads(terminal.getvalue()) == {"a": None, "b": [None, 1.5]}


def test_notes_and_bars_show_escapes(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    say(HOSTILE, "[bold]not markup[/bold]")
    lines = stream.getvalue().split("\n")
    assert lines[:2] == [visible(HOSTILE), "[bold]not markup[/bold]"]
    stream.truncate(0)
    with bar("files of [red]x\x1b]0;title\x07", 2) as update:
        update(advance=1, state="\x1b[2J [/] at work")
    assert "\x1b]0;" not in stream.getvalue() and "\x07" not in stream.getvalue()
    assert "\x1b[2J [/]" not in stream.getvalue()


@pytest.mark.parametrize("columns", ["0", "1", "-5", "x", "19"])
def test_a_width_that_is_none_is_not_believed(monkeypatch, columns):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", columns)

    def no_terminal(*_: Any) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", no_terminal)
    assert terminal_width() == 80
    print_rows([{"experiment": "mean_pool", "UA": "51.2"}], Output.table)
    assert "mean_pool" in terminal.getvalue() and "51.2" in terminal.getvalue()


def test_a_width_that_is_one_is_heeded(monkeypatch):
    on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "44")
    assert terminal_width() == 44
