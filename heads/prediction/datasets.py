"""Utterances as a data set of torch's, and how a batch is made of them.

What comes in: rows of `feature_rows`. What goes out: one utterance at a time, and padded batches. For training loops of
one's own; tfser's gathers its batches on the device (`tfser.heads.training.samples`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tfser.heads.prediction.frames import StoredFrames
from tfser.manifests.cache import Cache
from tfser.manifests.errors import UsageError


class UtteranceFrames(Dataset[dict[str, Any]]):
    """Utterances with their frames; `classes` are the labels' names in the order of their numbers.

    An item is a dict: `frames` (t, dim) float32, `label` (a number into `classes`; -1: none), `utterance_id`, `speaker`.
    """

    def __init__(self, cache: Cache, found: Sequence[Mapping[str, Any]], members: Mapping[str, str] | None = None) -> None:
        """`members` gives the utterances that are in it, with their labels; None: all, with the corpus's own."""
        self._rows = [row for row in found if members is None or row["utterance_id"] in members]
        if not self._rows:
            raise UsageError("none of these utterances has frames of this feature set")
        self._labels = [row["label"] if members is None else members[row["utterance_id"]] for row in self._rows]
        self.classes = tuple(sorted({label for label in self._labels if label is not None}))
        self._frames = StoredFrames(cache, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an utterance."""
        row, label = self._rows[index], self._labels[index]
        frames = np.array(self._frames[row["utterance_id"]], dtype=np.float32)
        return {
            "frames": torch.from_numpy(frames),
            "label": -1 if label is None else self.classes.index(label),
            "utterance_id": row["utterance_id"],
            "speaker": row["speaker"],
        }


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a batch: `frames` (B, L, dim) padded with zeros to the longest, `lengths` (B,), `labels` (B,), and lists of
    the ids and speakers.

    Raises:
        UsageError: there is no item.
    """
    if not items:
        raise UsageError("collate: a batch of one utterance or more is wanted, and there is none")
    frames = [item["frames"] for item in items]
    return {
        "frames": torch.nn.utils.rnn.pad_sequence(frames, batch_first=True),
        "lengths": torch.tensor([len(each) for each in frames]),
        "labels": torch.tensor([item["label"] for item in items]),
        "utterance_ids": [item["utterance_id"] for item in items],
        "speakers": [item["speaker"] for item in items],
    }
