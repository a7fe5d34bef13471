"""What the outputs of a trained head say: the probabilities of its classes, the ratings of its dimensions, or both.

In: K + T numbers a sound, as `tfser.heads.spec.fold.Prediction` has them: K probabilities, then T ratings on 0..1; of several
heads a row each. Out: rows with names, ratings on their corpus's scale. So files, windows of a recording and a notebook's
waveforms are answered in the same words. Nothing is computed here but means and deviations over heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What K + T numbers are called.

    Attributes:
        classes: K names, in the order of the head's outputs; none of a head of dimensions alone.
        targets: T dimensions behind them; none of a head of classes alone.
        scale: the ends of the scale that they are rated on.
    """

    classes: tuple[str, ...]
    targets: tuple[str, ...] = ()
    scale: tuple[float, float] = (0.0, 1.0)

    @property
    def width(self) -> int:
        """K + T."""
        return len(self.classes) + len(self.targets)

    def shares(self, values: Floats) -> dict[str, float]:
        """Return the probabilities of (K + T,) numbers by class."""
        return {name: float(value) for name, value in zip(self.classes, values[: len(self.classes)], strict=True)}

    def ratings(self, values: Floats) -> dict[str, float]:
        """Return the ratings of (K + T,) numbers by dimension, on their scale.

        >>> Outputs(classes=("joy",), targets=("valence",), scale=(1.0, 5.0)).ratings(np.array([1.0, 0.25], np.float32))
        {'valence': 2.0}
        """
        low, high = self.scale
        return {
            name: low + float(value) * (high - low) for name, value in zip(self.targets, values[len(self.classes) :], strict=True)
        }

    def predicted(self, values: Floats) -> str:
        """Return the class of the largest probability.

        Raises:
            ValueError: there are no classes.
        """
        return self.classes[int(values[: len(self.classes)].argmax())]

    def row(self, members: Floats) -> dict[str, Any]:
        """Return what M heads (M, K + T) say together: `predicted` and `probabilities`, `ratings`, or all of these; None in
        each where nobody could say anything, M = 0."""
        mean = mean_of(members) if len(members) else None
        found: dict[str, Any] = {}
        if self.classes:
            found |= {"predicted": None, "probabilities": None}
            found |= {} if mean is None else {"predicted": self.predicted(mean), "probabilities": self.shares(mean)}
        if self.targets:
            found |= {"ratings": None if mean is None else self.ratings(mean)}
        return found

    def disagreement(self, members: Floats) -> dict[str, Any]:
        """Return how far M heads (M, K + T) agree; nothing of one head.

        `agreement` is the share of the heads whose own class is that of their mean, `spread` the deviation of its
        probability over the heads, `rating_spread` that of each dimension, in points of the scale.
        """
        found: dict[str, Any] = {}
        if len(members) < 2:
            return found
        K = len(self.classes)
        deviation = members.astype(np.float64).std(axis=0)
        if K:
            place = int(mean_of(members)[:K].argmax())
            found |= {"agreement": float((members[:, :K].argmax(axis=1) == place).mean()), "spread": float(deviation[place])}
        if self.targets:
            width = self.scale[1] - self.scale[0]
            found["rating_spread"] = {name: float(value) * width for name, value in zip(self.targets, deviation[K:], strict=True)}
        return found

    def by_member(self, names: Sequence[str], members: Floats) -> dict[str, Any]:
        """Return what each of several heads says, by its name: `members` with probabilities, `member_ratings`; nothing of one."""
        if len(members) < 2:
            return {}
        found: dict[str, Any] = {}
        if self.classes:
            found["members"] = {name: self.shares(member) for name, member in zip(names, members, strict=True)}
        if self.targets:
            found["member_ratings"] = {name: self.ratings(member) for name, member in zip(names, members, strict=True)}
        return found


def mean_of(members: Floats) -> Floats:
    """Return the mean over M heads (M, K): (K,); of one head, its own bits."""
    mean: Floats = members[0] if len(members) == 1 else members.astype(np.float64).mean(axis=0).astype(np.float32)
    return mean
