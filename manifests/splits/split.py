"""What can be asked of a split: the corpus, the protocol, the classes, who validates. `choose` settles what is left open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tfser.manifests.options import Option


@dataclass(frozen=True, kw_only=True)
class SplitDetails:
    """What may be chosen beside a protocol: the corpus, its classes, who validates; None is left to be chosen."""

    panel: ClassVar[str] = "Corpus and split"
    corpus: Annotated[str | None, Option("Corpus in the cache; may be left out if there is one.", metavar="NAME")] = None
    labels: Annotated[str | None, Option("Classes, e.g. common4 or anger,happiness:happiness+excitement.", metavar="MAP")] = None
    validation: Annotated[str | None, Option("none, next-group, speakers:1 or random-leaky:0.1.", metavar="POLICY")] = None


@dataclass(frozen=True, kw_only=True)
class Split(SplitDetails):
    """Which utterances there are, what their classes are, and who trains, validates and tests; None is left to be chosen."""

    panel: ClassVar[str] = "Corpus and split"
    protocol: Annotated[
        str | None, Option("Protocol, or a file my.toml of your own; the corpus's default if left out.", metavar="NAME")
    ] = None
