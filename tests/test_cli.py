"""Every command, through the runner, on a small corpus of two tones: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from tfser.cli import app
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.utterances import Skipped
from tfser.pipeline.extraction.extract import ExtractReport
from tfser.pipeline.features.engine import Computing

from .conftest import run

SPEAKERS = ("anna", "bert", "carl")
TRAIN = ("train", "--head", "mean_pool", "--epochs", "2", "--device", "cpu", "--no-keep-memory")


def tone(path: Path, hz: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(16000 * rng.uniform(0.4, 1.1))
    samples = 0.2 * np.sin(2 * np.pi * hz * np.arange(n) / 16000) + 0.01 * rng.standard_normal(n)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 3 speakers x 2 labels x 4 utterances, with a column of its own."""
    root = tmp_path_factory.mktemp("toy")
    lines = ["path,label,speaker,session,age"]
    for s, speaker in enumerate(SPEAKERS):
        for label, hz in (("angry", 1500.0), ("sad", 300.0)):
            for i in range(4):
                name = f"{speaker}/{label}{i}.wav"
                tone(root / name, hz + 20 * s, seed=100 * s + 10 * i + len(label))
                lines.append(f"{name},{label},{speaker},one,{30 + s}")
    (root / "toy.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def full(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the corpus, its features and one trained experiment; tests that change it take a copy."""
    cache = tmp_path_factory.mktemp("cache")
    assert run("extract", "--corpus", "table", "--table", str(corpus / "toy.csv"), "--cache", str(cache)).exit_code == 0
    assert run(*TRAIN, "--cache", str(cache)).exit_code == 0
    return cache


@pytest.fixture
def own(full: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(full, tmp_path / "own"))


def ask(cache: Path, query: str) -> list[dict[str, Any]]:
    result = run("sql", query, "--format", "json", "--cache", str(cache))
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_version_and_help() -> None:
    assert run("--version").stdout.strip() == "0.1.0"
    help_text = run("--help").stdout
    for name in ("scan", "extract", "train", "audit", "sql", "cache", "manifest", "protocol", "demo", "scores", "corpora"):
        assert f"  {name} " in help_text
    usage = run("plot", "--help").stdout.splitlines()[0]
    assert usage.endswith("plot [OPTIONS] KIND [EXPERIMENT ...]")


@pytest.mark.few(10)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("extract", "--corpus", "emdb"), "unknown corpus 'emdb'; did you mean 'emodb'?"),
        (("extract", "--corpus", "iemocap"), "Session1/sentences/wav"),
        (("extract", "--corpus", "emodb", "--root", "/nowhere"), "no such folder"),
        (("extract", "--corpus", "emodb", "--features", "logmle"), "did you mean 'logmel'?"),
        (("extract", "--corpus", "emodb", "--set", "n_mels"), "write KEY=VALUE"),
        (("extract", "--corpus", "emodb", "--set", "n_mels=many"), "n_mels is a whole number"),
        (("extract", "--corpus", "emodb", "--set", "n_mells=40"), "did you mean 'n_mels'?"),
        (("extract", "--corpus", "emodb", "--dtype", "float8"), "unknown dtype"),
        (("extract", "--corpus", "emodb", "--table", "x.csv"), "go with --corpus table"),
        (("scan", "--corpus", "table"), "--table FILE"),
        (("scan", "--corpus", "table", "--table", "nowhere.csv"), "no such file"),
        (("train",), "no corpus in"),  # the head is chosen by the features
        (("train", "--head", "mean_pol"), "did you mean 'mean_pool'?"),
        (("train", "--head", "mean_pool"), "no corpus in"),
        (("train", "--head", "mean_pool", "--corpus", "emodb"), "run `tfser extract --corpus emodb` first"),
        (("audit",), "no corpus in"),
        (("protocol", "show", "loso-speker"), "did you mean 'loso-speaker'?"),
        (("cache", "rm", "--stale", "--yes"), "no cache at"),
        (("sql", "SELECT 1"), "no cache at"),
        (("sql", "SELECT 1", "--format", "xml"), "xml"),
        (("nonsense",), "No such command 'nonsense'"),
        (("manifest", "schema", "--format", "xml"), "markdown or json"),
    ],
)
def test_wrong_requests_get_one_line_and_exit_2(words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TFSER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFSER_CORPORA", raising=False)
    result = run(*words)
    assert result.exit_code == 2, result.stderr
    assert expected in result.stderr
    assert result.stderr.startswith("tfser: ") and "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--head", "mean_pool", "--fold", "4"), "has folds 1 to 3"),
        (("train", "--head", "mean_pool", "--fold", "x"), "a number, a list"),
        (("train", "--head", "mean_pool", "--preset", "big"), "unknown preset of mean_pool"),
        (("train", "--head", "mean_pool", "--recipe", "secret"), "unknown recipe of mean_pool"),
        (("train", "--head", "mean_pool", "--set", "lrr=1"), "unknown setting 'lrr'"),
        (("train", "--head", "mean_pool", "--set", "lr=-1"), "lr"),
        (("train", "--head", "mean_pool", "--features", "wavlm"), "unknown feature set of toy"),
        (("train", "--head", "mean_pool", "--protocol", "emodb7-speaker"), "is for emodb, not for toy"),
        (("train", "--head", "mean_pool", "--protocol", "group-kfold"), "say into how many folds"),
        (("train", "--head", "mean_pool", "--labels", "anger"), "fewer than two classes"),
        (("train", "--head", "mean_pool", "--validation", "next"), "unknown validation policy"),
        (("train", "--head", "mean_pool", "--device", "abacus"), "not usable here"),
        (("audit", "--corpus", "toi"), "did you mean 'toy'?"),
        (("sql", "SELECT * FROM uterances"), "uterances"),
        (("sql", "DROP TABLE utterances"), "only statements that read"),
        (("sql", "SELECT 1; SELECT 2"), "one statement"),
        (("sql", "SELECT 1", "--format", "parquet"), "--output FILE"),
        (("cache", "rm", "--features", "logmell"), "did you mean 'logmel'?"),
        (("cache", "rm", "--run", "nothing"), "unknown run"),
        (("cache", "rm"), "say what to remove"),
        (("cache", "rm", "--features", "logmel"), "add --yes"),
    ],
)
def test_wrong_requests_on_a_filled_cache(words: tuple[str, ...], expected: str, full: Path) -> None:
    result = run(*words, "--cache", str(full))
    assert result.exit_code == 2, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == (3 if "--yes" in expected else 1) - (
        "--yes" in expected
    )


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfser.cli", "audit", "--debug", "--cache", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_a_second_extraction_does_nothing_and_says_so(corpus: Path, own: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in own.rglob("*") if p.is_file() and "locks" not in p.parts}
    result = run("extract", "--corpus", "toy", "--cache", str(own))
    assert result.exit_code == 0
    assert "nothing to do: 24 of 24 utterances" in result.stderr
    assert {p: p.stat().st_mtime_ns for p in own.rglob("*") if p.is_file() and "locks" not in p.parts} == before


