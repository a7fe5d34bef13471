"""The program's edges, from outside: closed streams, locales, arguments that are no text, full disks, Ctrl-C, and its errors."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tfser.cli import Contents, app
from tfser.manifests import failures
from tfser.manifests.cache import Cache
from tfser.manifests.errors import first_line
from tfser.manifests.utterances import Utterance

HOSTILE = "an\x1b[2Jna\u202e"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def cache(tmp_path_factory, put_corpus) -> Cache:
    """A cache whose path is not ASCII, with a speaker whose name is hostile."""
    cache = Cache(tmp_path_factory.mktemp("edges") / "é" / "cache")
    put_corpus(cache, [Utterance(utterance_id=f"u{i}", path=f"u{i}.wav", speaker=HOSTILE, label="anger") for i in range(3)])
    return cache


def program(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command in which `tfser` stands for the program."""
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONUTF8", "PYTHONIOENCODING", "LANG", "LC_ALL")}
    line = f'tfser() {{ "{sys.executable}" -c "from tfser.cli import main; main()" "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], env=environ | environment, capture_output=True, timeout=300, check=False)


@pytest.mark.slow
def test_closed_streams_are_as_good_as_the_null_device(cache):
    for closed in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        done = program(f"tfser sql 'SELECT 1 AS a' --cache '{cache.root}' {closed}")
        assert done.returncode == 0, (closed, done.stderr)
        assert b"Traceback" not in done.stderr
        if ">&-" not in closed.split():
            assert done.stdout.split() == [b"a", b"1"], closed


SLOW_WORDS = [pytest.param(words, marks=pytest.mark.slow) for words in ("corpora --format csv", "corpora --format json")]


@pytest.mark.few(1)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["corpora", "--version", *SLOW_WORDS])
def test_a_full_disk_behind_standard_output_is_one_line(words):
    done = program(f"tfser {words} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"tfser: standard output: cannot be written (no space left on device)\n"


@pytest.mark.slow
def test_who_reads_no_further_is_no_error(cache):
    query = "SELECT repeat(chr(97), 1000) AS x FROM range(5000)"
    done = program(f"set -o pipefail; tfser sql \"{query}\" --format csv --cache '{cache.root}' | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")


@pytest.mark.slow
def test_other_locales_see_the_same_cache(cache):
    """Where Python would speak ASCII, libraries still get paths and texts in UTF-8; the terminal gets what it can show."""
    asked = f"tfser sql \"SELECT 'é' AS x, count(*) AS n FROM utterances\" --format csv --cache '{cache.root}'"
    for environment in ({"PYTHONUTF8": "0", "LC_ALL": "C"}, {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}):
        done = program(asked, **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"x,n\n\\xe9,3\n", b"")
    done = program(asked, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, b"x,n\n\\xe9,3\n")


@pytest.mark.slow
def test_texts_that_are_not_utf8_are_one_line(cache):
    for command in (
        f"tfser sql $'SELECT \\'\\xe9\\'' --cache '{cache.root}'",
        f"printf \"SELECT '\\xe9'\" | tfser sql --cache '{cache.root}'",
        f"tfser scores $'\\xe9' --cache '{cache.root}'",
        "tfser sql 'SELECT 1' --cache $'/tmp/\\xe9'",
        "tfser scan --corpus table --table $'/tmp/\\xe9.csv' --cache /tmp/nowhere",
        "tfser train --head $'\\xe9'",
    ):
        done = program(command, LC_ALL="C.UTF-8")
        assert done.returncode == 2, (command, done.stderr)
        assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"tfser: ") and b"Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_a_query_at_once(cache, tmp_path):
    endless = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 1000000000) SELECT count(*) FROM r"
    began = tmp_path / "began"
    script = (
        "import pathlib, duckdb\nfrom tfser.manifests.catalogue import statements\nfrom tfser.cli import main\n"
        "ask = statements.interruptibly\n"
        f"statements.interruptibly = lambda c, w: (pathlib.Path({str(began)!r}).touch(), ask(c, w))[1]\nmain()"
    )
    words = [sys.executable, "-c", script, "sql", endless, "--cache", str(cache.root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - sent < 30
    assert (process.returncode, said) == (130, b"tfser: interrupted\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--corpus", "x"), "corpus x is not in"),
        (("scan",), "emodb"),
        (("train", "--head", "mean_pool", "--lr", "0.01"), "there is no option --lr, but a setting: write --set lr=VALUE"),
        (("extract", "--n-mels", "80"), "write --set n_mels=VALUE"),
        (("train", "--head", "logreg", "--name", ""), "--name: the value is empty"),
        (("scan", "--corpus", "table", "--name", ""), "--name: the value is empty; give one, or leave it out"),
        (("scores", "--cache="), "--cache: the value is empty"),
        (("heads", "--preset", "x"), "tfser heads NAME"),
        (("heads", "mean_pol"), "did you mean 'mean_pool'?"),
    ],
)
def test_what_is_asked_wrongly_says_what_is_right(words, said, tmp_path, monkeypatch):
    monkeypatch.setenv("TFSER_CACHE", str(tmp_path / "cache"))
    result = run(*words)
    assert result.exit_code == 2, result.stderr
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_reading_commands_make_nothing_in_a_folder_that_is_no_cache(tmp_path):
    for words in (
        ("scores",), ("sql", "SELECT 1"), ("audit",), ("cache", "ls"), ("cache", "du"), ("cache", "verify"),
        ("cache", "rm", "--stale", "--yes"), ("manifest", "path"), ("manifest", "rebuild"),
    ):  # fmt: skip
        result = run(*words, "--cache", str(tmp_path))
        assert result.exit_code == 2, (words, result.stderr)
        assert "no c" in result.stderr and "whole" not in result.stderr
        assert list(tmp_path.iterdir()) == [], words


