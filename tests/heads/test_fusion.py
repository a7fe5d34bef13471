"""Late fusion: the mean of probabilities, stored with its sources; marks are inherited, odd pairs are refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stored_runs as stored
from click.testing import Result
from typer.testing import CliRunner

from tfser.cli import app
from tfser.heads.prediction import answers
from tfser.heads.prediction.fused import FusedHead
from tfser.heads.results.fusion import fuse, plan_fusion
from tfser.heads.results.outcomes import find, read_outcome
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.verify import verify


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def probabilities(cache: Cache, experiment: str) -> dict[tuple[Any, ...], dict[str, float]]:
    refresh(cache)
    with open_catalogue(cache) as connection:
        found = rows(
            connection,
            "SELECT p.*, r.seed FROM predictions p JOIN runs r USING (run_id) WHERE r.experiment = ? AND level = 'utterance'",
            [experiment],
        )
    return {(of["fold"], of["seed"], of["utterance_id"]): dict(of["probabilities"]) for of in found}


@pytest.mark.slow
def test_a_fusion_is_the_mean_of_its_sources(cache: Cache) -> None:
    people = stored.make_utterances(speakers=3, each=4)
    stored.put_utterances(cache, people)
    stored.put_experiment(cache, "one", people)
    stored.put_experiment(cache, "two", people, seeds=(0, 1))
    refresh(cache)
    plan = plan_fusion(cache, ["one", "two"])
    done = fuse(cache, plan)
    assert (done.made, done.found) == (6, 0) and verify(cache) == []
    one, two, both = (probabilities(cache, name) for name in ("one", "two", plan.experiment))
    assert both.keys() == two.keys()  # a source of one seed goes with every seed
    for (fold, seed, name), found in both.items():
        for label, value in found.items():
            wanted = (one[fold, 0, name][label] + two[fold, seed, name][label]) / 2
            assert value == pytest.approx(wanted, abs=1e-6)
    turned = plan_fusion(cache, ["two", "one"])
    assert (fuse(cache, plan).made, fuse(cache, turned).made, turned.experiment) == (0, 0, plan.experiment)
    refresh(cache)
    with pytest.raises(UsageError, match=r"one is in fusion-mean.* would count twice"):
        plan_fusion(cache, ["one", plan.experiment])
    with open_catalogue(cache) as connection:
        outcome = read_outcome(connection, find(connection, plan.experiment))
        about = rows(connection, "SELECT * FROM runs WHERE experiment = ?", [plan.experiment])[0]
    assert len(outcome.keys) == len(people) and outcome.speakers_kept == "kept"
    assert [of["experiment"] for of in json.loads(about["config"])["sources"]] == ["one", "two"]


@pytest.mark.slow
def test_marks_are_inherited_and_a_source_that_changed_is_fused_again(cache: Cache) -> None:
    people = stored.make_utterances(speakers=2, each=3)
    stored.put_utterances(cache, people)
    stored.put_experiment(cache, "one", people, audit="overridden", selections=("last", "test-oracle"))
    stored.put_experiment(cache, "two", people, selections=("last", "test-oracle"))
    refresh(cache)
    plan = plan_fusion(cache, ["one", "two"])
    fuse(cache, plan)
    refresh(cache)
    with open_catalogue(cache) as connection:
        found = rows(
            connection, "SELECT audit, selection FROM runs JOIN metrics USING (run_id) WHERE experiment = ?", [plan.experiment]
        )
    assert {(of["audit"], of["selection"]) for of in found} == {("overridden", "last"), ("overridden", "test-oracle")}
    before = probabilities(cache, plan.experiment)
    stored.put_experiment(cache, "two", people, right=0.1, selections=("last", "test-oracle"))
    refresh(cache)
    assert fuse(cache, plan_fusion(cache, ["one", "two"])).made == 2
    after = probabilities(cache, plan.experiment)
    assert before.keys() == after.keys() and before != after


@pytest.mark.slow
def test_what_does_not_go_together_is_refused(cache: Cache) -> None:
    people = stored.make_utterances(speakers=2, each=3)
    stored.put_utterances(cache, people)
    folds = {of.utterance_id: int(of.speaker or 0) - 2 for of in people}
    stored.put_experiment(cache, "one", people, folds=folds)
    stored.put_experiment(cache, "fewer", people[1:], folds=folds)
    stored.put_experiment(cache, "classes", people, folds=folds, classes=(*stored.CLASSES, "fear"))
    stored.put_experiment(cache, "half", people, folds=folds, only_folds=(1,))
    stored.put_experiment(cache, "early", people, folds=folds, seeds=(0, 1))
    stored.put_experiment(cache, "late", people, folds=folds, seeds=(2, 3))
    refresh(cache)
    with pytest.raises(UsageError, match="classes is"):
        plan_fusion(cache, ["one", "classes"])
    with pytest.raises(UsageError, match="early has folds 1, 2 of seeds 0, 1; late has folds 1, 2 of seeds 2, 3"):
        plan_fusion(cache, ["early", "late"])
    with pytest.raises(UsageError, match="each named once"):
        plan_fusion(cache, ["one", "one"])
    with pytest.raises(TfserError, match="extract what is missing"):
        fuse(cache, plan_fusion(cache, ["one", "fewer"]))
    half = plan_fusion(cache, ["one", "half"])
    assert set(half.runs) == {(1, 0)} and half.left_out == ("fold 2, seed 0: no run of half",)


def test_the_command_says_what_it_made(cache: Cache) -> None:
    people = stored.make_utterances(speakers=3, each=4)
    stored.put_utterances(cache, people)
    for name in ("one", "two"):
        stored.put_experiment(cache, name, people)
    done = run("fuse", "one", "two", "--cache", cache.root)
    assert done.exit_code == 0, done.output
    assert "3 runs made, 0 were there" in done.output and "fusion" in done.output
    for name in ("three", "four"):
        stored.put_experiment(cache, name, people)
    assert run("compare", "one", "fusion-mean", "--cache", cache.root).exit_code == 0
    done = run("fuse", "three", "four", "--cache", cache.root)
    listed = run("scores", "--format", "json", "--cache", cache.root)
    assert "sources=one & two" in listed.output and "run_id': " not in listed.output + done.output
    assert run("fuse", "one", "--cache", cache.root).exit_code == 2


def test_ratings_of_one_member_are_no_part_of_a_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two utterances, a head of two classes and one that rates beside them; the mean is of the classes."""
    said = {"plain": np.array([[0.2, 0.8], [0.6, 0.4]], np.float32), "both": np.array([[0.4, 0.6, 0.1], [1, 0, 0.9]], np.float32)}
    monkeypatch.setattr(answers, "predict_with", lambda of, *words, **more: SimpleNamespace(utterance_probabilities=said[of]))
    fused = FusedHead(about={}, classes=("a", "b"), selection="last", members=("plain", "both"))  # type: ignore[arg-type]
    first, second = answers.evaluated([fused], {}, "cpu", ())
    np.testing.assert_allclose(first[0], [[0.2, 0.8], [0.4, 0.6]])
    np.testing.assert_allclose((first[1][0], second[1][0]), [[0.3, 0.7], [0.8, 0.2]], atol=1e-7)
