"""Training through the runner: the two commands of the card, TF-Mamba's options, and the ablation table."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfser.heads import head
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.files import read_json

from .conftest import run

FAST = ("--device", "cpu", "--threads", "1", "--no-keep-memory")
SMALL = ("--width", "8", "--set", "attention_heads=2", "--set", "state=4", *FAST)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, iemocap_tree: ModuleType, write_wav: Any) -> Path:
    """A cache with 60 utterances laid out and named as IEMOCAP's, each with audio of its own, extracted by the card's command."""
    above = tmp_path_factory.mktemp("card")
    turns = [
        iemocap_tree.Turn(f"Ses0{session}F_impro0{1 + i % 3}_{who}{i:03d}", label)
        for session in range(1, 6)
        for who in "FM"
        for i, label in enumerate(("ang", "hap", "exc", "neu", "sad", "neu"))
    ]
    root = above / "iemocap"
    iemocap_tree.make_tree(root, turns, write_wav(above / "one.wav", 0.05))
    for seed, path in enumerate(sorted(root.glob("Session*/sentences/wav/*/Ses*.wav"))):
        path.unlink()
        write_wav(path, 0.3 + 0.01 * (seed % 7), seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFSER_CORPORA", str(above))
        patch.setenv("TFSER_CACHE", str(above / "cache"))
        result = run("extract", "--corpus", "iemocap")
    assert result.exit_code == 0, result.stderr
    return above / "cache"


@pytest.fixture(autouse=True)
def _in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSER_CACHE", str(cache))


def of_run(cache: Path, run_id: str) -> dict[str, Any]:
    about: dict[str, Any] = read_json(cache / "runs" / run_id / "run.json")
    return about


@pytest.mark.slow
def test_the_card_s_commands_run_as_printed(cache: Path) -> None:
    """`tfser extract --corpus iemocap` and `tfser train --head tf_mamba --fold 3`, and nothing else."""
    result = run("train", "--head", "tf_mamba", "--fold", "3")
    assert result.exit_code == 0, result.stderr
    assert "protocol iemocap4-session, features logmel, preset full, recipe paper" in result.stderr
    about = of_run(cache, result.stderr.rpartition("run_id = '")[2].partition("'")[0])
    config = about["config"]
    recipe, architecture = config["recipe_config"], config["head_config"]
    assert (recipe["optimiser"], recipe["lr"], recipe["batch_size"], recipe["cmdt"]) == ("adamw", 5e-4, 32, 0.1)
    assert architecture["scan"] in ("chunked", "mamba_ssm")  # what was used, not "auto"
    assert architecture["max_frames"] == 37  # the longest utterance's, at 100 a second
    assert about["utterances_cut"] == 0 and about["audit"] == "passed" and about["epochs"] == 100


@pytest.mark.slow
def test_cut_utterances_are_counted_and_said(cache: Path) -> None:
    words = ("train", "--head", "tf_mamba", "--fold", "1", "--epochs", "1", "--set", "max_seconds=0.33", *SMALL)
    result = run(*words, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert "longer than 33 frames and cut there (--set max_seconds=...)" in result.stderr
    about = of_run(cache, json.loads(result.stdout)[0]["run_id"])
    assert 0 < about["utterances_cut"] < 60
    assert about["config"]["head_config"]["max_frames"] == 33


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--head", "tf_mamba", "--width", "12"), "attention_heads=8 must divide the width 12"),
        (("train", "--head", "tf_mamba", "--set", "filter=lowpass"), "unknown filter 'lowpass'"),
        (("train", "--head", "tf_mamba", "--set", "scan=mamba_ssm"), "scan=mamba_ssm cannot run on cpu"),
        (("train", "--head", "tf_mamba", "--set", "cmdt_axis=space"), "unknown cmdt_axis 'space'; Known: feature, time"),
        (("train", "--head", "mean_pool", "--width", "12"), "unknown setting 'width'"),
        (("train", "--head", "mean_pool", "--set", "cmdt=0.1"), "mean_pool gives no frames"),
        (("ablate", "--head", "tf_mamba", "--preset", "fll"), "did you mean 'full'?"),
        (("ablate", "--head", "tf_mamba", "--selection", "best"), "unknown selection 'best'"),
        (("ablate", "--head", "tf_mamba", "--selection", "val"), "add --validation next-group"),
        (("ablate", "--head", "mean_pool", "--selection", "test-WA"), "add --set selections=test-WA"),
        (("train", "--head", "logreg", "--set", "lr=0.1"), "unknown setting 'lr'"),
        (("train", "--head", "svm", "--set", "C=0"), "C=0.0: must be above 0"),
        (("train", "--head", "svm", "--recipe", "superb"), "svm is not trained by epochs; take default or balanced"),
        (("train", "--head", "mean_pool", "--set", "selections=best"), "unknown selection 'best'"),
        (("profile", "--head", "logreg"), "logreg is fitted at once and has no network"),
        (("ablate", "--head", "tf_mamba", "--fold", "9"), "folds 1 to 5"),
    ],
)
def test_wrong_requests_get_one_line_and_exit_2(words: tuple[str, ...], expected: str) -> None:
    result = run(*words, *FAST)
    assert result.exit_code == 2, result.stderr
    assert expected in result.stderr and result.stderr.rstrip().splitlines()[-1].startswith("tfser: ")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_short_training_warms_up_for_half_of_it_at_most(cache: Path) -> None:
    result = run("train", "--head", "tf_mamba", "--fold", "1", "--epochs", "2", *SMALL, "--format", "json")
    assert result.exit_code == 0, result.stderr
    about = of_run(cache, json.loads(result.stdout)[0]["run_id"])
    assert about["config"]["recipe_config"]["warmup_epochs"] == 1.0
    assert "+epochs=2+warmup_epochs=1.0" in about["recipe"]


@pytest.mark.slow
def test_the_ablation_table_has_the_paper_s_rows_beside_ours(cache: Path) -> None:
    words = ("ablate", "--head", "tf_mamba", "--fold", "1-2", "--epochs", "1", *SMALL)
    result = run(*words, "--format", "json")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    rows = head("tf_mamba").ablation
    assert [row["row"] for row in table] == [*(row.name for row in rows), "logreg (reference)", "svm (reference)"]
    for row in table:
        assert row["folds"] == 2 and set(row["UA_by_fold"]) == {"1", "2"}
        assert row["UA"] == pytest.approx(sum(row["UA_by_fold"].values()) / 2)
        if row["paper_parameters"]:
            assert abs(row["parameters_typical"] / row["paper_parameters"] - 1) < 0.01
    assert table[0]["UA_gain"] is None
    assert table[4]["UA_gain"] == pytest.approx(table[4]["UA"] - table[0]["UA"])
    assert table[4]["paper"] == {"iemocap WA": 0.753, "iemocap UA": 0.757, "meld WF1": 0.485}
    assert table[3]["parameters"] == table[4]["parameters"] and table[3]["experiment"] != table[4]["experiment"]

    assert table[-1]["selection"] == "last" and table[-1]["UA_gain"] is not None and table[-1]["parameters"] is None

    again = run(*words, "--preset", "full", "--no-reference")
    assert "reference" not in again.stdout
    assert again.exit_code == 0, again.stderr
    assert again.stderr.count("found finished") == 4  # two rows, two folds: nothing is trained twice
    assert "CMDT Loss" in again.stdout and "75.7" in again.stdout and "48.5" not in again.stdout


@pytest.mark.slow
def test_a_head_without_a_table_has_a_row_a_preset() -> None:
    result = run("ablate", "--head", "mean_pool", "--fold", "1", "--epochs", "1", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "mlp" in result.stdout and "linear" in result.stdout


@pytest.mark.slow
def test_reference_heads_are_trained_like_any_other(cache: Path) -> None:
    words = ("train", "--head", "logreg", "--recipe", "balanced", "--fold", "1-2", "--epochs", "7", "--validation", "next-group")
    result = run(*words, "--set", "C=0.1", *FAST, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert "one fit instead of 7 epochs (logreg is fitted at once)" in result.stderr
    rows = json.loads(result.stdout)
    assert {row["selection"] for row in rows} == {"last"} and {row["epoch"] for row in rows} == {1}
    about = of_run(cache, rows[0]["run_id"])
    assert about["recipe"] == "balanced+C=0.1" and about["epochs"] == 1 and about["audit"] == "passed"
    assert about["config"]["head_config"] == {"C": 0.1, "threads": None} and about["parameters"] == 4 * 2 * 80 + 4
    assert (cache / "runs" / rows[0]["run_id"] / "model.safetensors").exists()
    history = json.loads(run("sql", f"SELECT * FROM history WHERE run_id = '{rows[0]['run_id']}'", "--format", "json").stdout)
    assert len(history) == 1 and history[0]["val_UA"] is not None

    table = run("ablate", "--head", "svm", "--preset", "linear", "--fold", "1", *FAST)
    assert table.exit_code == 0, table.stderr
    assert "linear" in table.stdout


@pytest.mark.slow
def test_a_lineage_says_what_it_reports_and_what_that_is(cache: Path) -> None:
    result = run("train", "--head", "mean_pool", "--recipe", "shiftser", "--fold", "1-2", "--epochs", "2", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "shiftser (with settings changed) reports test-WA and test-UA: epochs chosen on the test fold" in result.stderr
    assert "test-oracle, test-UA, test-WA: chosen on the test fold, an upper bound and no result." in result.stderr
    assert result.stdout.index("test-oracle") < result.stdout.index("test-UA") < result.stdout.index("test-WA")


@pytest.mark.slow
def test_a_lineage_brings_its_validation_and_its_limits(cache: Path) -> None:
    words = ("train", "--head", "mean_pool", "--recipe", "superb", "--fold", "1")
    result = run(*words, "--set", "steps=5", "--set", "cut_seconds=0.33", *FAST, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert "validation random-leaky:0.2 (the recipe's)" in result.stderr
    assert "longer than 33 frames and cut there (--set cut_seconds=...)" in result.stderr
    rows = json.loads(result.stdout)
    assert [row["selection"] for row in rows if row["level"] == "utterance"] == ["last", "val", "val-WA", "test-oracle"]
    assert [row["looked_at_test"] for row in rows] == [row["selection"] == "test-oracle" for row in rows]
    about = of_run(cache, rows[0]["run_id"])
    assert about["validation"] == "random-leaky:0.2" and about["protocol"].endswith("/random-leaky:0.2")
    # 60 utterances, 48 in four sessions, a random fifth of all held out: 34 to 42 are trained on, two steps an epoch.
    assert about["epochs"] == 3 and about["config"]["recipe_config"]["cut_frames"] == 33

    honest = run(*words, "--set", "steps=1", "--validation", "next-group", *FAST, "--format", "json")
    assert honest.exit_code == 0, honest.stderr
    assert of_run(cache, json.loads(honest.stdout)[0]["run_id"])["validation"] == "next-group"


@pytest.mark.slow
def test_a_protocol_that_says_how_to_validate_wins_over_the_recipe(cache: Path) -> None:
    request = Request(head="mean_pool", recipe="superb", protocol="iemocap4-session/next-group", device="cpu")
    experiment = resolve(Cache(cache), request)
    assert experiment.validation == "next-group"
    assert "validation of the protocol, instead of the recipe's random-leaky:0.2" in experiment.chosen


@pytest.mark.slow
def test_slices_of_a_recipe_fit_every_head(cache: Path) -> None:
    """Also one whose network is made for so many frames, and utterances that are shorter than a slice."""
    for name, more in (("tf_mamba", SMALL), ("mean_pool", FAST)):
        words = ("train", "--head", name, "--recipe", "ca_mser", "--fold", "1", "--epochs", "1", *more, "--format", "json")
        result = run(*words)
        assert result.exit_code == 0, result.stderr
        rows = json.loads(result.stdout)
        assert "test-loss-patience8" in {row["selection"] for row in rows}
        assert of_run(cache, rows[0]["run_id"])["config"]["recipe_config"]["slice_frames"] == 300


def test_heads_lists_lineages_once() -> None:
    result = run("heads")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("shiftser") == 1 and "logreg" in result.stdout
    assert "upper bounds, and no results" in result.stderr
    rows = json.loads(run("heads", "--format", "json").stdout)
    (superb,) = [row for row in rows if row["recipes"] == "superb"]
    assert superb["reports"] == "val-WA" and superb["validation"] == "random-leaky:0.2"