def test_manifest_path_is_one_that_is_there(cache, monkeypatch):
    result = run("manifest", "path", "--cache", str(cache.root))
    assert Path(result.stdout.rstrip("\n")).is_file()
    from tfser.manifests.catalogue import reading as catalogue

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache.catalogue.unlink()
    monkeypatch.setattr(catalogue, "aside", full)
    result = run("manifest", "path", "--cache", str(cache.root))
    assert result.exit_code == 1 and result.stdout == "" and "cannot be written" in result.stderr


def test_a_long_statement_is_no_file_name(cache):
    statement = f"SELECT 1 AS a /* {'x' * 300}/{'y' * 300} */"
    result = run("sql", statement, "--format", "json", "--cache", str(cache.root))
    assert json.loads(result.stdout) == [{"a": 1}]
    assert run("sql", "nowhere.sql", "--cache", str(cache.root)).exit_code == 2
    assert run("sql", "SELECT 'x.sql' AS a; -- .sql", "--cache", str(cache.root)).exit_code == 0


def test_a_statement_file_may_have_a_mark(cache, tmp_path):
    (tmp_path / "q.sql").write_bytes(b"\xef\xbb\xbfSELECT 1 AS a")
    result = run("sql", str(tmp_path / "q.sql"), "--format", "csv", "--cache", str(cache.root))
    assert result.stdout == "a\n1\n"


def test_hostile_names_in_results_files_and_errors(cache, tmp_path):
    query = "SELECT DISTINCT speaker FROM utterances"
    result = run("sql", query, "--cache", str(cache.root))
    assert result.stdout.split() == ["speaker", "an\\x1b[2Jna\\u202e"]
    result = run("sql", query, "--cache", str(cache.root), "--output", str(tmp_path / "s.csv"))
    assert (tmp_path / "s.csv").read_text(encoding="utf-8") == f"speaker\n{HOSTILE}\n"
    result = run("sql", f'FROM "{HOSTILE}"', "--cache", str(cache.root))
    assert result.exit_code == 2 and "\x1b" not in result.stderr and "\\x1b[2J" in result.stderr


def test_plans_are_drawn_in_lines(cache):
    result = run("sql", "EXPLAIN SELECT count(*) FROM utterances", "--cache", str(cache.root))
    assert result.exit_code == 0 and len(result.stdout.splitlines()) > 3 and "\\n" not in result.stdout


@pytest.mark.parametrize("command", ["sql", "scores"])
def test_outputs_of_unknown_kinds_are_refused(cache, tmp_path, command):
    words = (command, *(("SELECT 1 AS a",) if command == "sql" else ()), "--cache", str(cache.root), "--output")
    assert "the suffix .xlsx is no format" in run(*words, str(tmp_path / "s.xlsx")).stderr
    assert "there is no folder" in run(*words, str(tmp_path / "new" / "s.csv")).stderr
    assert list(tmp_path.iterdir()) == []
    assert run(*words, str(tmp_path / "s.xlsx"), "--format", "csv").exit_code == 0


def test_errors_of_the_system_name_a_path_and_a_way_out():
    message, code = failures.describe(OSError(errno.ENOLCK, "No locks available", "/disk/locks/x.lock"), {})
    assert code == 1
    assert message.startswith("/disk/locks/x.lock: no locks available; this disk offers no file locks; name a folder")
    message, _ = failures.describe(OSError(errno.EXDEV, "Cross-device link", "/a", None, "/b"), {})
    assert message.startswith("/a to /b: cross-device link; ")
    assert failures.describe(MemoryError(), {}) == ("there is not enough memory (run again with --debug for the traceback)", 1)
    assert failures.describe(KeyError("x"), {})[0].startswith("KeyError: 'x' (")


def test_only_commands_that_keep_work_say_so():
    for words in (["profile", "--head", "train"], ["cache", "ls"]):
        assert not Contents.says(words, "goes_on")
    for words in (["train", "--head", "x"], ["cache", "collapse", "--run", "x"]):
        assert Contents.says(words, "goes_on")
    assert (
        Contents.says(["report", "x"], "ends_at_once")
        and Contents.says(["runs", "ls"], "ends_at_once")
        and not Contents.says(["train"], "ends_at_once")
    )
    assert "what was finished is safe" in failures.interrupted(True) and failures.interrupted(False) == "interrupted"


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(ValueError("one\n two "), 2) == "one two"
    assert first_line(ValueError("\n\none\ntwo")) == "one" and first_line(ValueError("one\n\nLINE 1: x"), 2) == "one"
    assert first_line(ValueError("")) == "ValueError"