def test_columns_of_the_corpus_s_own_can_be_queried(full: Path) -> None:
    assert ask(full, "SELECT speaker, any_value(age) AS age FROM utterances GROUP BY ALL ORDER BY 1") == [
        {"speaker": "anna", "age": 30},
        {"speaker": "bert", "age": 31},
        {"speaker": "carl", "age": 32},
    ]


def test_sql_formats(full: Path, tmp_path: Path) -> None:
    query = "SELECT label, count(*) AS n, [1, 2] AS list FROM utterances GROUP BY ALL ORDER BY 1"
    here = ("--cache", str(full))
    assert run("sql", query, "--format", "csv", *here).stdout.splitlines() == [
        "label,n,list",
        'anger,12,"1, 2"',
        'sadness,12,"1, 2"',
    ]
    assert run("sql", query, *here).stdout.split()[:3] == ["label", "n", "list"]
    file = tmp_path / "q.sql"
    file.write_text(query)
    assert json.loads(run("sql", str(file), "--format", "json", *here).stdout)[0] == {"label": "anger", "n": 12, "list": [1, 2]}
    assert CliRunner().invoke(app, ["sql", "-", "--format", "json", *here], input=query).exit_code == 0
    out = tmp_path / "out"
    assert run("sql", query, "--format", "parquet", "--output", str(out), *here).exit_code == 0
    assert pq.read_table(out).column("n").to_pylist() == [12, 12]
    assert run("sql", "SELECT 1 AS a, 2 AS a", "--format", "parquet", "--output", str(out), *here).exit_code == 0
    assert pq.read_table(out).to_pylist() == [{"a": 1, "a_2": 2}]  # twins cannot be read
    assert run("sql", query, "--format", "csv", "--output", str(out), *here).exit_code == 0
    assert out.read_text().startswith("label,n")
    assert run("sql", "SELECT 1 AS a, 2 AS a", "--format", "json", *here).stdout.split() == [
        "[",
        "{",
        '"a":',
        "1,",
        '"a_2":',
        "2",
        "}",
        "]",
    ]


