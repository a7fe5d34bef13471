"""Scores and losses of dimensions against closed forms, other libraries where they are installed, and what a small batch does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfser.heads import head
from tfser.heads.spec.dimension_metrics import dimension_scores, mean_ccc, of_sums, sums_of
from tfser.heads.spec.fold import EpochRecord, FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.selections import Rule
from tfser.heads.training.loop import fit
from tfser.heads.training.rating_loss import MIDDLE, ccc, rated, rating_loss
from tfser.heads.training.together import FitJob, fit_together
from tfser.manifests.errors import TfserError, UsageError

from .conftest import rated as rated_fold

RATINGS = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(0, 1, width=32))


def drawn(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 1, n)
    return true, np.clip(0.2 + 0.5 * true + rng.normal(0, 0.1, n), 0, 1)


def test_ccc_is_lin_s_closed_form_and_comes_apart() -> None:
    true, said = drawn()
    found = dimension_scores(true, said)
    by_hand = 2 * np.cov(true, said, bias=True)[0, 1] / (true.var() + said.var() + (true.mean() - said.mean()) ** 2)
    assert pytest.approx(by_hand, abs=1e-12) == found.CCC
    assert found.pearson == pytest.approx(np.corrcoef(true, said)[0, 1], abs=1e-12)
    v, u = found.scale_shift, found.location_shift
    assert v is not None and u is not None and found.pearson is not None
    assert v == pytest.approx(said.std() / true.std()) and u == pytest.approx(
        (said.mean() - true.mean()) / np.sqrt(said.std() * true.std())
    )
    assert pytest.approx(found.pearson * 2 / (v + 1 / v + u**2), abs=1e-12) == found.CCC
    assert pytest.approx(np.abs(true - said).mean()) == found.MAE


def test_ccc_is_audmetric_s() -> None:
    audmetric = pytest.importorskip("audmetric", reason="audmetric is not installed")
    for seed in range(5):
        true, said = drawn(50, seed)
        assert pytest.approx(audmetric.concordance_cc(true, said), abs=1e-9) == dimension_scores(true, said).CCC
        assert dimension_scores(true, said).pearson == pytest.approx(audmetric.pearson_cc(true, said), abs=1e-9)


@pytest.mark.slow  # its import takes seconds
def test_ccc_is_torchmetrics_s() -> None:
    functional = pytest.importorskip("torchmetrics.functional", reason="torchmetrics is not installed")
    true, said = drawn(4000)
    theirs = functional.concordance_corrcoef(torch.from_numpy(said), torch.from_numpy(true))
    # Theirs divides by n - 1 where the means' distance is not, which is the same for many.
    assert pytest.approx(float(theirs), abs=1e-3) == dimension_scores(true, said).CCC


@given(RATINGS, st.integers(0, 2**31))
def test_ccc_is_symmetric_bounded_and_the_same_on_any_scale(true: np.ndarray, seed: int) -> None:
    said = np.random.default_rng(seed).uniform(0, 1, len(true))
    found, turned = dimension_scores(true, said), dimension_scores(said, true)
    assert found.CCC is not None and turned.CCC is not None
    assert -1 <= found.CCC <= 1 and pytest.approx(turned.CCC, abs=1e-9) == found.CCC
    if found.pearson is not None:
        assert abs(found.CCC) <= abs(found.pearson) + 1e-9
        flipped = dimension_scores(1 - true, 1 - said)
        assert pytest.approx(found.CCC, abs=1e-6) == flipped.CCC


@given(RATINGS, RATINGS)
def test_sums_add_up(one: np.ndarray, other: np.ndarray) -> None:
    """Scores of two speakers together are those of their sums: what pooling and the jackknife rest on."""
    said = [np.flip(one), np.flip(other)]
    whole = sums_of(np.concatenate([one, other]), np.concatenate(said))
    parts = sums_of(one, said[0]) + sums_of(other, said[1])
    np.testing.assert_allclose(parts, whole, atol=1e-9)
    for metric in ("CCC", "MAE"):
        np.testing.assert_allclose(of_sums(parts, metric), of_sums(whole, metric), atol=1e-6)


def test_what_has_no_value() -> None:
    assert dimension_scores([0.5, 0.5], [0.5, 0.5]).CCC is None
    constant = dimension_scores([0.2, 0.8], [0.5, 0.5])
    assert (constant.CCC, constant.pearson, constant.scale_shift, constant.location_shift) == (0.0, None, None, None)
    assert dimension_scores([0.4], [0.6]).CCC is None and pytest.approx(0.2) == dimension_scores([0.4], [0.6]).MAE
    assert mean_ccc([[0.5, 0.1], [0.5, 0.9]], [[0.5, 0.1], [0.5, 0.9]]) == 1.0
    with pytest.raises(ValueError, match="nothing to score"):
        dimension_scores([], [])
    with pytest.raises(ValueError, match="one length"):
        dimension_scores([0.1, 0.2], [0.1])


def test_the_loss_is_one_less_the_scores_ccc() -> None:
    true, said = drawn(64)
    outputs = torch.from_numpy(said)[:, None].double() - MIDDLE
    targets = torch.from_numpy(true)[:, None]
    score = dimension_scores(true, said).CCC
    assert score is not None
    assert float(rating_loss(outputs, targets, Recipe())) == pytest.approx(1 - score, abs=1e-4)
    assert float(rating_loss(outputs, targets, Recipe(rating_loss="mse"))) == pytest.approx(np.square(true - said).mean())
    mixed = float(rating_loss(outputs, targets, Recipe(rating_loss="mix", rating_mix=0.25)))
    assert mixed == pytest.approx(0.25 * (1 - score) + 0.75 * 12 * np.square(true - said).mean(), abs=1e-4)


@pytest.mark.parametrize("kind", ["ccc", "mse", "mix"])
def test_absent_samples_change_nothing_and_gradients_are_finite(kind: str) -> None:
    recipe = Recipe(rating_loss=kind)  # type: ignore[arg-type]
    outputs, targets = torch.randn(6, 2, dtype=torch.double), torch.rand(6, 2, dtype=torch.double)
    present = torch.tensor([True] * 4 + [False] * 2)
    padded = rating_loss(outputs, targets, recipe, present)
    assert float(padded) == pytest.approx(float(rating_loss(outputs[:4], targets[:4], recipe)), abs=1e-12)
    for batch in (outputs[:1], outputs[:4], torch.zeros(3, 2, dtype=torch.double)):
        of = batch.clone().requires_grad_()
        rating_loss(of, targets[: len(batch)], recipe).backward()
        assert of.grad is not None and torch.isfinite(of.grad).all()


def test_what_is_predicted_stays_on_the_scale() -> None:
    assert rated(torch.tensor([[-3.0, 0.0, 3.0]])).tolist() == [[0.0, 0.5, 1.0]]


def test_a_small_batch_s_ccc_is_biased() -> None:
    """The module's text states it: the smaller the batch, the farther below the population's its mean is."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 1, 48_000)
    said = true + rng.normal(0, np.sqrt(1 / 12), len(true))
    whole = dimension_scores(true, said).CCC
    assert whole == pytest.approx(2 / 3, abs=0.01)

    def mean_of_batches(size: int) -> float:
        of = [torch.from_numpy(x).reshape(-1, size).T for x in (said, true)]
        return float(ccc(of[0], of[1], torch.ones(size, 1, dtype=torch.double)).mean())

    short = {size: whole - mean_of_batches(size) for size in (4, 8, 16, 32, 64)}
    assert short[4] > short[8] > short[16] > short[32] > 0
    assert 0.02 < short[8] < 0.06 and short[32] < 0.015


