"""Length-sorted parts: how a batch of whole utterances is encoded without computing its padding.

What comes in: the lengths of a batch's utterances and how many parts it may have. What goes out: which utterances are encoded
together, and a batch in that form (`Batch`). Utterances of one batch differ in length, and a head computes each as if it were as
long as the longest that it is stacked with: on IEMOCAP a batch of 32 has 3.07 times the frames that its utterances have. Sorted
by length and cut into four parts it has 1.35 times as many.

The batch stays what it was: the same utterances under one loss, one CMDT and one step of the optimiser. Loss and gradients are
those of the whole batch but for rounding. That is so where no sample sees another one inside the head; where samples share
statistics (batch norm), or dropout draws its masks over the padded batch, a batch is never parted (`why_whole`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tfser.heads.spec.head import Baseline, HeadSpec, drops
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Lengths = npt.NDArray[np.int64]

PARTS = {"cpu": 4}
"""Parts of a batch where the recipe leaves it open, by device, as measured (docs/log.md); on other devices one: unmeasured."""

LEAST_GAIN = 1.1
"""Batches are parted where whole ones have at least so many times the frames: below, nothing is worth another rounding."""

_TRIALS = 16  # batches that are dealt to see how much padding a corpus has


@dataclass(frozen=True)
class Batch:
    """The samples of a training step, whole or in parts: what a head is given."""

    samples: tuple[Tensor, ...]
    """(b, l, D) each, one a part; their b add up to B."""
    lengths: tuple[Tensor, ...]
    """(b,) each."""
    targets: Tensor
    """(B, K) in the order of the parts."""

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield samples (B, L, D), lengths (B,) and targets (B, K) of a batch that is whole."""
        (samples,), (lengths,) = self.samples, self.lengths
        return iter((samples, lengths, self.targets))


def in_parts(lengths: Lengths, parts: int) -> list[npt.NDArray[np.int64]]:
    """Return which of B samples are encoded together, sorted by length: at most ``parts`` parts that need the fewest frames.

    One part keeps the order that the samples have, and so the very numbers of a batch that is not parted.

    >>> [part.tolist() for part in in_parts(np.array([9, 2, 8, 2]), 2)]
    [[1, 3], [2, 0]]
    >>> [part.tolist() for part in in_parts(np.array([5, 5, 5]), 2)]
    [[0, 1, 2]]

    Args:
        lengths: (B,) frames of each sample.
        parts: at most so many.
    """
    B = len(lengths)
    order = np.argsort(lengths, kind="stable")
    # Least frames of the first j samples in p parts, by dynamic programming over where the last part begins.
    upto = lengths[order].astype(np.float64)  # the j-th sample is the longest of a part that ends with it
    least = np.arange(1, B + 1) * upto  # in one part
    begins: list[npt.NDArray[np.int64]] = []
    for _ in range(min(parts, B) - 1):
        before = np.concatenate([[0.0], least[:-1]])  # (i,) of the samples that come before the last part's first, i
        cost = before[None, :] + (np.arange(1, B + 1)[:, None] - np.arange(B)[None, :]) * upto[:, None]  # (j, i)
        cost[np.arange(B)[None, :] > np.arange(B)[:, None]] = np.inf
        begin = cost.argmin(axis=1)
        begins.append(begin)
        least = cost[np.arange(B), begin]
    # Read back from the last part to the first; a part that begins at the first sample ends the way early,
    # since fewer parts were enough.
    cuts, end = [B], B
    for begin in reversed(begins):
        if end == 0:
            break
        end = int(begin[end - 1])
        cuts.append(end)
    if cuts[-1]:
        cuts.append(0)
    bounds = sorted(set(cuts))
    if len(bounds) == 2:
        return [np.arange(B)]
    return [order[first:last] for first, last in pairwise(bounds)]


def padding(lengths: Lengths, batch_size: int, parts: int) -> float:
    """Return how many times their frames utterances have in random batches: a mean over dealt batches, always the same.

    Args:
        lengths: (n,) frames of each utterance.
        batch_size: utterances of a batch.
        parts: of each batch.
    """
    random = np.random.default_rng(0)
    padded = valid = 0
    for _ in range(_TRIALS):
        batch = random.choice(lengths, min(batch_size, len(lengths)), replace=False)
        padded += sum(len(part) * int(batch[part].max()) for part in in_parts(batch, parts))
        valid += int(batch.sum())
    return padded / max(valid, 1)


def settle_parts(
    spec: HeadSpec, config: Settings, recipe: Recipe, device: str, lengths: Lengths, *, stacked: bool = False
) -> tuple[Recipe, str | None]:
    """Settle into how many parts batches are cut; return the recipe, and a line for people where what was asked cannot be.

    The settled recipe has None where batches stay whole: such a run has the name and the numbers that it had before there were
    parts. A corpus whose utterances are all of one length, as in constant excerpts, stays so.

    Args:
        spec: the head.
        config: its configuration.
        recipe: what is asked; None is left to the device and the lengths.
        device: `cpu`, `cuda:1` ...
        lengths: (n,) frames of the utterances.
        stacked: the run is trained together with others, in batches of one size.
    """
    # A recipe with `parts` left open and one that asks for what it would get end as the same recipe, and so as
    # the same run.
    asked, reason = recipe.parts, why_whole(spec, config, recipe)
    if reason is None and stacked:
        reason = "stacked trainings share one padded batch"
    whole = replace(recipe, parts=None)
    if reason is not None:
        return whole, None if asked is None or asked == 1 else f"batches are not parted: {reason}"
    if asked is not None:
        return (whole if asked == 1 else recipe), None
    # On by default only where it was measured, and only where padding is worth it: another rounding is another
    # run, with a name of its own.
    parts = PARTS.get(device.partition(":")[0], 1)
    most = spec.seen_frames(config, recipe)
    seen = lengths if most is None else np.minimum(lengths, most)
    if parts == 1 or not len(seen) or padding(seen, recipe.batch_size, 1) < LEAST_GAIN * padding(seen, recipe.batch_size, parts):
        return whole, None
    return replace(recipe, parts=parts), None


def why_whole(spec: HeadSpec, config: Settings, recipe: Recipe) -> str | None:
    """Return why batches of a head and recipe cannot be cut into parts; None if they can."""
    if isinstance(spec, Baseline):
        return f"{spec.name} is not trained in batches"
    if spec.sample_frames(config, recipe) is not None:
        return "samples are segments of one length"
    if spec.batch_norm:
        return "the samples of a batch share the statistics of batch norm"
    if drops(config):
        return "dropout draws its masks over the whole batch"
    if recipe.mixup:
        return "mixup joins samples of different lengths"
    return None
