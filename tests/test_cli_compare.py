"""`tfser scores` and `tfser compare` through the runner, on stored runs."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import stored_runs as stored

from tfser.manifests.cache import Cache

from .conftest import run


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = Cache(tmp_path_factory.mktemp("cli") / "cache")
    utterances = stored.make_utterances(speakers=4)
    stored.put_utterances(cache, utterances)
    stored.put_experiment(cache, "mean_pool-a", utterances, right=0.9, seeds=(0, 1), selections=("last", "test-oracle"))
    stored.put_experiment(cache, "mean_pool-b", utterances, right=0.6)
    stored.put_experiment(cache, "tf_mamba-c", utterances, right=0.6, only_folds=(1, 2))
    return cache.root


@pytest.fixture(autouse=True)
def _in_the_cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSER_CACHE", str(filled))


@pytest.mark.slow
def test_scores_have_intervals_in_every_format(tmp_path: Path) -> None:
    printed = run("scores", "mean_pool-a")
    assert printed.exit_code == 0, printed.stderr
    assert "pooled UA [95 %]" in printed.stdout and "4 speakers" in printed.stdout
    assert "† the epoch was chosen by looking at the test side" in printed.stdout
    assert "(mean_pool-a): only 4 speakers" in printed.stdout

    rows = json.loads(run("scores", "--format", "json").stdout)
    assert [(row["experiment"], row["selection"], row["seeds"]) for row in rows] == [
        ("mean_pool-a", "last", [0, 1]),
        ("mean_pool-a", "test-oracle", [0, 1]),
        ("mean_pool-b", "last", [0]),
        ("tf_mamba-c", "last", [0]),
    ]
    assert rows[0]["pooled_UA_low"] < rows[0]["pooled_UA"] < rows[0]["pooled_UA_high"]

    table = list(csv.DictReader(io.StringIO(run("scores", "--format", "csv").stdout)))
    assert float(table[0]["pooled_UA_low"]) == rows[0]["pooled_UA_low"] and table[0]["seeds"] == "0, 1"

    for name in ("scores.parquet", "scores.csv", "scores.json"):
        written = run("scores", "--output", str(tmp_path / name))
        assert written.exit_code == 0 and "4 rows written" in written.stderr and written.stdout == ""
    kept = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [row["pooled_UA_high"] for row in kept] == [row["pooled_UA_high"] for row in rows]
    for again, row in zip(json.loads((tmp_path / "scores.json").read_text()), rows, strict=True):
        for name, value in row.items():  # means over folds may differ in the last bit: DuckDB adds in any order
            assert again[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


@pytest.mark.few(2)
@pytest.mark.parametrize(("by", "rows"), [("seed", 5), ("fold", 14), ("class", 12), ("speaker", 14), ("session", 7)])
def test_scores_by_parts(by: str, rows: int) -> None:
    found = json.loads(run("scores", "--by", by, "--format", "json").stdout)
    assert len(found) == rows + (by == "seed")
    assert all(by in row for row in found)
    assert by in run("scores", "--by", by).stdout


def test_compare_in_every_format(tmp_path: Path) -> None:
    printed = run("compare", "mean_pool-a", "mean_pool-b")
    assert printed.exit_code == 0, printed.stderr
    for words in ("A - B", "permutation test of UA", "McNemar", "folds: A better in", "cannot give p below 0.125"):
        assert words in printed.stdout, words

    found = json.loads(run("compare", "mean_pool-a", "mean_pool-b", "--metric", "WA", "--format", "json").stdout)
    score = found["scores"][0]
    assert score["name"] == "WA" and found["permutation"]["smallest_p"] == 0.125
    assert score["difference"]["low"] < score["difference"]["value"] < score["difference"]["high"]
    assert sum(found["wins"]["folds"].values()) == 4 and len(found["speakers"]) == 4

    path = tmp_path / "compared.parquet"
    assert run("compare", "mean_pool-a", "mean_pool-b", "--metric", "WA", "--output", str(path)).exit_code == 0
    rows = pq.read_table(path).to_pylist()
    assert rows[0]["difference_low"] == score["difference"]["low"] and rows[0]["p_permutation"] == found["permutation"]["p"]
    assert [row["part"] for row in rows] == ["score"] * 4 + ["class"] * 3 + ["fold"] * 4 + ["speaker"] * 4
    text = run("compare", "mean_pool-a", "mean_pool-b", "--metric", "WA", "--format", "csv").stdout
    assert len(text.splitlines()) == 1 + len(rows)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("compare", "mean_pool", "tf_mamba"), "may mean 2 experiments"),
        (("compare", "mean_pool-a", "tf_mamba"), "--common compares the"),
        (("compare", "mean_pool-a", "mean_pool-b", "--selection", "val"), "has no predictions of val"),
        (("compare", "mean_pool-a", "mean_pool-b", "--level", "frame"), "has no predictions of last (frame)"),
        (("compare", "mean_pool-a", "mean_pool-b", "--metric", "UAR"), "unknown metric 'UAR'"),
        (("compare", "mean_pool-a", "mean_pool-b", "--format", "parquet"), "--output FILE"),
        (("scores", "--clusters", "room"), "unknown kind of clusters 'room'"),
        (("scores", "--by", "gender"), "unknown table of scores by 'gender'"),
    ],
)
def test_wrong_requests_get_one_line_and_exit_2(words: tuple[str, ...], expected: str) -> None:
    result = run(*words)
    assert result.exit_code == 2 and result.stdout == ""
    assert expected in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_common_compares_what_both_tested() -> None:
    result = run("compare", "mean_pool-a", "tf_mamba", "--common")
    assert result.exit_code == 0, result.stderr
    assert "of 2 speakers" in result.stdout and "utterances are left out" in result.stdout


def test_compare_stands_behind_scores_in_the_help() -> None:
    names = re.findall(r"^  (\w+)", run("--help").stdout, re.M)
    assert names[names.index("scores") + 1] == "compare"
