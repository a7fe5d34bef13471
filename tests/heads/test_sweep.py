"""Sweeps: what is planned, that runs do not depend on their neighbours, what fails alone, and how results are shown."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tfser.heads import head
from tfser.heads.commands.progress import SweepView
from tfser.heads.commands.sweep_table import (
    _MAY_GO,
    _expendable,
    failure_lines,
    latex,
    latex_lines,
    legend,
    numbers,
    readable,
)
from tfser.heads.results.summary import check_selection, run_rows, summary
from tfser.heads.runs import in_turn as sweep_runs
from tfser.heads.runs import plan as planning
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.in_turn import Event, Failure, run_here
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment, train_fold
from tfser.heads.runs.plan import Plan, data_key, estimate, feature_bytes, plan_sweep
from tfser.heads.runs.processes import run_in_processes
from tfser.heads.runs.request import HeadBlock, Request, SweepRequest, parse_seeds
from tfser.heads.runs.running import RunningMany
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.display import markdown_lines
from tfser.manifests.errors import TfserError, UsageError

from ..conftest import fill_with_tones

LINEAR = HeadBlock(name="mean_pool", presets=("linear",))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with three speakers, two tones and two feature sets."""
    above = tmp_path_factory.mktemp("sweep")
    cache = Cache(above / "cache")
    fill_with_tones(cache, above, seconds=0.2, each=(3, 3, 3), noise=0.1, logmel=({}, {"n_mels": "16"}))
    return cache.root


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Cache:  # type: ignore[override]
    return Cache(shutil.copytree(filled, tmp_path / "cache"))


def asked(*heads: HeadBlock, **more: Any) -> SweepRequest:
    more = {"features": ("logmel",), "device": "cpu", "epochs": 2, "reference": False, **more}
    return SweepRequest(heads=heads or (LINEAR,), **more)


def swept(cache: Cache, plan: Plan, **more: Any) -> tuple[list[Event], list[Failure]]:
    events: list[Event] = []
    return events, run_here(cache, plan.missing, plan.findings, tell=events.append, **more)


def names(plan: Plan) -> list[tuple[str, str, str]]:
    return [(of.spec.name, of.preset, of.feature_set) for of in (entry.experiment for entry in plan.entries)]


def stored(cache: Cache, run_id: str) -> tuple[bytes, Any]:
    folder = cache.runs / run_id
    return (folder / "model.safetensors").read_bytes(), pq.read_table(folder / "predictions.parquet")


# -- what is planned ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_product_without_repetitions(cache: Cache) -> None:
    both = HeadBlock(name="mean_pool", presets=("linear", "mlp", "linear"), seeds=(0, 1, 0))
    plan = plan_sweep(cache, asked(LINEAR, both, features=("logmel", "logmel+n_mels=16"), folds="1-2"))
    assert names(plan) == [("mean_pool", p, f) for f in ("logmel", "logmel+n_mels=16") for p in ("linear", "mlp")]
    linear = plan.entries[0]
    assert [(run.experiment.seed, run.fold) for run in linear.runs] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert len({run.run_id for run in plan.runs}) == len(plan.runs) == 16
    assert plan.missing == plan.runs and not plan.finished


def test_names_go_to_the_heads_that_have_them(cache: Cache) -> None:
    heads = (HeadBlock(name="mean_pool"), HeadBlock(name="tf_transformer"))
    presets = ("linear", "tf_transformer.t_f", "tf_transformer.full")
    plan = plan_sweep(cache, asked(*heads, presets=presets, folds="1"))
    assert names(plan) == [("mean_pool", "linear", "logmel"), *(("tf_transformer", p, "logmel") for p in ("t_f", "full"))]
    plan = plan_sweep(cache, asked(*heads, presets=("mean_pool.all",), settings={"mean_pool.lr": "0.5"}, folds="1"))
    assert names(plan) == [*(("mean_pool", p, "logmel") for p in ("mlp", "linear")), ("tf_transformer", "full", "logmel")]
    assert [entry.experiment.recipe.lr == 0.5 for entry in plan.entries] == [True, True, False]


