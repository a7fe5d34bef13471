"""What a head is measured under: shapes, device, precision; what `tfser profile` can be asked. Nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.options import Option

PRECISIONS = ("float32", "bfloat16")
"""The second is autocast, as a recipe's."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a head is measured under. TF-Mamba's paper measures at 326 frames of a width of 1024.

    Raises:
        UsageError: A size is not positive, or the precision is unknown.
    """

    panel: ClassVar[str] = "Conditions"
    batch_size: Annotated[int, Option("Utterances.", metavar="N", minimum=1)] = 1
    frames: Annotated[int, Option("Frames of each utterance.", metavar="L", minimum=1)] = 326
    width: Annotated[int | None, Option("Of the features; what each head is made for if left out.", metavar="D", minimum=1)] = (
        None
    )
    classes: Annotated[int, Option("How many to tell apart.", metavar="K", minimum=2)] = 4
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 ...")] = "auto"
    precision: Annotated[str, Option("float32 or bfloat16 (autocast).")] = "float32"
    repeats: Annotated[int, Option("Timed calls, of which the median counts.", metavar="N", minimum=1)] = 10

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("frames", 1), ("width", 1), ("classes", 2), ("repeats", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name}={value}: must be {least} or more")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
