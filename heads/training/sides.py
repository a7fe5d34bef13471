"""What the sides of a fold are trained to and scored by: soft labels, labels or ratings.

In: a fold, and what was predicted of a side. Out: the targets of its utterances, and an epoch's scores as `EpochRecord` names
them. Nothing here trains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tfser.heads.spec.dimension_metrics import mean_ccc
from tfser.heads.spec.fold import FoldData, Prediction
from tfser.heads.spec.metrics import scores as score


def targets_of(data: FoldData) -> Tensor:
    """Return what each utterance is trained to, float32: its soft labels or its label (n, K), or its ratings (n, T).

    Of classes beside dimensions, (n, K + T + 1): both, and last 1 where there are ratings; where there are none, these are 0.
    """
    if not data.classes and data.ratings is not None:
        return torch.from_numpy(data.ratings)
    if data.soft_labels is not None:
        classes = torch.from_numpy(data.soft_labels).float()
    else:
        classes = nn.functional.one_hot(torch.from_numpy(data.labels), len(data.classes)).float()
    if data.ratings is None:
        return classes
    there = np.isfinite(data.ratings).all(axis=1, keepdims=True)
    ratings = np.where(there, data.ratings, 0.0).astype(np.float32)
    return torch.cat([classes, torch.from_numpy(ratings), torch.from_numpy(there.astype(np.float32))], dim=1)


def side_scores(side: str, data: FoldData, prediction: Prediction | None) -> dict[str, Any]:
    """Return an epoch's utterance-level scores of a side (val or test), as `EpochRecord` calls them."""
    if prediction is None:
        return {f"{side}_{name}": None for name in ("WA", "UA", "WF1", "loss")}
    K, answer = len(data.classes), prediction.utterance_probabilities
    if data.ratings is not None and not K:
        true = data.ratings[prediction.utterance]
        missing: dict[str, Any] = {f"{side}_{name}": None for name in ("WA", "UA", "WF1")}
        loss = float(np.square(true.astype(np.float64) - answer).mean())
        return missing | {f"{side}_loss": loss, f"{side}_CCC": mean_ccc(true, answer)}
    of_classes = _class_scores(side, data.labels[prediction.utterance], answer[:, :K])
    if data.ratings is None:
        return of_classes
    true = data.ratings[prediction.utterance]
    there = np.isfinite(true).all(axis=1)
    return of_classes | {f"{side}_CCC": mean_ccc(true[there], answer[there, K:]) if there.any() else None}


def _class_scores(side: str, labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
    found = score(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    loss = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-30)).mean()
    return {f"{side}_WA": found.WA, f"{side}_UA": found.UA, f"{side}_WF1": found.WF1, f"{side}_loss": float(loss)}