@pytest.mark.slow
def test_recipes_of_lineages_are_named_one_by_one(cache: Cache) -> None:
    heads = (HeadBlock(name="mean_pool", recipes=("superb",)), HeadBlock(name="tf_transformer"), HeadBlock(name="logreg"))
    plan = plan_sweep(cache, asked(*heads, recipes=("shiftser",), folds="1", epochs=None))
    assert [(e.experiment.spec.name, e.experiment.recipe_name, e.experiment.validation) for e in plan.entries] == [
        ("mean_pool", "superb", "random-leaky:0.2"),
        ("tf_transformer", "shiftser", "none"),
        ("logreg", "default", "none"),  # it is not trained by epochs
    ]
    every = plan_sweep(cache, asked(heads[1], recipes=("all",), folds="1", epochs=None))
    assert [entry.experiment.recipe_name for entry in every.entries] == list(head("tf_transformer").recipes)
    said = " ".join(legend(summary(cache, plan, "last"), True))
    assert "shiftser reports test-WA and test-UA: epochs chosen on the test fold" in said
    assert "superb reports val-WA: validation utterances are a random 20 % and share their speakers" in said


@pytest.mark.slow
def test_reference_heads_stand_once_in_every_feature_set(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "REFERENCE_HEADS", ("mean_pool", "not_a_head"))
    wanted = asked(HeadBlock(name="tf_transformer"), features=("logmel", "logmel+n_mels=16"), seeds=(3, 4), reference=True)
    plan = plan_sweep(cache, wanted)
    assert [(entry.experiment.spec.name, entry.reference, entry.seeds) for entry in plan.entries] == [
        ("tf_transformer", False, [3, 4]),
        ("mean_pool", True, [3]),
    ] * 2
    assert plan.references and plan.entries[1].experiment.recipe_name == "default"  # its own epochs, not the sweep's
    left_out = plan_sweep(cache, asked(HeadBlock(name="tf_transformer"), reference=False))
    assert not left_out.references and [entry.reference for entry in left_out.entries] == [False]
    own = plan_sweep(cache, asked(HeadBlock(name="mean_pool", seeds=(5,)), reference=True, epochs=None))
    assert own.references and [entry.reference for entry in own.entries] == [False]  # asked for by name, as it is by itself
    other = plan_sweep(cache, asked(LINEAR, reference=True))
    assert [(entry.experiment.preset, entry.reference) for entry in other.entries] == [("linear", False), ("mlp", True)]


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"heads": (HeadBlock(name="mean_pol"),)}, "did you mean 'mean_pool'"),
        ({"heads": ()}, "a sweep needs a head"),
        ({"presets": ("liner",)}, "unknown preset of mean_pool 'liner'; did you mean 'linear'"),
        ({"presets": ("tf_mamba.full",)}, "unknown head of this sweep 'tf_mamba'"),
        ({"recipes": ("paper",)}, "unknown recipe of mean_pool 'paper'"),
        ({"heads": (HeadBlock(name="mean_pool", presets=("full",)),)}, "unknown preset of mean_pool 'full'"),
        ({"settings": {"width": "4"}}, "mean_pool linear/default on logmel: unknown setting 'width'"),
        (
            {"heads": (HeadBlock(name="mean_pool"), HeadBlock(name="logreg")), "settings": {"lr": "0.1"}},
            "logreg plain/default on logmel: unknown setting 'lr'; Known: C, class_beta, class_weights, temperature, threads; "
            "`tfser heads logreg` explains them; --set HEAD.KEY=VALUE",
        ),
        ({"settings": {"tf_mamba.width": "4"}}, "unknown head of this sweep 'tf_mamba'"),
        ({"features": ("logmel", "wavlm-large")}, "on wavlm-large"),
        ({"folds": "4"}, "has folds 1 to 3"),
        ({"corpus": "emodb"}, "corpus emodb is not in "),
    ],
)
def test_what_is_off_is_said_before_anything_is_trained(cache: Cache, change: dict[str, Any], expected: str) -> None:
    request = asked(LINEAR)
    with pytest.raises(UsageError) as error:
        plan_sweep(cache, SweepRequest(**{**vars(request), **change}))
    assert expected in str(error.value)
    assert not cache.runs.exists()