def test_the_plain_duckdb_library_opens_the_catalogue(full: Path) -> None:
    path = run("manifest", "path", "--cache", str(full)).stdout.strip()
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM folds WHERE role = 'test'").fetchone() == (24 * 1,)


@pytest.mark.slow
def test_rebuild_from_the_files_gives_the_same_answers(own: Path) -> None:
    tables = ("utterances", "features", "folds", "runs", "predictions", "metrics", "scores")
    before = [ask(own, f"SELECT * FROM {t} ORDER BY ALL") for t in tables]
    (own / "catalogue.duckdb").unlink()
    assert run("manifest", "rebuild", "--cache", str(own)).exit_code == 0
    assert [ask(own, f"SELECT * FROM {t} ORDER BY ALL") for t in tables] == before


def test_audit_passes_and_fails(full: Path, own: Path) -> None:
    result = run("audit", "--format", "json", "--cache", str(full))
    assert result.exit_code == 0
    findings = json.loads(result.stdout)
    assert {"audit", "protocol", "fold", "level", "rows"} <= set(findings[0])
    assert {f["level"] for f in findings} == {"ok", "warning"}  # all speakers share the one session: not what is kept apart
    leaky = run("audit", "--protocol", "group-kfold:2:session", "--format", "json", "--cache", str(own))
    assert leaky.exit_code == 1
    assert "at least two groups" in leaky.stderr


def test_a_wrong_speaker_column_is_refused_and_the_override_recorded(corpus: Path, tmp_path: Path) -> None:
    here = ("--cache", str(tmp_path / "cache"))
    table = (corpus / "toy.csv").read_text().splitlines()
    lines = [table[0], *(f"{line.rsplit(',', 2)[0]},{'ab'[i % 2]},{i}" for i, line in enumerate(table[1:]))]
    (corpus / "bad.csv").write_text("\n".join(lines) + "\n")
    assert run("extract", "--corpus", "table", "--table", str(corpus / "bad.csv"), *here).exit_code == 0
    refused = run(*TRAIN, "--protocol", "loso-session", *here)
    assert refused.exit_code == 1
    assert "fails its audit" in refused.stderr and "--allow-leaks" in refused.stderr
    audit = run("audit", "--protocol", "loso-session", "--format", "json", *here)
    assert audit.exit_code == 1
    (finding,) = [f for f in json.loads(audit.stdout) if f["audit"] == "speaker_overlap" and f["fold"] == 1]
    assert finding["level"] == "error" and finding["rows"] == 3
    allowed = run(*TRAIN, "--protocol", "loso-session", "--allow-leaks", *here)
    assert allowed.exit_code == 0 and "LEAKS ALLOWED" in allowed.stderr
    runs = ask(tmp_path / "cache", "SELECT audit, findings FROM runs")
    assert {r["audit"] for r in runs} == {"overridden"}
    assert "speaker_overlap" in runs[0]["findings"]


def test_training_stores_everything(full: Path) -> None:
    (scores,) = ask(full, "SELECT * FROM scores WHERE selection = 'last' AND level = 'utterance'")
    assert scores["folds"] == scores["of_folds"] == 3
    pooled = ask(
        full,
        "SELECT avg((label = predicted)::INT) AS wa FROM predictions WHERE selection = 'last' AND level = 'utterance'",
    )[0]["wa"]
    assert scores["pooled_WA"] == pytest.approx(pooled)
    assert ask(full, "SELECT DISTINCT selection FROM metrics ORDER BY 1") == [{"selection": "last"}, {"selection": "test-oracle"}]
    counts = ask(full, "SELECT count(*) AS n, count(DISTINCT utterance_id) AS u FROM predictions WHERE level = 'utterance'")[0]
    assert counts == {"n": 48, "u": 24}
    runs = ask(full, "SELECT * FROM runs ORDER BY fold")
    assert [r["fold"] for r in runs] == [1, 2, 3] and {r["audit"] for r in runs} == {"passed"}
    config = json.loads(runs[0]["config"])
    assert config["recipe"] == "default+epochs=2" and config["recipe_config"]["epochs"] == 2
    assert json.loads(runs[0]["versions"])["tfser"] == "0.1.0"
    sums = ask(full, "SELECT sum(list_sum(map_values(probabilities))) AS s, count(*) AS n FROM predictions")[0]
    assert sums["s"] == pytest.approx(sums["n"], rel=1e-5)
    assert ask(full, "SELECT count(*) AS n FROM history") == [{"n": 6}]
    folder = full / "runs" / runs[0]["run_id"]
    assert {p.name for p in folder.iterdir()} >= {"run.json", "model.safetensors", "predictions.parquet"}
    assert not [p for p in full.rglob("*") if p.suffix in (".pkl", ".pt", ".pth", ".ckpt")]


