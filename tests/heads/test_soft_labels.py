"""Soft labels: the loss, the way from single ratings into a run and its name, and scores against the raters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.metrics import f1_score, recall_score

from tfser.heads.reports.failing_data import failing
from tfser.heads.reports.material import read_material, spoken
from tfser.heads.results.rater_scores import MEASURES, _measures, _sums
from tfser.heads.runs.asked_head import asked_head
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.request import Request
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.losses import cross_entropy
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import UsageError

from ..conftest import fill_with_tones, run


def test_kl_is_cross_entropy_without_the_targets_entropy_and_has_its_gradient():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, requires_grad=True)
    targets = torch.softmax(2 * torch.randn(5, 3), dim=1)
    targets[0] = torch.tensor([1.0, 0.0, 0.0])
    losses = [cross_entropy(logits, targets, torch.ones(3), 0.0, divergence=kl) for kl in (False, True)]
    expected = entropy(targets.numpy(), torch.softmax(logits, dim=1).detach().numpy(), axis=1).mean()
    assert losses[1].item() == pytest.approx(expected, rel=1e-5)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients)
    best = cross_entropy(targets.clamp(min=1e-30).log(), targets, torch.ones(3), 0.0, divergence=True)
    assert best.item() == pytest.approx(0, abs=1e-6)


def test_measures_are_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(1)
    n, k = 60, 4
    votes = rng.multinomial(5, [0.4, 0.3, 0.2, 0.1], n)
    shares, probabilities = votes / 5, rng.dirichlet(np.ones(k), n)
    sums = _sums(probabilities, shares, np.zeros(n, dtype=np.int64), np.arange(n) % 7, (1, 7))
    found = dict(zip(MEASURES, _measures(sums.sum(axis=1)), strict=True))
    top = votes.max(axis=1, keepdims=True)
    clear = (votes == top).sum(axis=1) == 1
    expected = {
        "UA_majority": recall_score(votes[clear].argmax(axis=1), probabilities[clear].argmax(axis=1), average="macro"),
        "macro_F1_multi": f1_score(shares > 1 / k, probabilities > 1 / k, average="macro", zero_division=0),
        "KL": entropy(shares, probabilities, axis=1).mean(),
        "JS": (jensenshannon(shares, probabilities, base=2, axis=1) ** 2).mean(),
        "cosine": np.mean([p @ d / np.linalg.norm(p) / np.linalg.norm(d) for p, d in zip(probabilities, shares, strict=True)]),
    }
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Path]:
    """Tones of three speakers; of all but one of them three raters say what they hear, one of them something else."""
    folder = tmp_path_factory.mktemp("rated")
    cache = Cache(folder / "cache")
    fill_with_tones(cache, folder, each=(3, 3, 3))
    rows = ["id,rater,label"]
    for speaker in "abc":
        for label in ("anger", "sadness"):
            for i in range(3):
                names = (label, label, "sadness" if label == "anger" else label)
                if (speaker, label, i) != ("a", "sadness", 2):
                    rows += [f"{speaker}/{label}{i}.wav,r{r},{name}" for r, name in enumerate((*names, "calm"))]
    (folder / "ratings.csv").write_text("\n".join(rows))
    return cache, folder / "ratings.csv"


@pytest.mark.slow
def test_from_ratings_to_scores(rated):
    cache, ratings = rated
    asked: dict[str, Any] = {"corpus": "toy", "head": "mean_pool", "epochs": 2}
    before = resolve(cache, Request(**asked)).name
    with pytest.raises(UsageError, match="no rater of toy gave one of the classes"):
        resolve(cache, Request(**asked, labels_from="distribution"))
    assert run("scan", "--corpus", "toy", "--annotations", ratings, "--cache", cache.root).exit_code == 0
    soft = resolve(cache, Request(**asked, labels_from="distribution"))
    # Ratings alone rename nothing; soft labels make another experiment, and other votes yet another.
    assert resolve(cache, Request(**asked)).name == before != soft.name
    assert any("soft labels of 17 of 18 utterances; the other 1" in words for words in soft.chosen)
    loaded = load(cache, soft)
    targets = dict(zip(loaded.features.utterance_ids, loaded.soft_labels.tolist(), strict=True))
    assert soft.classes == ("anger", "sadness")
    assert targets["a/anger0"] == pytest.approx([2 / 3, 1 / 3])  # calm is no class of the protocol
    assert (targets["b/sadness1"], targets["a/sadness2"]) == ([0, 1], [0, 1])
    baseline = resolve(cache, Request(corpus="toy", head="logreg", labels_from="distribution"))
    assert baseline.name == resolve(cache, Request(corpus="toy", head="logreg")).name
    assert any("takes no soft labels" in words for words in baseline.chosen)
    options = ("--corpus", "toy", "--head", "mean_pool", "--epochs", "2", "--cache", cache.root, "--threads", "1")
    trained = run("train", *options, "--labels-from", "distribution", "--set", "soft_loss=kl")
    assert trained.exit_code == 0, trained.output
    wrong = run("train", *options, "--labels-from", "votes")
    assert wrong.exit_code == 2 and "votes" in wrong.output
    found = json.loads(run("scores", "--by", "raters", "--format", "json", "--cache", cache.root).stdout)
    last = next(row for row in found if row["selection"] == "last")
    assert (last["n"], last["not_rated"], last["ties"], last["clusters"]) == (17, 1, 0, 3)
    assert last["recipe"].endswith("labels_from=distribution+soft_loss=kl")
    assert all(last[name] is not None for name in MEASURES)
    found = json.loads(run("scores", "--by", "agreement", "--format", "json", "--cache", cache.root).stdout)
    bands = {row["agreement"]: row["n"] for row in found if row["selection"] == "last"}
    assert bands == {"more than half agree": 8, "half or fewer agree": 9, "not rated": 1}
    with open_catalogue(cache) as connection:
        (one,) = read_material(cache, connection, [last["experiment"]]).members
        drawn = failing(one, spoken(connection, [one.experiment])).numbers[0]
        by_sql = {(row["group"], row["n"]): row["UA"] for row in rows(connection, drawn.sql) if row["what"] == "raters"}
    by_hand = {(row["group"], row["n"]): row["UA"] for row in drawn.rows if row["what"] == "raters"}
    assert by_hand.keys() == {("half or fewer agree", 9), ("more than half agree", 8)} and by_hand == pytest.approx(by_sql)
    shown = run("scores", "--by", "raters", "--cache", cache.root).stdout
    assert {"majority", "macro", "1/K"} <= {*shown.split()}  # in how many lines depends on the width


@pytest.mark.parametrize("head", ["logreg", "mean_pool"])
def test_a_word_that_is_neither_is_refused_of_every_head(head, tmp_path):
    """Baselines take one label an utterance, and once took any word for that."""
    with pytest.raises(UsageError, match="unknown labels_from 'nonsense'"):
        asked_head(Cache(tmp_path), Request(head=head, labels_from="nonsense"))


def test_no_name_changes_by_the_new_settings():
    assert not {"labels_from", "soft_loss"} & Recipe().identity().keys()
    assert Recipe(labels_from="distribution").identity()["labels_from"] == "distribution"