@pytest.mark.slow
def test_audits_of_all_folds_come_before_the_first_training(cache: Cache) -> None:
    request = asked(LINEAR, protocol="random-kfold:3")
    plan_sweep(cache, request)  # claims nothing, so nothing fails
    with open_catalogue(cache) as connection:
        shard = rows(connection, "SELECT shard FROM features WHERE feature_set = 'logmel' LIMIT 1")[0]["shard"]
    for path in (cache.root / shard).parent.glob("*"):
        path.unlink()
    extract_nothing = asked(LINEAR, features=("logmel+n_mels=16", "logmel"))
    missing = r"features logmel of toy are not in the cache, which holds logmel\+n_mels=16; run `tfser extract"
    with pytest.raises(UsageError, match=missing):  # the other one does not stand in for it
        plan_sweep(cache, extract_nothing)
    assert not cache.runs.exists()


@pytest.mark.slow
def test_val_needs_a_validation_side(cache: Cache) -> None:
    with pytest.raises(UsageError, match="add --validation next-group"):
        check_selection(plan_sweep(cache, asked()), "val")
    check_selection(plan_sweep(cache, asked(validation="next-group")), "val")


@given(st.sets(st.integers(0, 40), min_size=1, max_size=12))
def test_seeds_are_read_as_they_are_written(seeds: set[int]) -> None:
    assert sorted(parse_seeds(numbers(sorted(seeds)))) == sorted(seeds)


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,", "0-9999999"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="seeds"):
        parse_seeds(text)


# -- what is trained ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_do_not_depend_on_their_neighbours(cache: Cache, filled: Path, tmp_path: Path) -> None:
    """In a sweep, in several processes of which one is killed, or alone as `tfser train` has it: the same to the bit."""
    plan = plan_sweep(cache, asked(LINEAR, seeds=(0, 1), folds="1-2"))
    assert swept(cache, plan)[1] == []

    beside = Cache(shutil.copytree(filled, tmp_path / "beside"))
    held, events = plan.runs[0], list[Event]()

    def tell(event: Event) -> None:
        events.append(event)
        waiting = any(of.kind == "note" and "waiting for it" in of.text for of in events)
        if waiting and sum(of.kind == "done" for of in events) == 3:  # all others are through, and this one is held
            for process in multiprocessing.active_children():
                process.kill()

    with beside.lock(f"runs/{held.run_id}"):
        running = RunningMany(jobs=2, threads=1, keep_memory=False)
        failures = run_in_processes(beside, plan.runs, plan.findings, running, tell=tell)
    assert [failure.run.run_id for failure in failures] == [held.run_id] and "process died (SIGKILL" in failures[0].reason
    done = [event.run.run_id for event in events if event.kind == "done" and event.run]
    assert sorted(done) == sorted(run.run_id for run in plan.runs[1:])
    assert {event.record.epoch for event in events if event.record} == {1, 2}
    for run_id in done:
        assert stored(cache, run_id) == stored(beside, run_id)

    of = held.experiment
    request = Request(head="mean_pool", preset="linear", features="logmel", epochs=2, seed=of.seed, folds="1", device="cpu")
    single = resolve(beside, request)
    train_fold(beside, single, 1, lambda: load(beside, single), audit_experiment(beside, single))
    assert single.run_id(1) == held.run_id and stored(beside, held.run_id) == stored(cache, held.run_id)