def test_finished_runs_are_found_and_again_trains_the_same_numbers(own: Path) -> None:
    query = "SELECT run_id, utterance_id, selection, level, segment, probabilities::VARCHAR AS p FROM predictions ORDER BY ALL"
    before = ask(own, query)
    found = run(*TRAIN, "--fold", "1,3", "--cache", str(own))
    assert found.exit_code == 0 and found.stderr.count("found finished") == 2
    again = run(*TRAIN, "--again", "--cache", str(own))
    assert again.exit_code == 0 and "found finished" not in again.stderr
    assert ask(own, query) == before


@pytest.mark.slow
def test_validation_is_a_selection_of_its_own(own: Path) -> None:
    result = run(*TRAIN, "--fold", "2", "--validation", "next-group", "--format", "json", "--cache", str(own))
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["selection"] for row in rows} == {"last", "val", "test-oracle"}
    roles = ask(
        own,
        "SELECT role, any_value(speaker) AS s, count(*) AS n FROM fold_utterances WHERE protocol = 'loso-speaker/next-group' "
        "AND fold = 3 GROUP BY ALL ORDER BY 1",
    )
    assert roles == [
        {"role": "test", "s": "carl", "n": 8},
        {"role": "train", "s": "bert", "n": 8},
        {"role": "val", "s": "anna", "n": 8},
    ]


def test_protocols_are_listed_and_shown(full: Path) -> None:
    names = [row["protocol"] for row in json.loads(run("protocol", "ls", "--format", "json").stdout)]
    assert {"emodb7-speaker", "iemocap4-session", "loso-speaker", "loso-session", "group-kfold:K"} <= set(names)
    shown = run("protocol", "show", "--format", "json", "--cache", str(full))
    assert json.loads(shown.stdout)["counts"][:2] == [
        {"fold": 1, "role": "train", "anger": 8, "sadness": 8, "all": 16, "speakers": 2},
        {"fold": 1, "role": "test", "anger": 4, "sadness": 4, "all": 8, "speakers": 1},
    ]
    assert "keeps apart speaker" in run("protocol", "show", "--cache", str(full)).stderr


def test_cache_commands(own: Path) -> None:
    here = ("--cache", str(own))
    (entry,) = json.loads(run("cache", "ls", "--format", "json", *here).stdout)
    assert (entry["feature_set"], entry["corpus"], entry["live"], entry["stale"]) == ("logmel", "toy", 24, 0)
    assert json.loads(run("cache", "du", "--format", "json", *here).stdout)[-1]["part"] == "all"
    assert run("cache", "verify", *here).exit_code == 0
    (shard,) = own.glob("features/*/toy/*.h5")
    content = bytearray(shard.read_bytes())
    content[-100] ^= 0xFF
    shard.write_bytes(content)
    damaged = run("cache", "verify", *here)
    assert damaged.exit_code == 1 and ".h5: damaged: its content is not what was written there" in damaged.stdout
    assert run("cache", "verify", "--repair", *here).exit_code == 2 and shard.exists()  # nobody is there to ask
    repaired = run("cache", "verify", "--repair", "--yes", *here)
    assert repaired.exit_code == 0 and not shard.exists() and "moved to removed/" in repaired.stderr
    assert "removed" in {row["part"] for row in json.loads(run("cache", "du", "--format", "json", *here).stdout)}
    assert "tfser cache rm --removed" in run("cache", "ls", *here).stderr
    assert run("cache", "rm", "--removed", "--yes", *here).exit_code == 0 and not (own / "removed").exists()
    assert run("extract", "--corpus", "toy", *here).exit_code == 0
    assert run("cache", "verify", *here).exit_code == 0
    assert run("cache", "rm", "--features", "logmel", "--yes", *here).exit_code == 0
    assert ask(own, "SELECT count(*) AS n FROM features") == [{"n": 0}]
    assert ask(own, "SELECT count(*) AS n FROM runs") == [{"n": 3}]
    experiment = ask(own, "SELECT DISTINCT experiment FROM runs")[0]["experiment"]
    assert run("cache", "rm", "--run", experiment, "--yes", *here).exit_code == 0
    assert ask(own, "SELECT count(*) AS n FROM runs") == [{"n": 0}]
    assert run("cache", "rm", "--corpus", "toy", "--yes", *here).exit_code == 0
    assert ask(own, "SELECT count(*) AS n FROM utterances") == [{"n": 0}]


