"""What learning dimensions asks of heads, recipes and protocols; refused or said before anything is trained.

In: a head, a recipe, a protocol's row, the dimensions that are learned (none: classes), and whether classes are too. Out: the
recipe without what only classes give a meaning to, with what was changed; or one clear line. True ratings on 0..1 come of
`mapped`, and go back by `unmapped`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads import DIMENSION_REFERENCES, REFERENCE_HEADS
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.recipes import Recipe
from tfser.manifests.dimensions import CLASSES, Scale
from tfser.manifests.errors import UsageError

_OF_CLASSES: Mapping[str, Any] = {
    **{"cmdt": 0.0, "label_smoothing": 0.0, "focal": 0.0, "class_weights": "none"},
    **{"labels_from": "label", "soft_loss": "cross-entropy", "temperature": False},
}
"""Settings of a recipe that mean something of classes alone, and what they are where there are none."""

Scales = Sequence[tuple[str, float, float]]
"""Corpora with the lower and the upper end of the scale that each is rated on."""


def check_learns(spec: HeadSpec, targets: tuple[str, ...], classes: bool) -> None:
    """Refuse a head that cannot learn what is asked for.

    Raises:
        UsageError: naming heads that can.
    """
    if targets and classes:
        if "both" not in spec.learns:
            asked, able = ",".join((CLASSES, *targets)), " or ".join(REFERENCE_HEADS)
            alone = "classes alone" if "classes" in spec.learns else "dimensions alone"
            raise UsageError(f"{spec.name} learns {alone}; for --target {asked} take {able}, or a network")
        return
    if targets and "dimensions" not in spec.learns:
        instead = ", ".join(DIMENSION_REFERENCES)
        raise UsageError(f"{spec.name} learns classes alone; for --target {','.join(targets)} take {instead} or a network")
    if not targets and "classes" not in spec.learns:
        instead = ", ".join(REFERENCE_HEADS)
        raise UsageError(f"{spec.name} learns dimensions alone: name them with --target valence; for classes take {instead}")


def check_one_answer(labels_from: str | None, targets: tuple[str, ...]) -> None:
    """Refuse soft labels beside dimensions.

    Raises:
        UsageError: both are asked for.
    """
    if targets and labels_from == "distribution":
        raise UsageError(
            f"--labels-from distribution: soft labels are shares of classes, and {', '.join(targets)} have none; leave it out"
        )


def check_protocol(protocol: Mapping[str, Any], classes: bool) -> None:
    """Refuse a protocol over ratings where classes are learned.

    Raises:
        UsageError: it is one.
    """
    if not protocol["classes"] and classes:
        raise UsageError(f"protocol {protocol['protocol']} has no classes: name dimensions alone with --target")


def without_classes(recipe: Recipe, asked: Mapping[str, str]) -> tuple[Recipe, list[str]]:
    """Return a recipe without what pulls classes together or weighs them, and the changes as `name=value`.

    Raises:
        UsageError: such a setting was asked for by name.
    """
    off = {name: value for name, value in _OF_CLASSES.items() if getattr(recipe, name) != value}
    for name in off:
        if name in asked:
            raise UsageError(f"--set {name}={asked[name]}: it is about classes, and dimensions have none; leave it out")
    return replace(recipe, **off), [f"{name}={value}" for name, value in sorted(off.items())]


def scale_words(scales: Mapping[str, Scale]) -> list[str]:
    """Say on which scales ratings are, each of which is mapped to 0..1."""
    named = [f"{name} {scale}" for name, scale in scales.items()]
    if not named:
        return []
    several = "; each is mapped to 0..1 by its own" if len({str(scale) for scale in scales.values()}) > 1 else ""
    return [f"rated on the scale{'s' if len(named) > 1 else ''} {', '.join(named)}{several}"]


def mapped(ratings: npt.NDArray[np.float64], corpora: Sequence[str], scales: Scales) -> npt.NDArray[np.float64]:
    """Return ratings (n, T) of utterances of some corpora (n,) on 0..1."""
    low, high = _ends(corpora, scales)
    return np.asarray((ratings - low) / (high - low))


def ratings_of(utterances: Sequence[Mapping[str, Any]], targets: Sequence[str], scales: Scales) -> npt.NDArray[np.float32] | None:
    """Return the true ratings (n, T) on 0..1 of rows of utterances, NaN where one is not rated for all of the targets; None
    where classes alone are learned."""
    if not targets:
        return None
    said = np.array([[row[name] for name in targets] for row in utterances], dtype=np.float64)
    corpora = [row["corpus"] for row in utterances]
    said = said.reshape(len(utterances), len(targets))
    said[~np.isfinite(said).all(axis=1)] = np.nan
    return mapped(said, corpora, scales).astype(np.float32)


def unmapped(shares: npt.NDArray[np.floating[Any]], corpora: Sequence[str], scales: Scales) -> npt.NDArray[np.float64]:
    """Return ratings (n, T) on 0..1 on their corpora's own scales."""
    low, high = _ends(corpora, scales)
    return np.asarray(low + shares.astype(np.float64) * (high - low))


def _ends(corpora: Sequence[str], scales: Scales) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    ends = {name: (low, high) for name, low, high in scales}
    pairs = np.array([ends[name] for name in corpora], dtype=np.float64).reshape(-1, 2)
    return pairs[:, :1], pairs[:, 1:]
