"""The line that a head has to cross: logistic regression on the mean and deviation of each utterance's cached frames.

Same features, same folds and the same scores as `tfser train`; scaled on the training side. Run it after `tfser extract`:

    python benchmarks/linear_anchor.py --corpus emodb
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfser.heads.experiment import Request, resolve
from tfser.heads.fold_runs import load
from tfser.heads.metrics import scores
from tfser.manifests.cache import Cache


def main() -> None:
    """Print UA and WA: mean over the folds, and pooled over their utterances."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--corpus")
    options.add_argument("--cache", type=Path)
    options.add_argument("--C", type=float, default=1.0, help="inverse strength of the L2 penalty")
    chosen = options.parse_args()
    cache = Cache(chosen.cache)
    experiment = resolve(cache, Request(head="mean_pool", corpus=chosen.corpus, device="cpu"))
    data = load(cache, experiment)
    inputs = np.stack([np.concatenate([u.mean(axis=0), u.std(axis=0)]) for u in map(data.features.of, range(len(data.labels)))])
    predicted, tested, folds = [], [], []
    for side in data.sides.values():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=chosen.C, max_iter=5000))
        model.fit(inputs[side["train"]], data.labels[side["train"]])
        predicted.append(model.predict(inputs[side["test"]]))
        tested.append(data.labels[side["test"]])
        folds.append(scores(tested[-1], predicted[-1], len(experiment.classes)))
    pooled = scores(np.concatenate(tested), np.concatenate(predicted), len(experiment.classes))
    print(f"{experiment.corpus}, {experiment.protocol}, {experiment.feature_set}, {len(folds)} folds, C = {chosen.C:g}")
    print(f"mean over folds: UA {100 * np.mean([f.UA for f in folds]):.1f}, WA {100 * np.mean([f.WA for f in folds]):.1f}")
    print(f"pooled:          UA {100 * pooled.UA:.1f}, WA {100 * pooled.WA:.1f}")


if __name__ == "__main__":
    main()