def test_skipped_audio_is_listed_and_strict_exits_1(corpus: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(corpus, tmp_path / "toy"))
    (root / "anna" / "angry0.wav").unlink()
    (root / "bert" / "sad1.wav").write_bytes(b"no sound")
    soundfile.write(root / "carl" / "sad2.wav", np.zeros(100), 16000)
    words = ("extract", "--corpus", "table", "--table", str(root / "toy.csv"), "--cache", str(tmp_path / "cache"))
    result = run(*words)
    assert result.exit_code == 0
    assert "21 utterances extracted" in result.stderr and "3 skipped" in result.stderr
    assert run(*words, "--strict").exit_code == 1
    skipped = ask(tmp_path / "cache", "SELECT utterance_id, stage FROM skipped ORDER BY 1")
    assert [(s["utterance_id"], s["stage"]) for s in skipped] == [
        ("anna/angry0", "scan"),
        ("bert/sad1", "scan"),
        ("carl/sad2", "extract:logmel"),
    ]
    assert run("audit", "--cache", str(tmp_path / "cache")).exit_code == 0  # what is listed fails no audit
    trained = run(*TRAIN, "--fold", "1", "--cache", str(tmp_path / "cache"))
    assert trained.exit_code == 0
    assert "21 of 24 utterances take part, 3 do not: 2 no readable audio, 1 no features" in trained.stderr


def test_ambiguity_is_asked_for_by_name(corpus: Path, own: Path) -> None:
    here = ("--cache", str(own))
    assert run("scan", "--corpus", "table", "--table", str(corpus / "toy.csv"), "--name", "twin", *here).exit_code == 0
    assert "which corpus? The cache holds toy, twin" in run(*TRAIN, *here).stderr


@pytest.mark.slow
def test_features_of_two_kinds_and_corpora_are_chosen_by_name(corpus: Path, own: Path) -> None:
    here = ("--cache", str(own))
    assert run("extract", "--corpus", "table", "--table", str(corpus / "toy.csv"), "--name", "twin", *here).exit_code == 0
    assert run("extract", "--corpus", "twin", "--dtype", "float16", *here).exit_code == 0
    told = run(*TRAIN, "--corpus", "twin", "--fold", "1", *here)
    assert told.exit_code == 0 and "features logmel" in told.stderr


def test_schema_is_what_the_catalogue_holds(full: Path) -> None:
    tables = json.loads(run("manifest", "schema", "--format", "json").stdout)
    assert len(tables) > 20
    with open_catalogue(Cache(full)) as connection:  # one connection: a command for each of the tables takes ten seconds
        for table in tables:
            found = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {table['table']}").fetchall()}
            named = {c["name"]: c["type"] for c in table["columns"]}
            assert named.items() <= {k: v.replace(", ", ",") for k, v in found.items()}.items(), table["table"]


def test_json_is_json_and_tables_are_what_was_asked(full: Path) -> None:
    here = ("--cache", str(full))
    query = "SELECT 'nan'::DOUBLE AS a, 1.5::DECIMAL(4,2) AS b, MAP {'x': 0.5} AS c, now() AS d, '\\xAA'::BLOB AS e"
    (row,) = json.loads(run("sql", query, "--format", "json", *here).stdout, parse_constant=pytest.fail)
    assert (row["a"], row["b"], row["c"], row["e"]) == (None, 1.5, {"x": 0.5}, "aa") and row["d"].startswith("20")
    assert ":smile:" in run("sql", "SELECT ':smile:' AS a", *here).stdout
    assert '{"x": 0.5}' in run("sql", "SELECT MAP {'x': 0.5} AS a", *here).stdout