@pytest.mark.slow
def test_features_are_loaded_once_and_let_go(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def counted(cache: Cache, experiment: Any, **more: Any) -> Any:
        loads.append(experiment.feature_set)
        return load(cache, experiment, **more)

    monkeypatch.setattr(sweep_runs, "load", counted)
    both = asked(LINEAR, features=("logmel", "logmel+n_mels=16"), seeds=(0, 1), folds="1")
    assert swept(cache, plan_sweep(cache, both))[1] == []
    assert loads == ["logmel", "logmel+n_mels=16"]
    assert swept(cache, plan_sweep(cache, both)) == ([], [])  # all found: nothing is loaded
    assert len(loads) == 2


@pytest.mark.slow
def test_more_seeds_use_what_is_there(cache: Cache) -> None:
    assert swept(cache, plan_sweep(cache, asked(seeds=(0,), folds="1")))[1] == []
    plan = plan_sweep(cache, asked(seeds=(0, 1)))
    assert [(run.experiment.seed, run.fold) for run in plan.missing] == [(0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert plan.finished == {plan.runs[0].run_id}
    again = plan_sweep(cache, asked(seeds=(0, 1), again=True))
    assert len(again.missing) == 6


@pytest.mark.slow
def test_a_run_that_fails_fails_alone(cache: Cache) -> None:
    wild = HeadBlock(name="mean_pool", presets=("mlp",), settings={"lr": "1e30"})
    plan = plan_sweep(cache, asked(wild, LINEAR, seeds=(0,)))
    events, failures = swept(cache, plan)
    assert {failure.run.experiment.preset for failure in failures} == {"mlp"} and len(failures) == 3
    assert sum(event.kind == "done" for event in events) == 3
    lines = failure_lines(failures)
    assert all(line.startswith("failed: mean_pool mlp fold") and "after epoch 1" in line for line in lines)
    refresh(cache)
    table = summary(cache, plan, "last", failures)
    assert [(row["preset"], row["runs"], row["failed"]) for row in table] == [("mlp", 0, 3), ("linear", 3, 0)]
    assert readable(table)[0]["UA"] == "-" and any("Incomplete" in note for note in legend(table, True))


def test_other_errors_stop_where_that_is_wanted(cache: Cache) -> None:
    plan = plan_sweep(cache, asked(HeadBlock(name="mean_pool", presets=("mlp",), settings={"lr": "1e30"})))
    with pytest.raises(TfserError, match="after epoch 1"):
        swept(cache, plan, go_on_after=ZeroDivisionError)


def test_a_run_that_another_process_trains_comes_last(cache: Cache) -> None:
    plan = plan_sweep(cache, asked())
    first = plan.runs[0].run_id
    elsewhere = cache.lock(f"runs/{first}")
    elsewhere.__enter__()
    order: list[tuple[str, int]] = []

    def tell(event: Event) -> None:
        if event.run is not None and event.kind in ("busy", "done"):
            order.append((event.kind, event.run.fold))
            if event.run.fold == 3:
                elsewhere.__exit__(None, None, None)

    assert run_here(cache, plan.runs, plan.findings, tell=tell) == []
    assert order == [("busy", 1), ("done", 2), ("done", 3), ("done", 1)]


# -- what it costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_estimates_come_from_finished_runs_or_are_not_made(cache: Cache) -> None:
    first = plan_sweep(cache, asked(folds="1"))
    name = first.entries[0].experiment.name
    assert estimate(cache, first)[name].seconds is None
    swept(cache, first)
    plan = plan_sweep(cache, asked(LINEAR, HeadBlock(name="mean_pool", presets=("linear",), epochs=20), seeds=(0, 1)))
    with open_catalogue(cache) as connection:
        took = rows(connection, "SELECT seconds FROM runs")[0]["seconds"]
    same, longer = (estimate(cache, plan)[entry.experiment.name] for entry in plan.entries)
    assert same.seconds == pytest.approx(5 * took) and same.known_by == "runs of this experiment"
    assert longer.seconds == pytest.approx(6 * 10 * took) and longer.known_by.startswith("an epoch")
    assert estimate(cache, plan_sweep(cache, asked(folds="1")))[name].seconds == 0


def test_the_memory_that_features_take(cache: Cache) -> None:
    plan = plan_sweep(cache, asked(features=("logmel", "logmel+n_mels=16")))
    known = feature_bytes(cache, plan)
    assert len({planning.data_key(entry.experiment) for entry in plan.entries}) == 2
    for entry in plan.entries:
        held = load(cache, entry.experiment).features.frames.nbytes
        assert known[planning.data_key(entry.experiment)] == held


# -- what is shown -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_is_what_the_runs_stored(cache: Cache) -> None:
    plan = plan_sweep(cache, asked(seeds=(0, 1)))
    swept(cache, plan)
    (row,) = summary(cache, plan, "last")
    with open_catalogue(cache) as connection:
        runs = run_rows(connection, plan.entries, "last")
        over = rows(connection, "SELECT * FROM scores WHERE selection = 'last' AND level = 'utterance' ORDER BY seed")
        predictions = rows(
            connection,
            "SELECT r.seed, avg((p.label = p.predicted)::INT) AS WA FROM predictions p JOIN runs r USING (run_id) "
            "WHERE p.selection = 'last' AND p.level = 'utterance' GROUP BY r.seed",
        )
    assert [(of["seed"], of["fold"]) for of in runs] == [(s, f) for s in (0, 1) for f in (1, 2, 3)]
    assert row["UA"] == pytest.approx(mean(of["UA"] for of in runs))
    assert row["UA_std"] == pytest.approx(stdev(of["UA"] for of in runs))
    assert row["pooled_UA"] == pytest.approx(mean(of["pooled_UA"] for of in over))
    assert row["pooled_WA"] == pytest.approx(mean(of["WA"] for of in predictions))
    assert (row["seeds"], row["folds"], row["runs"], row["of_runs"], row["parameters"]) == ([0, 1], [1, 2, 3], 6, 6, 162)
    assert row["pooled_UA_low"] < row["pooled_UA"] < row["pooled_UA_high"] and row["clustered_by"] == "speaker"
    assert readable([row])[0]["95 %"] == f"{100 * row['pooled_UA_low']:.1f} to {100 * row['pooled_UA_high']:.1f}"
    assert "95 %" not in readable([row | {"pooled_UA_low": None}])[0]
    assert readable([row | {"pooled_UA_low": 0.25, "pooled_UA_high": 0.5}])[0]["95 %"] == "25.0 to 50.0"


@pytest.mark.slow
def test_a_pooled_score_is_of_the_seeds_that_its_interval_is_of(cache: Cache) -> None:
    plan = plan_sweep(cache, asked(seeds=(0, 1), epochs=1))
    run_here(cache, plan.runs[:5], plan.findings, tell=lambda event: None)
    refresh(cache)
    (row,) = summary(cache, plan, "last")
    with open_catalogue(cache) as connection:
        of_seed = "SELECT pooled_WA FROM scores WHERE selection = 'last' AND level = 'utterance' ORDER BY seed"
        whole, partial = (of["pooled_WA"] for of in rows(connection, of_seed))
    assert (row["runs"], row["pooled_seeds"]) == (5, [0]) and whole != partial
    assert row["pooled_WA"] == pytest.approx(whole)
    assert any("Pooled are the seeds with the most" in note for note in legend([row], True))


@pytest.mark.slow
def test_numbers_that_are_no_results_bear_marks(cache: Cache) -> None:
    plan = plan_sweep(cache, asked(folds="1"))
    swept(cache, plan)
    (row,) = summary(cache, plan, "test-oracle")
    assert row["looked_at_test"] and row["audit"] == "passed"
    line = readable([row])[0]
    assert all(line[name].endswith("†") for name in ("UA", "WA", "WF1", "pooled UA", "pooled WA"))
    assert any("no result" in note for note in legend([row], True))
    leaky = readable([row | {"looked_at_test": False, "audit": "overridden"}])[0]
    assert all(leaky[name].endswith("‡") for name in ("UA", "WA", "WF1", "pooled UA", "pooled WA"))
    assert any("LEAKS ALLOWED" in note for note in legend([row | {"audit": "overridden"}], True))
    assert any("Without the reference heads" in note for note in legend([row], False))
    alone = [row | {"clusters": 1, "pooled_UA_low": None}], [row | {"clusters": None, "clustered_by": None}]
    said = [" ".join(legend(of, True)) for of in alone]
    assert "one speaker alone" in said[0] and "are unknown" in said[1]
    honest = readable(summary(cache, plan, "last"))[0]
    assert not any(mark in json.dumps(honest, ensure_ascii=False) for mark in "†‡")


def test_what_tells_lines_apart_stays_on_a_narrow_terminal() -> None:
    alike = {"head": "mean_pool", "features": "logmel", "folds": "1-3 of 3", "WF1": "1.0", "WA": "2.0"}
    lines = [{**alike, "preset": preset, "recipe": recipe} for preset, recipe in (("mlp", "default"), ("linear", "shiftser"))]
    assert _expendable(lines)[-len(_MAY_GO) - 1 :] == ["recipe", *_MAY_GO] and "preset" not in _expendable(lines)
    assert "recipe" not in _expendable([{**line, "preset": "mlp"} for line in lines])
    assert "recipe" in _expendable([{**line, "preset": "mlp", "recipe": "default"} for line in lines])


def test_tables_for_papers() -> None:
    lines = [{"head": "tf_mamba", "UA": "75.7 ± 2.0†"}, {"head": "a|b", "UA": "-"}]
    assert markdown_lines(lines) == ["| head | UA |", "| --- | ---: |", "| tf_mamba | 75.7 ± 2.0† |", r"| a\|b | - |"]
    text = latex_lines(lines, ["5 % of it"])
    assert r"\begin{tabular}{lr}" in text and r"tf\_mamba & 75.7 $\pm$ 2.0$^{\dagger}$ \\" in text
    assert text[-1].endswith(r"5 \% of it") and latex("a_b & {c}") == r"a\_b \& \{c\}"


@pytest.fixture
def view(cache: Cache) -> Callable[[bool], tuple[SweepView, Plan, io.StringIO]]:
    def make(terminal: bool) -> tuple[SweepView, Plan, io.StringIO]:
        out = io.StringIO()
        plan = plan_sweep(cache, asked(LINEAR, HeadBlock(name="mean_pool", presets=("mlp",), settings={"lr": "1e30"})))
        console = Console(file=out, force_terminal=terminal, width=110, highlight=False, soft_wrap=not terminal)
        return SweepView(cache, plan, estimate(cache, plan), console=console), plan, out

    return make


@pytest.mark.slow
def test_without_a_terminal_there_is_a_line_a_run(cache: Cache, view: Any) -> None:
    shown, plan, out = view(False)
    headers = set()

    def tell(event: Event) -> None:
        shown.tell(event)
        live = Console(file=io.StringIO(), width=110)
        with live.capture() as printed:
            live.print(shown.render())
        headers.add(printed.get().splitlines()[0].rstrip())

    with shown:
        run_here(cache, plan.runs, plan.findings, tell=tell)
    assert len(headers) == 1, "no column of the live table moves while it runs"
    lines = out.getvalue().splitlines()
    assert len(lines) == 6 and lines[0].startswith("1/6 mean_pool linear on logmel, fold 1, seed 0: UA ")
    assert all(f"{n}/6 mean_pool mlp" in line and "failed: after epoch 1" in line for n, line in enumerate(lines[3:], start=4))
    assert "\x1b" not in out.getvalue()


@pytest.mark.slow
def test_heads_without_epochs_show_their_last_and_bear_no_mark(cache: Cache) -> None:
    ruled = HeadBlock(name="mean_pool", presets=("linear",), settings={"selections": "test-UA"})
    heads = (ruled, HeadBlock(name="logreg"), HeadBlock(name="mean_pool", presets=("mlp",)))
    plan = plan_sweep(cache, asked(*heads, folds="1", seeds=(0,)))
    out = io.StringIO()
    shown = SweepView(cache, plan, estimate(cache, plan), selection="test-UA", console=Console(file=out, width=200))
    with shown:
        run_here(cache, plan.runs, plan.findings, tell=shown.tell)
    refresh(cache)
    texts = {line.split()[1]: line.split("UA ")[1].split(",")[0] for line in out.getvalue().splitlines() if "linear" not in line}
    assert "†" not in texts["logreg"] and texts["logreg"].endswith("%") and texts["mean_pool"] == "-"
    assert "†" in next(line for line in out.getvalue().splitlines() if "linear" in line)
    of_head = {(row["head"], row["preset"]): row for row in summary(cache, plan, "test-UA")}
    assert of_head["logreg", "plain"]["selection"] == "last" and of_head["logreg", "plain"]["UA"] is not None
    assert of_head["mean_pool", "mlp"]["UA"] is None and of_head["mean_pool", "linear"]["looked_at_test"]


@pytest.mark.slow
def test_the_live_table_tells_how_far_it_is(cache: Cache, view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()  # at each look at the clock another one has gone by
    monkeypatch.setattr("tfser.heads.commands.progress.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    shown, plan, out = view(True)
    drawn: list[str] = []
    plain = Console(file=io.StringIO(), width=110)

    def tell(event: Event) -> None:
        shown.tell(event)
        with plain.capture() as text:
            plain.print(shown.render())
        drawn.append(text.get())

    with shown:
        run_here(cache, plan.runs, plan.findings, tell=tell)
    assert any("fold 2, seed 0, epoch 1/2" in text for text in drawn)
    half = next(text for text in drawn if "2/6 runs" in text)
    assert "2/3" in half and " left" in half and all(len(line.rstrip()) <= 110 for line in half.splitlines())
    with open_catalogue(cache) as connection:
        UA = [row["UA"] for row in run_rows(connection, plan.entries, "last")]
    assert f"{100 * mean(UA):.1f} ± {100 * stdev(UA):.1f}" in drawn[-1] and "3 failed" in drawn[-1]
    assert "0/3" in drawn[0] and "6/6 runs" in drawn[-1] and "failed: after epoch 1" in out.getvalue()


@pytest.mark.slow
def test_stacked_runs_of_an_experiment_are_trained_together(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is grouped is told, stored and failed run by run."""
    plan = plan_sweep(cache, asked(LINEAR, HeadBlock(name="tf_transformer"), seeds=(0, 1), folds="1-2", epochs=1))
    on_gpu = [
        replace(run, experiment=replace(run.experiment, stacked="vmap")) if run.experiment.spec.name == "mean_pool" else run
        for run in plan.runs
    ]
    assert [len(group) for group in sweep_runs.groups(on_gpu)] == [4, 1, 1, 1, 1]
    assert [len(group) for group in sweep_runs.groups(plan.runs)] == [1] * 8
    monkeypatch.setattr(sweep_runs, "TOGETHER", 3)
    assert [len(group) for group in sweep_runs.groups(on_gpu)] == [3, 1, 1, 1, 1, 1]

    group = on_gpu[:4]
    events: list[Event] = []
    trainer = sweep_runs.RunTrainer(cache, tell=events.append)
    findings = plan.findings[data_key(group[0].experiment)]
    assert all(run.experiment.spec.name == "mean_pool" for run in group)
    assert trainer.train(group, [1, 2], findings, wait=True) == []
    assert {event.run.run_id for event in events if event.kind == "done" and event.run} == {run.run_id for run in group}
    assert sum(event.kind == "epoch" for event in events) == 4
    again = sweep_runs.RunTrainer(cache, tell=events.append)
    assert again.train(group, [1, 2], findings, wait=True) == [] and not events[-1].trained
