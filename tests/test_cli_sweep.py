"""`tfser sweep` through the runner, and through a process that is killed; `tfser train` on several feature sets."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from tfser.manifests.cache import Cache

from .conftest import fill_with_tones, run

FAST = ("--device", "cpu", "--threads", "1", "--no-keep-memory")
LINEAR = ("sweep", "--head", "mean_pool", "--preset", "linear", "--features", "logmel", *FAST)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    above = tmp_path_factory.mktemp("cli-sweep")
    cache = Cache(above / "cache")
    fill_with_tones(cache, above, seconds=0.2, each=(3, 3, 3), noise=0.1, logmel=({}, {"n_mels": "16"}))
    return cache.root


@pytest.fixture
def cache(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = shutil.copytree(filled, tmp_path / "cache")
    monkeypatch.setenv("TFSER_CACHE", str(root))
    return Path(root)


def test_a_sweep_from_the_plan_to_the_table(cache: Path, tmp_path: Path) -> None:
    words = (*LINEAR, "--epochs", "2", "--seeds", "0-1", "--fold", "1-2")
    plan = run(*words, "--dry-run")
    assert plan.exit_code == 0, plan.stderr
    assert "8 runs, 0 finished, 8 to do" in plan.stderr and "no estimate yet" in plan.stdout
    assert not (cache / "runs").exists()

    result = run(*words, "--format", "json", "--output", str(tmp_path / "runs.parquet"))
    assert result.exit_code == 0, result.stderr
    first = next(row for row in json.loads(result.stdout) if not row["reference"])
    assert (first["head"], first["runs"], first["seeds"], first["folds"]) == ("mean_pool", 4, [0, 1], [1, 2])
    assert first["pooled_UA_low"] is None or first["pooled_UA_low"] <= first["pooled_UA"]
    kept = [row for row in pq.read_table(tmp_path / "runs.parquet").to_pylist() if not row["reference"]]
    assert [(row["seed"], row["fold"]) for row in kept] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert sum(row["UA"] for row in kept) / 4 == pytest.approx(first["UA"])
    assert re.search(r"4/\d+ mean_pool linear on logmel, fold 2, seed 1: UA", result.stderr)

    more = run(*words, "--seeds", "0-2", "--format", "markdown", "--output", str(tmp_path / "runs.csv"))
    assert more.exit_code == 0, more.stderr
    assert "found finished (--again trains them again)" in more.stderr and "| mean_pool | linear |" in more.stdout
    with (tmp_path / "runs.csv").open() as file:
        assert sum(row["head"] == "mean_pool" for row in csv.DictReader(file)) == 6
    known = run(*words, "--seeds", "0-3", "--dry-run")
    assert (
        "for 2 of them, one after the other, as finished runs took here" in known.stderr
        and "12 runs, 10 finished, 2 to do" in known.stderr
    )


@pytest.mark.slow
def test_a_file_and_what_options_change_of_it(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        'device = "cpu"\nfold = 1\nepochs = 2\nreference = false\n[[head]]\nname = "mean_pool"\npresets = "all"\n'
        'features = ["logmel", "logmel+n_mels=16"]\nset = { lr = 0.01 }\n'
    )
    result = run("sweep", str(tmp_path / "my.toml"), "--dry-run", "--format", "json", "--seeds", "4,5")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    assert [(row["preset"], row["features"]) for row in table] == [
        (preset, features) for features in ("logmel", "logmel+n_mels=16") for preset in ("mlp", "linear")
    ]
    assert all(row["seeds"] == [4, 5] and row["folds"] == [1] and "lr=0.01" in row["recipe"] for row in table)


REFUSED = [
    (("sweep",), "a sweep needs a head"),
    ((*LINEAR, "--seeds", "a"), "seeds a: write a number"),
    ((*LINEAR, "--selection", "best"), "unknown selection 'best'"),
    ((*LINEAR, "--selection", "val"), "add --validation next-group"),
    ((*LINEAR, "--output", "runs.xlsx"), "ends in .parquet or .csv"),
    ((*LINEAR, "--recipe", "papr"), "unknown recipe of mean_pool 'papr'"),
    (("sweep", "none.toml"), "none.toml: cannot be read"),
    (("train", "--head", "mean_pool", "--features", "logmel,mel"), "unknown feature set of toy 'mel'"),
]


@pytest.mark.slow
def test_wrong_requests_get_one_line_and_exit_2(cache: Path) -> None:
    for words, expected in REFUSED:
        result = run(*words)
        assert result.exit_code == 2, result.stderr
        assert expected in result.stderr and result.stderr.startswith("tfser: ") and "Traceback" not in result.stderr
        assert not (cache / "runs").exists(), words


@pytest.mark.slow
def test_a_run_that_fails_is_listed_and_the_others_go_on(cache: Path) -> None:
    words = ("sweep", "--head", "mean_pool", "--features", "logmel", "--fold", "1", "--epochs", "2", "--no-reference", *FAST)
    result = run(*words, "--preset", "all", "--set", "lr=1e30")
    assert result.exit_code == 1, result.stderr
    assert "failed: mean_pool mlp fold 1 seed 0: after epoch 1" in result.stderr
    assert "linear" in result.stdout and "Without the reference heads" in result.stderr


@pytest.mark.slow
def test_numbers_that_looked_at_the_test_side_are_marked(cache: Path) -> None:
    words = (*LINEAR, "--epochs", "2", "--fold", "1", "--no-reference", "--selection", "test-oracle")
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    said = "† the epoch was chosen by looking at the test side: an upper bound, and no result."
    assert "†" in result.stdout and result.stderr.count(said) == 1
    paper = run(*words, "--format", "latex")
    assert r"$^{\dagger}$" in paper.stdout and r"\toprule" in paper.stdout


@pytest.mark.slow
def test_train_takes_several_feature_sets(cache: Path) -> None:
    words = ("train", "--head", "mean_pool", "--epochs", "2", "--fold", "1", *FAST, "--features", "logmel,logmel+n_mels=16")
    table = run(*words)
    assert table.exit_code == 0, table.stderr
    assert [line for line in table.stdout.splitlines() if line.startswith("features ")] == [
        "features logmel",
        "features logmel+n_mels=16",
    ]
    result = run(*words, "--format", "json")
    assert result.exit_code == 0 and result.stderr.count("found finished") == 2
    assert {row["features"] for row in json.loads(result.stdout)} == {"logmel", "logmel+n_mels=16"}


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_killed_sweep_leaves_no_process_and_goes_on(cache: Path, filled: Path, tmp_path: Path) -> None:
    """SIGKILL of the parent: workers end, finished runs are kept, the others go on to the numbers of an unbroken sweep."""
    words = [*LINEAR, "--epochs", "60", "--fold", "1-2", "--seeds", "0-1", "--no-reference", "--jobs", "2"]
    words += ["--checkpoint-every", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from tfser.cli import main; main()", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = [process.stderr.readline()]  # the first finished run
    assert lines[0].startswith("1/4 mean_pool linear"), lines[0] + process.stderr.read()
    owners = [path.read_text() for path in (cache / "locks").glob("runs--*.owner")]  # process 123 on host
    workers = {int(text.split()[1]) for text in owners}
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert workers and process.pid not in workers
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)

    states = [json.loads(path.read_text())["status"] for path in (cache / "runs").glob("*/run.json")]
    assert "finished" in states and (len(states) < 4 or "running" in states)
    one = [*words[: words.index("--jobs")], "--format", "json"]
    result = run(*one)
    assert result.exit_code == 0 and "found finished" in result.stderr, result.stderr
    unbroken = run(*one, "--cache", str(shutil.copytree(filled, tmp_path / "unbroken")))

    def scores(result: Any) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(result.stdout)]

    assert scores(result) == scores(unbroken)


@pytest.mark.slow
def test_the_search_in_the_documents_runs(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example, with a stand-in for Optuna that draws the first choice, on one fold of the cache here."""
    page = (Path(__file__).parents[1] / "docs" / "hyperparameter_search.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    code = code.replace("TRIALS, FOLDS = 20, range(1, 11)", "TRIALS, FOLDS = 1, [2]").replace('"emodb"', '"toy"')

    class Trial:
        def __init__(self) -> None:
            self.user_attrs: dict[str, Any] = {}

        def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
            return low

        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            return choices[0]

        def suggest_int(self, name: str, low: int, high: int, step: int) -> int:
            return low

        def set_user_attr(self, name: str, value: Any) -> None:
            self.user_attrs[name] = value

    class Study:
        def optimize(self, objective: Any, n_trials: int) -> None:
            self.best_trial = Trial()
            self.best_value = objective(self.best_trial)

    def called(words: list[str], **_: Any) -> SimpleNamespace:
        result = run(*words[3:], *(FAST if words[3] == "train" else ()))
        return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)

    optuna = SimpleNamespace(
        create_study=lambda **_: Study(), samplers=SimpleNamespace(TPESampler=lambda seed: None), TrialPruned=RuntimeError
    )
    monkeypatch.setitem(sys.modules, "optuna", optuna)  # type: ignore[arg-type]
    monkeypatch.setattr(subprocess, "run", called)
    exec(compile(code, "docs/hyperparameter_search.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("fold 2: {'lr': 0.0001, 'label_smoothing': 0.0, 'epochs': 10}, validation UA ")
    (about,) = [json.loads(path.read_text()) for path in (cache / "runs").glob("*/run.json")]
    assert about["epochs"] == 10 and about["validation"] == "speakers:1"


def test_reproduce_says_what_to_extract(cache: Path) -> None:
    result = run("reproduce", "tf-transformer", "--table", "5", "--dry-run", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    way_out = "run `tfser extract --corpus iemocap --features logmel --root FOLDER`"
    assert f"(1) iemocap is not in the cache: {way_out}" in result.stdout
    assert "T+F+TF" in result.stdout and "nothing of it can be run yet" in result.stderr
    assert "without --dry-run its rows are trained on the built-in synthetic corpus" in result.stderr
    cells = json.loads(run("reproduce", "tf-mamba", "--table", "I,III", "--dry-run", "--format", "json").stdout)
    assert {cell["table"] for cell in cells} == {"I", "III"} and all(cell["note"] for cell in cells)
    for words in (("tf-mambo",), ("tf-mamba", "--table", "IV"), ("tf-mamba", "--seeds", "x")):
        assert run("reproduce", *words).exit_code == 2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_worker_that_says_nothing_ends_with_its_parent_too(cache: Path) -> None:
    """It waits for a run that is held here, so that only the watch over its parent can end it."""
    words = [*LINEAR, "--epochs", "1", "--fold", "1-2", "--no-reference", "--jobs", "2"]
    (plan,) = json.loads(run(*words, "--dry-run", "--format", "json").stdout)
    with Cache(cache).lock(f"runs/{plan['experiment']}-f1-s0"):
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from tfser.cli import main; main()", *words], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        assert any("waiting for it" in line for line in said)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        until = time.monotonic() + 30
        while any(alive(pid) for pid in children) and time.monotonic() < until:
            time.sleep(0.05)
        assert children and not any(alive(pid) for pid in children)