def test_ratings_that_nothing_can_be_learned_from_are_refused(fold: FoldData) -> None:
    of = rated_fold(fold)
    assert of.ratings is not None
    constant, odd = of.ratings.copy(), of.ratings.copy()
    constant[of.train, 1], odd[of.test[0], 0] = 0.5, np.nan
    with pytest.raises(UsageError, match="all 12 training utterances have the same arousal"):
        replace(of, ratings=constant)
    with pytest.raises(UsageError, match="its rating is no number"):
        replace(of, ratings=odd)
    with pytest.raises(UsageError, match="pulls classes together"):
        spec = head("mean_pool")
        fit(of, spec=spec, config=spec.preset(), recipe=Recipe(cmdt=1.0, epochs=1), seed=0)
    with pytest.raises(UsageError, match="name them with --target"):
        spec = head("ridge")
        fit(fold, spec=spec, config=spec.preset(), recipe=spec.recipe(), seed=0)


def test_dimensions_are_selected_by_mean_ccc() -> None:
    common = {"loss": 1.0, "learning_rate": 0.1, "train_s": 0.0, "eval_s": 0.0}
    none = dict.fromkeys(("val_WA", "val_UA", "test_WA", "test_UA"))
    history = [EpochRecord(epoch=i + 1, val_CCC=value, **common, **none) for i, value in enumerate((0.1, 0.4, 0.4, 0.2))]
    assert Rule.parse("val").choose(history) == 2
    assert Rule.parse("test-oracle").choose(history) is None


def test_trainings_that_share_their_steps_learn_the_same_ratings(fold: FoldData) -> None:
    spec, recipe = head("mean_pool"), Recipe(epochs=2, batch_size=5, rating_loss="mix")
    config = spec.preset().with_settings({"dropout": "0"})
    jobs = [FitJob(data=rated_fold(fold), seed=seed) for seed in (0, 1)]
    together = fit_together(jobs, spec=spec, config=config, recipe=recipe, how="vmap")
    for job, found in zip(jobs, together, strict=True):
        alone = fit(job.data, spec=spec, config=config, recipe=recipe, seed=job.seed)
        assert not isinstance(found, TfserError) and found.together == 2
        one, other = alone.selections["last"].test, found.selections["last"].test
        assert one is not None and other is not None
        np.testing.assert_allclose(one.utterance_probabilities, other.utterance_probabilities, atol=1e-4)
