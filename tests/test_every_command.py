"""Every command and every kind of figure does its work in a fast test: here where it has none elsewhere, on one small cache."""

from __future__ import annotations

import ast
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import make_utterances, put_experiment, put_utterances

from tfser.cli import CONTENTS
from tfser.heads.reports.wishes import PLOTS
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.utterances import Utterance

from .conftest import run

HERE = Path(__file__).parent

ELSEWHERE = {
    "corpora": "test_edges_cli.py::test_a_full_disk_behind_standard_output_is_one_line",
    "scan": "pipeline/test_annotations.py::test_from_the_command_line_to_the_catalogue_and_back",
    "features": "pipeline/test_encoders.py::test_every_format_says_each_encoder_s_licence",
    "extract": "test_cli.py::test_a_second_extraction_does_nothing_and_says_so",
    "import-features": "pipeline/test_import_features.py::test_the_command_counts_and_names_what_does_not_match",
    "protocol ls": "test_cli.py::test_protocols_are_listed_and_shown",
    "protocol show": "test_cli.py::test_protocols_are_listed_and_shown",
    "audit": "test_cli.py::test_audit_passes_and_fails",
    "heads": "test_cli_train.py::test_heads_lists_lineages_once",
    "train": "test_cli.py::test_finished_runs_are_found_and_again_trains_the_same_numbers",
    "sweep": "test_cli_sweep.py::test_a_sweep_from_the_plan_to_the_table",
    "layers": "heads/test_layer_choice.py::test_the_chosen_layer_is_that_of_validation_and_its_score_that_of_its_heads",
    "reproduce": "test_cli_sweep.py::test_reproduce_says_what_to_extract",
    "scores": "test_cli_compare.py::test_scores_by_parts",
    "compare": "test_cli_compare.py::test_compare_in_every_format",
    "report": "test_cli_report.py::test_report_writes_a_page_with_sound",
    "ui": "heads/test_ui.py::test_it_serves_this_machine_until_ctrl_c",
    "fuse": "heads/test_fusion.py::test_the_command_says_what_it_made",
    "sql": "test_cli.py::test_sql_formats",
    "predict": "heads/test_prediction.py::test_a_corpus_is_predicted_with_its_labels_and_what_was_seen",
    "export": "heads/test_prediction_bad_input.py::test_what_a_killed_export_left_is_named_and_kept",
    "runs ls": "heads/test_export.py::test_experiments_have_names_that_commands_know",
    "runs show": "heads/test_export.py::test_experiments_have_names_that_commands_know",
    "runs name": "heads/test_export.py::test_experiments_have_names_that_commands_know",
    "cache ls": "test_cli.py::test_cache_commands",
    "cache du": "test_cli.py::test_cache_commands",
    "cache verify": "test_cli.py::test_cache_commands",
    "cache rm": "test_cli.py::test_cache_commands",
    "manifest path": "test_cli.py::test_the_plain_duckdb_library_opens_the_catalogue",
    "manifest schema": "test_cli.py::test_schema_is_what_the_catalogue_holds",
    "doctor": "test_cli_profile.py::test_doctor_prints_a_row_a_check",
    "profile": "test_cli_profile.py::test_csv_has_one_line_a_preset",
}
"""Commands with a fast test in another file, and its name."""

DRAWN_ELSEWHERE = {
    "cost": "heads/test_inside.py::test_names_of_bubbles_that_lie_upon_each_other_do_not",
    "tokens": "heads/test_inside.py::test_legends_stay_within_their_axes_at_the_width_of_a_column",
    "attention": "heads/test_inside.py::test_every_frame_of_an_utterance_has_its_attention",
    "layers": "heads/test_layer_choice.py::test_the_chosen_layer_is_that_of_validation_and_its_score_that_of_its_heads",
    "embedding": "heads/test_stored_frames.py::test_every_figure_of_frames_reads_the_layer_out_of_its_stack",
    "features": "heads/test_stored_frames.py::test_every_figure_of_frames_reads_the_layer_out_of_its_stack",
}
"""The same of kinds of figures."""

TOO_LONG = {"demo": "the whole way, 36 s of a processor: `make demo` goes it"}
"""Commands that no fast test can run to the end, and why."""

