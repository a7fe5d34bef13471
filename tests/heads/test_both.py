"""Classes and dimensions in one training: what is learned, what an unrated utterance changes, and that both sides are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tfser.heads import head
from tfser.heads.runs.target import check_learns
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData, UnlearnableError
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.augment import mix
from tfser.heads.training.loop import Keeping, fit
from tfser.heads.training.losses import cross_entropy
from tfser.heads.training.parts import Batch
from tfser.heads.training.predict import TrainedState, predict
from tfser.heads.training.rating_loss import rating_loss
from tfser.heads.training.sides import side_scores, targets_of
from tfser.heads.training.step import training_loss
from tfser.heads.training.together import FitJob, fit_together
from tfser.manifests.errors import UsageError

from .conftest import make_fold
from .conftest import rated as rated_fold


def both(unrated: tuple[int, ...] = (1, 14, 17)) -> FoldData:
    """Return a fold of three classes and two dimensions, some of whose utterances are not rated."""
    fold = make_fold()
    ratings = np.array(rated_fold(fold).ratings)
    ratings[list(unrated)] = np.nan
    return replace(fold, targets=("valence", "arousal"), ratings=ratings)


class _Table(torch.nn.Module):
    """Gives the first frame of each sample as its outputs."""

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return frames[:, 0]


def test_the_loss_is_the_sum_of_both_over_those_that_are_rated() -> None:
    data, recipe = both(), Recipe(label_smoothing=0.1, rating_weight=0.7)
    outputs = torch.randn(22, 5)
    batch = Batch((outputs[:, None],), (torch.ones(22, dtype=torch.long),), targets_of(data))
    found = training_loss(_Table(), batch, torch.ones(3), recipe, None)
    there = torch.from_numpy(np.isfinite(data.ratings).all(axis=1))  # type: ignore[call-overload]
    classes = cross_entropy(outputs[:, :3], targets_of(make_fold()), torch.ones(3), 0.1)
    ratings = rating_loss(outputs[there][:, 3:], torch.from_numpy(data.ratings)[there], recipe)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(float(classes + 0.7 * ratings), abs=1e-6)
    # Mixed with an unrated sample, a rated one has no rating.
    samples, lengths = torch.zeros(22, 1, 2), torch.ones(22, dtype=torch.long)
    mixed = mix(samples, lengths, targets_of(data), 0.5, torch.Generator().manual_seed(1))[2]
    assert 0 < int((mixed[:, -1] > 1 - 1e-6).sum()) < int(there.sum())


@pytest.mark.parametrize("name", ["logreg", "svm"])
def test_reference_heads_learn_on_each_side_what_they_learn_alone(name: str) -> None:
    spec, data = head(name), both()
    config, recipe = spec.preset(), spec.recipe()
    found = fit(data, spec=spec, config=config, recipe=recipe, seed=0)
    alone = fit(make_fold(), spec=spec, config=config, recipe=recipe, seed=0)
    partner = head("ridge" if name == "logreg" else "svr")
    there = replace(data, classes=(), train=data.rated(data.train), val=data.val[:0], test=data.rated(data.test))
    of_ratings = fit(there, spec=partner, config=partner.preset(), recipe=partner.recipe(), seed=0)
    said, classes, ratings = (of.selections["last"].test for of in (found, alone, of_ratings))
    assert said is not None and classes is not None and ratings is not None
    np.testing.assert_array_equal(said.utterance_probabilities[:, :3], classes.utterance_probabilities)
    is_rated = np.isin(said.utterance, ratings.utterance)
    np.testing.assert_array_equal(said.utterance_probabilities[is_rated, 3:], ratings.utterance_probabilities)
    record = found.history[0]
    assert record.test_UA == alone.history[0].test_UA and record.test_CCC == of_ratings.history[0].test_CCC
    trained = TrainedState(state=found.states["last"], spec=spec, config=config, recipe=recipe, n_classes=3, targets=data.targets)
    again = predict(trained, data.features, utterances=data.test)
    np.testing.assert_array_equal(again.utterance_probabilities, said.utterance_probabilities)


def test_a_network_learns_both_and_says_what_it_learned() -> None:
    spec = head("mean_pool")
    recipe = replace(spec.recipe(), epochs=12, warmup_epochs=0.0, temperature=True)
    found = fit(both(), spec=spec, config=spec.preset(), recipe=recipe, seed=0)
    record = found.history[-1]
    assert record.test_UA is not None and record.test_UA > 0.6 and record.test_CCC is not None and record.temperature
    test = found.selections["last"].test
    assert test is not None and test.utterance_probabilities.shape == (6, 5)
    np.testing.assert_allclose(test.utterance_probabilities[:, :3].sum(axis=1), 1, atol=1e-5)
    chosen = max(found.history, key=lambda of: (of.val_UA or 0) + (of.val_CCC or 0))
    assert found.selections["val"].epoch == chosen.epoch, "the sum of both chooses"
    together = fit_together(
        [FitJob(data=both(), seed=0), FitJob(data=both(), seed=1)],
        spec=spec, config=replace(spec.preset(), dropout=0.0), recipe=replace(recipe, epochs=2), device="cpu", how="vmap",
    )  # fmt: skip
    assert all(not isinstance(of, Exception) and of.history[-1].test_CCC is not None for of in together)


def test_a_stopped_training_of_both_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    """Also where nobody who validates has one of the classes: the temperature is fitted on those that there are."""
    data, spec = both(), head("mean_pool")
    labels = data.labels.copy()
    labels[data.val] %= 2
    assert set(labels[data.val]) < set(labels[data.train])
    recipe = replace(spec.recipe(), epochs=4, warmup_epochs=0.0, temperature=True)

    def train(**keeping: Any) -> FitResult:
        fold = replace(data, labels=labels)
        return fit(fold, spec=spec, config=spec.preset(), recipe=recipe, seed=0, keeping=Keeping(**keeping))

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint_dir=tmp_path, checkpoint_every_s=0.0, on_epoch=stop)
    resumed = train(checkpoint_dir=tmp_path)
    for name, selection in whole.selections.items():
        again = resumed.selections[name]
        assert again.epoch == selection.epoch and again.test is not None and selection.test is not None
        np.testing.assert_array_equal(again.test.utterance_probabilities, selection.test.utterance_probabilities)
    temperatures = [record.temperature for record in resumed.history]
    assert temperatures == [record.temperature for record in whole.history] and np.isfinite(temperatures).all()  # type: ignore[arg-type]


def test_what_is_not_rated_changes_no_score_of_ratings_and_every_class_score_stays() -> None:
    data = both()
    result = fit(data, spec=head("logreg"), config=head("logreg").preset(), recipe=head("logreg").recipe(), seed=0)
    test = result.selections["last"].test
    assert test is not None
    scored = side_scores("test", data, test)
    fewer = replace(test, utterance=test.utterance[1:], utterance_probabilities=test.utterance_probabilities[1:])
    assert data.test[1] == 17 and scored["test_UA"] is not None
    assert side_scores("test", data, fewer)["test_CCC"] != scored["test_CCC"]
    nobody = both(tuple(range(16, 22)))
    assert side_scores("test", nobody, test)["test_CCC"] is None


def test_what_cannot_be_learned_is_said() -> None:
    with pytest.raises(UnlearnableError, match="no training utterance is rated for valence and arousal"):
        both(tuple(range(12)))
    with pytest.raises(UnlearnableError, match="all 1 training utterances have the same valence"):
        both(tuple(range(11)))
    for name, alone in (("probe", "classes alone"), ("ridge", "dimensions alone")):
        with pytest.raises(UsageError, match=f"{name} learns {alone}; for --target class,arousal take logreg or svm"):
            check_learns(head(name), ("arousal",), True)
