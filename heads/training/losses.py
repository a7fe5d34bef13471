"""Losses: cross-entropy and focal loss, class weights, and TF-Mamba's Complex Metric-Distance Triplet loss (CMDT).

CMDT, after Eq. 7 and 8 of the TF-Mamba paper (Zhao et al. 2024), pulls the block's output M of samples of one class together and
pushes other classes away, in the frequency domain. Where the paper is silent or would not work as printed (docs/methods.md):

* [k] in Eq. 8 is a frequency bin: M (L x D) is transformed along time, each bin k gives one complex vector of D numbers a sample,
  bins are compared one by one, and the loss is averaged over them. Along the features instead, Eq. 7 is the plain cosine of
  two real vectors (Parseval): ``axis="feature"`` is kept for the ablation.
* The positive P_i is the mean of the *other* samples of i's class in the batch; a sample with none is skipped. The negatives are
  the samples of other classes. The positive stands in the denominator as well, so that the loss cannot go below zero.
* Frames beyond an utterance's length are zero, and the transform's length is one for all batches: a bin is a frequency.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.heads.models.blocks import valid_frames
from tfser.heads.spec.recipes import Recipe

_TINY = 1e-12  # added to squared norms: the direction of a vector of zeros is zero


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor, smoothing: float, focal: float = 0.0, divergence: bool = False
) -> Tensor:
    """Cross-entropy with soft targets, each sample weighted by its targets' class weights.

    With ``focal`` g it is the focal loss: the term of each class is multiplied by (1 - p)^g, p being its predicted probability
    (Lin et al. 2017, Eq. 4, which has hard targets: there only the true class has a term).

    Args:
        logits: (B, K)
        targets: (B, K) probabilities.
        class_weights: (K,)
        smoothing: share of the targets that is spread evenly over the classes.
        focal: g; 0: plain cross-entropy.
        divergence: take away the entropy of the smoothed targets: Kullback and Leibler's divergence, with the same gradient.
    """
    weights = targets @ class_weights  # (B,)
    smoothed = targets * (1 - smoothing) + smoothing / targets.shape[1]
    logarithms = logits.log_softmax(dim=-1)  # (B, K)
    entropy = torch.special.entr(smoothed).sum(dim=-1) if divergence else 0.0  # (B,)
    if focal:
        # 1 - p from its logarithm, never below the smallest float: the gradient of x^g at 0 is infinite for g < 1.
        rest = (-torch.expm1(logarithms)).clamp(min=torch.finfo(logits.dtype).tiny)
        smoothed = smoothed * rest**focal
    losses = -(smoothed * logarithms).sum(dim=-1) - entropy  # (B,)
    return (losses * weights).sum() / weights.sum()


def class_weights(recipe: Recipe, labels: npt.NDArray[np.int64], n_classes: int) -> Tensor:
    """Return what a training utterance of each class weighs, (K,) float32; over the ``labels`` (n,) the mean is 1.

    With balanced the mean is the share of the classes that have utterances: weights are scikit-learn's, where K counts all
    classes. The loss divides by the sum of a batch's weights, so that the scale has no effect.
    Classes of n_k utterances weigh, up to a common factor: none 1; balanced 1 / n_k; inverse-sqrt 1 / sqrt(n_k); effective
    (1 - b) / (1 - b^n_k) with b = ``class_beta``, the inverse of the effective number of samples (Cui et al. 2019, Eq. 2).
    """
    if recipe.class_weights == "none":
        return torch.ones(n_classes)
    counts = np.bincount(labels, minlength=n_classes)
    sizes = np.maximum(counts, 1)
    if recipe.class_weights == "balanced":
        return torch.from_numpy((len(labels) / (n_classes * sizes)).astype(np.float32))
    if recipe.class_weights == "inverse-sqrt":
        weights = 1 / np.sqrt(sizes)
    else:
        weights = (1 - recipe.class_beta) / -np.expm1(sizes * np.log(recipe.class_beta))
    return torch.from_numpy((weights * len(labels) / (weights * counts).sum()).astype(np.float32))


def cmdt(frames: Tensor, lengths: Tensor, labels: Tensor, size: int, recipe: Recipe, present: Tensor | None = None) -> Tensor:
    """Return the CMDT loss of a batch, 0 where no sample has another one of its class.

    Args:
        frames: (B, L, D) the output M of the time-frequency block.
        lengths: (B,) valid frames.
        labels: (B,) class numbers.
        size: frames of the transform, at least L; the same in all batches.
        recipe: its cmdt_temperature, cmdt_bins, cmdt_similarity and cmdt_axis.
        present: (B,) bool, the samples that are there; the others are nobody's positive or negative. None: all.
    """
    with torch.autocast(frames.device.type, enabled=False):
        return contrast(spectra(frames.float(), lengths, size, recipe), labels, recipe, present)


def contrast(vectors: Tensor, labels: Tensor, recipe: Recipe, present: Tensor | None = None) -> Tensor:
    """Return the CMDT loss of vectors (k, B, V) that `spectra` gave, and their classes (B,); the rest as `cmdt` has it."""
    with torch.autocast(vectors.device.type, enabled=False):
        same = labels[:, None] == labels  # (B, B)
        others = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        rest = labels[:, None] != labels
        if present is not None:
            others, rest = (of & present[:, None] & present for of in (others, rest))
        counts = others.sum(dim=1)  # (B,) other samples of the class
        positives = (others.to(vectors.dtype) @ vectors) / counts.clamp(min=1)[:, None]  # (k, B, V)
        direction = unit(vectors)
        near = (direction * unit(positives)).sum(dim=-1) / recipe.cmdt_temperature  # (k, B)
        far = (direction @ direction.transpose(-1, -2)) / recipe.cmdt_temperature  # (k, B, B)
        far = far.masked_fill(~rest, -torch.inf)
        losses = torch.cat([near[:, :, None], far], dim=-1).logsumexp(dim=-1) - near  # (k, B)
        anchors = counts > 0
        return (losses.mean(dim=0) * anchors).sum() / anchors.sum().clamp(min=1)


def spectra(frames: Tensor, lengths: Tensor, size: int, recipe: Recipe) -> Tensor:
    """Return what is compared: k vectors of V real numbers for each of B samples, (k, B, V).

    A complex vector stands as its real and imaginary parts, of which the plain dot product is Re(u . conj v), Eq. 7.
    """
    frames = frames.masked_fill(~valid_frames(frames, lengths)[:, :, None], 0.0)
    if recipe.cmdt_axis == "feature":
        found = torch.fft.fft(frames.sum(dim=1) / lengths[:, None])[:, None]  # (B, 1, D)
        real, imaginary = found.real, found.imag
    else:
        bins = size // 2 + 1 if recipe.cmdt_bins is None else min(recipe.cmdt_bins, size // 2 + 1)
        # Few bins of many frames: products with their cosines and sines are cheaper than a transform.
        turns = torch.arange(bins, device=frames.device)[:, None] * torch.arange(frames.shape[1], device=frames.device)
        angle = (turns % size) * (2 * torch.pi / size)  # (k, L)
        real, imaginary = angle.cos() @ frames, -angle.sin() @ frames  # (B, k, D)
    if recipe.cmdt_similarity == "magnitude":
        vectors = (real.square() + imaginary.square() + _TINY).sqrt()  # (B, k, D)
    else:
        vectors = torch.cat([real, imaginary], dim=-1)  # (B, k, 2 D)
    by_bin: Tensor = vectors.transpose(0, 1)
    return by_bin


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (..., V) at length 1; those of zeros stay zero."""
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + _TINY).rsqrt()