FIGURES = {
    "forest": ("logreg-a", "mean_pool-b"),
    "speakers": ("logreg-a",),
    "confusion": ("logreg-a",),
    "difference": ("logreg-a", "mean_pool-b"),
    "curves": ("mean_pool-b",),
    "ratings": ("ridge",),
    "reliability": ("logreg-a",),
    "risk": ("logreg-a",),
    "entropy": ("logreg-a",),
    "failing": ("logreg-a",),
}
"""Kinds that are drawn here, and the experiments that they are of."""

FAST = ("--device", "cpu", "--threads", "1", "--no-keep-memory")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, put_corpus: Any, put_stack: Any) -> Cache:
    """Two experiments of one corpus without audio, and layers and frames of another."""
    cache = Cache(tmp_path_factory.mktemp("every") / "cache")
    utterances = make_utterances(speakers=4, each=6)
    put_utterances(cache, utterances, rated=True)
    put_experiment(cache, "logreg-a", utterances)
    history = [{"epoch": n + 1, "loss": 1 / (n + 1), "val_UA": 0.3 + n / 20} for n in range(5)]
    put_experiment(cache, "mean_pool-b", utterances, right=0.5, history=history)
    names = [f"{speaker}{i}" for speaker in "abc" for i in range(4)]
    layered = [
        Utterance(utterance_id=n, path=f"{n}.wav", speaker=n[0], label=("anger", "fear")[i % 2], arousal=1 + i)
        for n in names
        for i in (int(n[1]),)
    ]
    # An adapter whose ratings are on a known scale.
    put_corpus(cache, layered, corpus="layered", adapter="synthetic", default_protocol="loso-speaker")
    rng = np.random.default_rng(0)
    for name, layers in (("enc/all", 3), ("plain", 1)):
        frames = {n: rng.standard_normal((5, 4 * layers)).astype(np.float32) for n in names}
        put_stack(cache, frames, layers, corpus="layered", name=name)
    refresh(cache)
    return cache


@pytest.fixture
def own(cache: Cache, tmp_path: Path) -> Cache:
    """A copy, for commands that write."""
    shutil.copytree(cache.root, tmp_path / "cache")
    return Cache(tmp_path / "cache")


def done(cache: Cache, *words: object) -> str:
    """Run a command that has to go well; return what it printed."""
    result = run(*words, "--cache", cache.root)
    assert result.exit_code == 0, result.output
    return result.stdout


def asked(cache: Cache, query: str) -> list[dict[str, Any]]:
    return json.loads(done(cache, "sql", query, "--format", "json"))


def test_protocol_export(cache: Cache, tmp_path: Path) -> None:
    done(cache, "protocol", "export", "loso-speaker", "--corpus", "toy", "--output", tmp_path / "folds.csv")
    with (tmp_path / "folds.csv").open(newline="") as file:
        exported = [(row["utterance_id"], int(row["fold"]), row["role"]) for row in csv.DictReader(file)]
    (counted,) = asked(cache, "SELECT count(*) AS n FROM folds WHERE corpus = 'toy' AND protocol = 'loso-speaker'")
    assert len(exported) == len(set(exported)) == counted["n"] > 0
    tested = [name for name, _, role in exported if role == "test"]
    assert len(tested) == len(set(tested)), "an utterance is tested once"


def test_runs_diff(cache: Cache) -> None:
    said = done(cache, "runs", "diff", "logreg-a", "mean_pool-b", "--format", "csv")
    assert "logreg" in said and "mean_pool" in said


def test_cache_join(own: Cache) -> None:
    done(own, "cache", "join", "--features", "plain+enc/2", "--corpus", "layered")
    assert asked(own, "SELECT dim, count(*) AS n FROM features WHERE feature_set = 'plain+enc/2' GROUP BY ALL") == [
        {"dim": 8, "n": 12}
    ]


def test_cache_collapse(own: Cache) -> None:
    done(own, "cache", "collapse", "--features", "enc/all", "--layer", "1", "--corpus", "layered", "--name", "one")
    assert asked(own, "SELECT dim, count(*) AS n FROM features WHERE feature_set = 'one' GROUP BY ALL") == [{"dim": 4, "n": 12}]


