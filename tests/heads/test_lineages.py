"""Recipes of published lineages: every one trains to its end, and stores what its publications report."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tfser.heads import HEADS, head
from tfser.heads.models.mean_pool import MeanPoolConfig
from tfser.heads.spec.fold import FitResult, FoldData
from tfser.heads.spec.head import Network
from tfser.heads.spec.lineages import LINEAGES, explain, listed
from tfser.heads.spec.metrics import scores
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.selections import Rule, peeks
from tfser.heads.training.loop import Keeping, TrainedState, fit, predict
from tfser.manifests.errors import UsageError

from .conftest import make_fold

TINY = MeanPoolConfig(hidden=(4,))


def train(fold: FoldData, recipe: Recipe, seed: int = 0, **keeping: Any) -> FitResult:
    return fit(fold, spec=head("mean_pool"), config=TINY, recipe=recipe, seed=seed, keeping=Keeping(**keeping))


OFTEN = ("superb", "shiftser")
"""Lineages of steps and of epochs; the others train in the same loop, and what they report is explained below for all."""


@pytest.mark.few(1)
@pytest.mark.parametrize("name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in LINEAGES])
def test_a_lineage_trains_to_its_end_and_stores_its_selections(name: str, fold: FoldData) -> None:
    recipe = head("mean_pool").recipe(name).settled(0.02)
    result = train(fold, replace(recipe, steps=recipe.steps and 6))  # SUPERB's 30,000, at one step an epoch
    assert len(result.history) == (6 if recipe.steps else recipe.epochs)
    assert set(result.selections) == {"last", "val", "test-oracle", *recipe.selections}
    for selection in LINEAGES[name].reports:
        chosen = result.selections[selection]
        record = result.history[chosen.epoch - 1]
        assert chosen.test is not None and record.epoch == chosen.epoch
        found = scores(fold.labels[chosen.test.utterance], chosen.test.utterance_probabilities.argmax(axis=1), 3)
        assert (record.test_WA, record.test_UA, record.test_WF1) == (found.WA, found.UA, found.WF1)
        assert Rule.parse(selection).choose(result.history) == chosen.epoch


def test_selections_on_the_test_side_are_the_best_of_the_history(fold: FoldData) -> None:
    names = ("test-WA", "test-UA", "test-WA+UA", "test-loss")
    result = train(fold, Recipe(lr=3e-3, epochs=12, selections=names))
    records = result.history
    best = {
        "test-WA": max(r.test_WA or 0 for r in records),
        "test-UA": max(r.test_UA or 0 for r in records),
        "test-WA+UA": max((r.test_WA or 0) + (r.test_UA or 0) for r in records),
        "test-loss": min(r.test_loss or 9 for r in records),
    }
    for name, value in best.items():
        of = records[result.selections[name].epoch - 1]
        values = {"test-WA+UA": (of.test_WA or 0) + (of.test_UA or 0)}
        assert values.get(name, getattr(of, name.replace("-", "_"), None)) == value
    assert result.selections["test-UA"].epoch == result.selections["test-oracle"].epoch
    test = result.selections["test-loss"].test
    assert test is not None
    truth = test.utterance_probabilities[range(6), fold.labels[test.utterance]]
    assert best["test-loss"] == pytest.approx(-np.log(truth).mean())


def test_selections_change_nothing_in_the_training(fold: FoldData) -> None:
    recipe = Recipe(epochs=4)
    plain, chosen = train(fold, recipe), train(fold, replace(recipe, selections=("test-top5", "val-WF1")))
    still = [[replace(record, train_s=0, eval_s=0) for record in result.history] for result in (plain, chosen)]
    assert still[0] == still[1]
    for name in ("last", "val", "test-oracle"):
        one, other = plain.selections[name].test, chosen.selections[name].test
        assert one is not None and other is not None
        np.testing.assert_array_equal(one.utterance_probabilities, other.utterance_probabilities)


def test_every_network_has_them_and_its_own_win() -> None:
    for name in HEADS:
        spec = head(name)
        for lineage, of in LINEAGES.items():
            if isinstance(spec, Network):
                assert spec.recipe(lineage) == of.recipe
            else:
                with pytest.raises(UsageError, match=f"not trained by epochs; take {' or '.join(spec.recipes)}$"):
                    spec.recipe(lineage)
    own = Recipe(summary="own")
    assert replace(head("mean_pool"), recipes={"superb": own}).recipe("superb") is own
    with pytest.raises(UsageError, match="did you mean 'shiftser'"):
        head("mean_pool").recipe("shiftsr")


def test_what_a_lineage_reports_is_explained() -> None:
    assert len(listed()) == len(LINEAGES)
    for name, of in LINEAGES.items():
        said = explain(name)
        assert said is not None and all(report in said for report in of.reports)
        assert set(of.reports) <= set(of.recipe.selections)
        if any(map(peeks, of.reports)):
            assert "upper bound and no result" in said and "last is the honest number" in said
        if of.recipe.validation is not None:
            assert "share their speakers" in said
    assert (explain("shiftser") or "").startswith("shiftser reports test-WA and test-UA: epochs chosen on the test fold")
    assert (explain("superb+epochs=3") or "").startswith("superb (with settings changed) reports val-WA")
    missing = explain("dwformer_meld", have=["last", "test-oracle"]) or ""
    assert missing.endswith("NOT HERE: without a validation side there is no val-WF1 (add --validation)")
    assert explain("dwformer_meld", have=["last", "val-WF1"]) == explain("dwformer_meld")
    assert explain("default") is None
    assert explain("superb", own=("superb",)) is None


def test_a_cut_utterance_is_seen_to_its_limit_only(fold: FoldData) -> None:
    """Frames beyond the limit change nothing, in training and in prediction."""
    recipe = Recipe(epochs=2, normalise="none", cut_frames=9)
    frames = fold.features.frames.copy()
    for begin, end in zip(fold.features.offsets[:-1], fold.features.offsets[1:], strict=True):
        frames[begin + 9 : end] = 99.0
    other = replace(fold, features=replace(fold.features, frames=frames))
    first, second = train(fold, recipe), train(other, recipe)
    assert first.history[-1].loss == second.history[-1].loss
    for data in (fold, other):
        state = first.states["last"]
        trained = TrainedState(state=state, spec=head("mean_pool"), config=TINY, recipe=recipe, n_classes=3)
        found = predict(trained, data.features, utterances=fold.test)
        test = first.selections["last"].test
        assert test is not None
        np.testing.assert_array_equal(found.utterance_probabilities, test.utterance_probabilities)


def test_slices_are_averaged_over_an_utterance(fold: FoldData) -> None:
    recipe = Recipe(epochs=2, slice_frames=10)
    test = train(fold, recipe).selections["last"].test
    assert test is not None
    lengths = fold.features.lengths[fold.test]
    assert np.bincount(test.segment_utterance)[fold.test].tolist() == [1 + max(0, -(-(n - 10) // 10)) for n in lengths]
    for u, probabilities in zip(test.utterance, test.utterance_probabilities, strict=True):
        mine = test.segment_probabilities[test.segment_utterance == u]
        np.testing.assert_allclose(mine.mean(axis=0), probabilities, atol=1e-6)


def test_seconds_that_nobody_settled_are_refused(fold: FoldData) -> None:
    with pytest.raises(UsageError, match="cut_seconds"):
        train(fold, Recipe(cut_seconds=3.0))


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimiser_lowers_the_loss(optimiser: str, fold: FoldData) -> None:
    result = train(fold, Recipe(optimiser=optimiser, lr=3e-3, betas=(0.9, 0.99), epochs=15))  # type: ignore[arg-type]
    assert result.history[-1].loss < result.history[0].loss


LEARNING = Recipe(lr=1e-2, epochs=40)


@functools.cache
def _plainly() -> FitResult:
    """Train once without any option, for all tests of options to compare with."""
    return train(make_fold(), LEARNING)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"focal": 2.0},
        {"class_weights": "effective"},
        {"class_weights": "inverse-sqrt", "label_smoothing": 0.1},
        {"time_masks": 2, "time_mask_frames": 5, "band_masks": 1, "band_mask_bands": 4},
        {"mixup": 0.4},
    ],
)
def test_options_work_for_whole_utterances_of_encoder_like_features(settings: dict[str, object], fold: FoldData) -> None:
    """Each changes the training, and the head still learns the plain classes."""
    plain, changed = _plainly(), train(fold, replace(LEARNING, **settings))  # type: ignore[arg-type]
    if "class_weights" not in settings or "label_smoothing" in settings:  # the fold's classes are of one size
        assert changed.history[0].loss != plain.history[0].loss
    assert changed.history[-1].loss < changed.history[0].loss
    assert changed.history[-1].test_UA == 1.0


@pytest.mark.slow
def test_a_killed_training_keeps_what_a_selection_may_choose(fold: FoldData, tmp_path: object) -> None:
    recipe = Recipe(lr=3e-3, epochs=9, selections=("test-top5", "test-WA", "val-WF1"))
    whole = train(fold, recipe)
    for limit in (2, 5):

        class StopError(Exception):
            pass

        def stop(record: object, limit: int = limit, kind: type[Exception] = StopError) -> None:
            if getattr(record, "epoch", 0) == limit:
                raise kind

        with pytest.raises(StopError):
            train(fold, recipe, checkpoint_dir=tmp_path, checkpoint_every_s=0.0, on_epoch=stop)
    resumed = train(fold, recipe, checkpoint_dir=tmp_path)
    assert {n: s.epoch for n, s in resumed.selections.items()} == {n: s.epoch for n, s in whole.selections.items()}
    for name, selection in whole.selections.items():
        other = resumed.selections[name].test
        assert selection.test is not None and other is not None
        np.testing.assert_array_equal(other.utterance_probabilities, selection.test.utterance_probabilities)