def test_sql_comes_from_anywhere_and_goes_by_its_suffix(full: Path, tmp_path: Path) -> None:
    here = ("--cache", str(full))
    assert CliRunner().invoke(app, ["sql", "--format", "csv", *here], input="SELECT 7 AS n").stdout == "n\n7\n"
    file = tmp_path / "question.txt"
    file.write_text("SELECT 8 AS n")
    assert run("sql", str(file), "--format", "csv", *here).stdout == "n\n8\n"
    assert run("sql", "SELECT 9 AS n", "--output", str(tmp_path / "o.parquet"), *here).exit_code == 0
    assert pq.read_table(tmp_path / "o.parquet").to_pylist() == [{"n": 9}]
    assert "this is a folder" in run("sql", "SELECT 9", "--output", str(tmp_path), *here).stderr


def test_no_arguments_print_the_help() -> None:
    for words, heading in (((), "Training:"), (("cache",), "Commands:")):
        result = run(*words)
        assert result.exit_code == 2 and heading in result.stderr and not result.stderr.startswith("tfser:")


@pytest.mark.parametrize("seed", ["9223372036854775808", "-1"])
def test_a_seed_that_no_table_holds_is_refused(seed: str, full: Path) -> None:
    assert run(*TRAIN, "--seed", seed, "--cache", str(full)).exit_code == 2


@pytest.mark.parametrize("fold", ["1-99999999999", "²", "3-1"])
def test_odd_folds_get_a_line(fold: str, full: Path) -> None:
    result = run(*TRAIN, "--fold", fold, "--cache", str(full))
    assert result.exit_code == 2 and result.stderr.startswith("tfser: --fold")


def test_audit_knows_its_feature_sets(full: Path) -> None:
    result = run("audit", "--features", "nope", "--cache", str(full))
    assert result.exit_code == 2 and "unknown feature set 'nope'" in result.stderr


@pytest.mark.slow
def test_leaks_stay_marked_in_the_scores(corpus: Path, tmp_path: Path) -> None:
    here = ("--cache", str(tmp_path / "cache"))
    table = (corpus / "toy.csv").read_text().splitlines()
    lines = [table[0], *(f"{line.rsplit(',', 2)[0]},{'ab'[i % 2]},{i}" for i, line in enumerate(table[1:]))]
    (corpus / "leaky.csv").write_text("\n".join(lines) + "\n")
    assert run("extract", "--corpus", "table", "--table", str(corpus / "leaky.csv"), *here).exit_code == 0
    assert run(*TRAIN, "--protocol", "loso-session", "--allow-leaks", *here).exit_code == 0
    assert {row["audit"] for row in ask(tmp_path / "cache", "SELECT audit FROM scores")} == {"overridden"}
    assert "overridden" in run("scores", *here).stdout


@pytest.mark.slow
def test_a_fold_without_test_features_does_not_cost_the_others(corpus: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(corpus, tmp_path / "toy"))
    for path in (root / "bert").iterdir():
        path.unlink()
    here = ("--cache", str(tmp_path / "cache"))
    assert run("extract", "--corpus", "table", "--table", str(root / "toy.csv"), *here).exit_code == 0
    result = run(*TRAIN, "--allow-leaks", *here)
    assert result.exit_code == 1 and "fold 2: no utterance of its test side" in result.stderr
    assert [r["fold"] for r in ask(tmp_path / "cache", "SELECT fold FROM runs ORDER BY 1")] == [1, 3]


def test_layers_of_one_pass_list_once_what_none_of_them_has() -> None:
    lost = Skipped(corpus="c", utterance_id="u1", path="u1.wav", stage="extract:x", reason="too short")
    listed: list[tuple[str, str]] = []
    said: list[str] = []
    for layer in range(3):
        report = ExtractReport(corpus="c", feature_set=f"x/{layer}", utterances=2, before=1, skipped=[lost])
        said += report.lines(listed)
        listed = report.named()
    assert sum("nothing to do" in line for line in said) == 3 and sum("too short" in line for line in said) == 1
    refused = ExtractReport(corpus="c", feature_set="x/3", utterances=2, before=0, refused="too large for float16")
    said = refused.lines()
    assert "refused" in said[0] and "nothing to do" not in said[0] and "skipped" not in said[0]
    assert refused.tally.left_out["not computed"] == 2
    # The best device takes torch to find: where there is nothing to do, nobody asks.
    assert Computing(keep_memory=False).settled("x", is_encoder=True, tell=lambda text: None).devices == ("auto",)