def test_cache_push_and_cache_pull(cache: Cache, tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'store'}"
    done(cache, "cache", "push", store)
    there = Cache(tmp_path / "there")
    done(there, "cache", "pull", store)
    for table in ("utterances", "features", "runs", "predictions", "metrics"):
        query = f"SELECT count(*) AS n, min(COLUMNS(*)::VARCHAR) FROM {table}"
        assert asked(there, query) == asked(cache, query)


def test_manifest_rebuild(own: Cache) -> None:
    query = "SELECT experiment, selection, level, metric, value FROM metrics JOIN runs USING (run_id) ORDER BY ALL"
    before = asked(own, query)
    own.catalogue.unlink()
    done(own, "manifest", "rebuild")
    assert own.catalogue.exists() and asked(own, query) == before != []


def test_ablate(own: Cache) -> None:
    words = ("ablate", "--head", "svm", "--corpus", "layered", "--features", "plain", "--fold", "1")
    table = json.loads(done(own, *words, *FAST, "--format", "json"))
    trained = asked(own, "SELECT DISTINCT experiment FROM runs WHERE corpus = 'layered'")
    assert {row["experiment"] for row in table} == {row["experiment"] for row in trained}
    assert {"rbf", "linear"} < {row["row"] for row in table} and all(0 <= row["UA"] <= 1 for row in table)


def test_worth(own: Cache, tmp_path: Path) -> None:
    for side, chosen in (("train", "0 1"), ("test", "2 3")):
        lines = [f"{speaker}{i}.wav,{('anger', 'fear')[int(i) % 2]}\n" for speaker in "abc" for i in chosen.split()]
        (tmp_path / f"{side}.csv").write_text("path,label\n" + "".join(lines))
    words = ("worth", "--corpus", "layered", "--head", "logreg", "--features", "plain", "--draws", "1", "--threads", "1")
    told = json.loads(done(own, *words, "--split", tmp_path / "train.csv", "--split", tmp_path / "test.csv", "--format", "json"))
    assert (told["published"]["shared"], told["clean"]["shared"]) == (3, 0)
    assert told["worth"]["value"] == pytest.approx(told["published"]["value"] - told["clean"]["value"])


@pytest.mark.parametrize("kind", FIGURES)
def test_plot(kind: str, cache: Cache, own: Cache, tmp_path: Path) -> None:
    if kind == "ratings":
        train = ("train", "--head", "ridge", "--corpus", "layered", "--features", "plain", "--target", "arousal")
        done(own, *train, *FAST)
    done(own if kind == "ratings" else cache, "plot", kind, *FIGURES[kind], "--output", tmp_path / "x.svg")
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()


# -- none is forgotten -------------------------------------------------------------------------------------------------------


def fast_tests(path: Path) -> set[str]:
    """Return the names of a file's tests that are not marked slow."""
    functions = [of for of in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(of, ast.FunctionDef)]
    slow = {of.name for of in functions if any(ast.unparse(mark) == "pytest.mark.slow" for mark in of.decorator_list)}
    return {of.name for of in functions if of.name.startswith("test_")} - slow


def missing(named: dict[str, str]) -> dict[str, str]:
    """Return those of the tests of other files that are not there, or slow by now."""
    files = {place.partition("::")[0] for place in named.values()}
    there = {f"{file}::{name}" for file in files for name in fast_tests(HERE / file)}
    return {of: place for of, place in named.items() if place not in there}


def test_every_command_has_a_fast_test() -> None:
    """A new command gets a test here, or a line above that says where its test is."""
    names = {line.name for stage in CONTENTS for line in stage.lines}
    here = "_".join(sorted(fast_tests(Path(__file__)))).replace("_", " ")
    missed = {name for name in names if name.replace("-", " ") not in here and name not in ELSEWHERE and name not in TOO_LONG}
    assert missed == set() and missing(ELSEWHERE) == {} and {*ELSEWHERE, *TOO_LONG} <= names


def test_every_kind_of_figure_has_a_fast_test() -> None:
    assert {*FIGURES, *DRAWN_ELSEWHERE} == set(PLOTS) and missing(DRAWN_ELSEWHERE) == {}
