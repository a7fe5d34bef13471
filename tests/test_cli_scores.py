"""`tfser scores` and `tfser compare` where something is missing, and how their tables look on a narrow terminal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import stored_runs as stored
from click.testing import Result
from typer.testing import CliRunner

from tfser.cli import app
from tfser.heads.commands.score_report import print_table
from tfser.heads.results.score_tables import table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = Cache(tmp_path_factory.mktemp("scores") / "cache")
    utterances = stored.make_utterances(speakers=4)
    stored.put_utterances(cache, utterances)
    long = {"recipe": "default+epochs=20+lr=0.0003", "feature_set": "wavlm-large/12"}
    for n, more in enumerate(({}, {"recipe": "default"}, {"only_folds": (1, 2)}, {"selections": ("last", "test-oracle")})):
        stored.put_experiment(cache, f"mean_pool-small-default-toy-{n}123456789", utterances, **(long | more))
    stored.put_experiment(cache, "svm-b", utterances, protocol="random-kfold:4", speakers_kept="broken")
    return cache.root


@pytest.fixture(autouse=True)
def _in_the_cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSER_CACHE", str(filled))


@pytest.mark.slow
def test_options_restrict_what_is_listed() -> None:
    assert [row["experiment"] for row in json.loads(run("scores", "--head", "svm", "--format", "json").stdout)] == ["svm-b"]
    words = ("--corpus", "toy", "--protocol", "loso-speaker", "--features", "wavlm-large", "--experiment", "0123456789")
    found = json.loads(run("scores", *words, "--format", "json").stdout)
    assert [row["experiment"][-10:] for row in found] == ["0123456789"]
    for words, said in (
        (("scores", "--protocol", "loso-speker"), "did you mean 'loso-speaker'"),
        (("scores", "svm", "--experiment", "svm"), "goes without the argument"),
    ):
        result = run(*words)
        assert result.exit_code == 2 and said in result.stderr and result.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("format", ["json", "csv"])
def test_what_others_read_says_what_a_score_is_worth(format: str) -> None:
    for by in ((), ("--by", "fold"), ("--by", "speaker"), ("--by", "seed"), ("--by", "class"), ("--by", "session")):
        text = run("scores", "--head", "svm", *by, "--format", format).stdout
        assert "speakers_kept" in text and "broken" in text and "classes" in text, by


def test_markdown_has_whole_tables_with_marks(tmp_path: Path) -> None:
    text = run("scores", "--head", "svm", "--format", "markdown").stdout
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables[0].startswith("| head | preset |") and set(tables[1]) <= set("|-: ")
    assert any("§" in line for line in tables) and "test speakers are heard in training" in text
    assert all(line.count("|") == tables[0].count("|") for line in tables[:2])
    said = run("sql", "SELECT 'a|b' AS x, 1.5 AS y", "--output", str(tmp_path / "t.md"))
    assert said.exit_code == 0, said.stderr
    assert (tmp_path / "t.md").read_text() == "| x | y |\n| --- | ---: |\n| a\\|b | 1.5 |\n"


@pytest.mark.slow
def test_a_run_that_cannot_be_read_is_said_in_one_line(filled: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(filled, tmp_path / "cache")
    (cache / "catalogue.duckdb").unlink(missing_ok=True)
    (cache / "runs" / "svm-b-f2-s0" / "predictions.parquet").write_bytes(b"broken")
    here = ("--cache", str(cache))
    why = "predictions.parquet: its content is not what was written there"
    line = f"left out of {cache}: runs/svm-b-f2-s0 ({why}); `tfser cache verify`"
    for words in (("scores",), ("scores", "svm-b", "--format", "json"), ("compare", "svm-b", "0123456789", "--common")):
        result = run(*words, *here)
        assert result.exit_code == 0, (words, result.stderr)
        assert (result.stderr.count(line), result.stderr.count("svm-b-f2-s0")) == (1, 1), (words, result.stderr)
    assert "left out of" not in run("scores").stderr  # where all can be read


@pytest.mark.parametrize("width", [80, 120])
def test_what_tells_rows_apart_stays_on_a_narrow_terminal(
    filled: Path, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with open_catalogue(Cache(filled)) as connection:
        found = table(connection)
    print_table(found, None, width)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    first, second = text.split("toy, random-kfold:4")
    tables = [line for line in first.splitlines() if not line.startswith(("In all rows", "Not shown"))]
    assert [line for line in tables if len(line) > width] == []
    assert "selection" in first and "2/4" in first and "4/4" in first and "+epochs=20" in first and "† " in second
    assert "In all rows:" in first and "features wavlm-large/12" in first
    assert first.count(" ± ") >= 5 and second.count("§") >= 2 and "(test speakers in training)" in second


def test_levels_that_are_the_same_are_shown_once(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tfser.heads.results.score_tables import Wanted, whole_utterances

    with open_catalogue(Cache(filled)) as connection:
        found = table(connection, Wanted(segments=True, experiment="svm"))
        assert whole_utterances(connection, ["svm-b"]) == set()  # two segments an utterance
    print_table(found, None, None)
    assert "segment" in capsys.readouterr().out
    print_table(found, None, None, once=["svm-b"])
    out = capsys.readouterr().out
    assert out.count("svm-b") == 1 and "both levels are the same" in out
