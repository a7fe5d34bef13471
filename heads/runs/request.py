"""What is asked of a training, before anything is settled: the dataclasses that the command line and TOML files fill.

`Training` is what all runs of a command share: `tfser train`, `ablate`, `sweep` and `reproduce` take it as it is and hand it
on to each `Request`. An option that every training knows is one field here, and acts where
`tfser.heads.runs.experiment.resolve` reads it. What only one head, or only a sweep, can be asked is a field of `OneHead` or
of `SweepRequest`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from tfser.manifests.dimensions import CLASSES, parse_rated, parse_targets, rated_name
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.splits.split import Split


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training can be asked, whatever its head."""

    panel: ClassVar[str] = "Training"
    folds: Annotated[
        str,
        Option(
            "A fold, a list (1,3), a range (2-4), all; of train, none: one model of all utterances, for use.",
            flag="--fold",
            metavar="N",
            numbers=True,
        ),
    ] = "all"
    epochs: Annotated[int | None, Option("Instead of the recipe's number.", minimum=1)] = None
    labels_from: Annotated[
        str | None,
        Option("label, or distribution: train to the raters' votes (soft labels), where there are some.", metavar="WHAT"),
    ] = None
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 ...")] = "auto"
    stack: Annotated[
        bool, Option("On a GPU: train folds and seeds of one experiment together; runs of their own.", negative=True)
    ] = False
    graphs: Annotated[
        bool, Option("On a GPU: launch each training step as one CUDA graph; the same numbers to rounding.", negative=True)
    ] = False
    allow_leaks: Annotated[bool, Option("Train a fold in which the audit finds leaks; the run says so.")] = False
    allow_gaps: Annotated[bool, Option("Train a fold that lacks something (a class, features); the run says so.")] = False
    again: Annotated[bool, Option("Train again what is finished; the old run stays until then.")] = False


@dataclass(frozen=True, kw_only=True)
class Aimed:
    """What is learned: classes, dimensions, or both."""

    panel: ClassVar[str] = "Head"
    target: Annotated[
        tuple[str, ...],
        Option("What is learned: class, valence, arousal, dominance, one or several; class if left out.", metavar="NAMES"),
    ] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The dimensions that are learned; none where classes alone are.

        Raises:
            UsageError: if one is unknown.
        """
        return parse_targets(",".join(self.target)) if self.target else ()

    @property
    def learns_classes(self) -> bool:
        """Whether classes are learned, alone or beside dimensions."""
        return not self.target or CLASSES in [name.strip() for text in self.target for name in text.split(",")]


@dataclass(frozen=True, kw_only=True)
class Targeted(Aimed, Training, Split):
    """What a training is asked that can learn dimensions, instead of classes or beside them."""

    panel: ClassVar[str] = "Head"

    @property
    def split_labels(self) -> str | None:
        """What a protocol's name is told of labels: a map, or which ratings an utterance must have.

        Where classes are learned beside dimensions, the protocol is that of the classes alone, so that both are tested on the
        same utterances; one without ratings trains and tests the classes.

        Raises:
            UsageError: if there is a label map and no class, or the protocol is over other ratings.
        """
        if not self.targets or self.learns_classes:
            return self.labels
        if self.labels is not None:
            raise UsageError(f"--labels {self.labels}: ratings ({', '.join(self.targets)}) have no classes; leave it out")
        name = rated_name(self.targets)
        own = (self.protocol or "").partition("@")[2].partition("/")[0]
        if own and parse_rated(own) != self.targets:
            asked = ",".join(self.targets)
            raise UsageError(f"--protocol {self.protocol}: for --target {asked} its name says @{name}, or nothing")
        return None if own else name


@dataclass(frozen=True, kw_only=True)
class OneHead(Training, Split):
    """What one head is asked, whatever its variant; None is left to be chosen."""

    panel: ClassVar[str] = "Head"
    head: Annotated[str, Option("What to train; see `tfser heads`.", metavar="NAME")]
    recipe: Annotated[str | None, Option("Way of training.", metavar="NAME")] = None
    settings: Annotated[
        Mapping[str, str], Option("Change a setting of the recipe or of the preset.", flag="--set", metavar="KEY=VALUE")
    ] = field(default_factory=dict)
    width: Annotated[int | None, Option("Width of the network, for heads that have one (tf_mamba).", metavar="D", minimum=1)] = (
        None
    )
    seed: Annotated[int, Option("Random seed.", minimum=0, maximum=2**63 - 1)] = 0


@dataclass(frozen=True, kw_only=True)
class OneTargeted(Targeted, OneHead):
    """What one head is asked that may learn dimensions, whatever its variant."""

    panel: ClassVar[str] = "Head"


AUTO = "auto"
"""Stands for the head that fits the features best (`tfser.heads.runs.head_choice`)."""


@dataclass(frozen=True, kw_only=True)
class Request(OneTargeted):
    """What was asked of one experiment; None is left to be chosen."""

    panel: ClassVar[str] = "Head"
    head: Annotated[str, Option("What to train, see `tfser heads`; auto: by the features.", metavar="NAME")] = AUTO
    preset: Annotated[str | None, Option("Variant of the architecture.", metavar="NAME")] = None
    features: str | None = None
    """One feature set; commands that take several make a request of each."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse `3`, `0,1,2` or `0-4`.

    >>> parse_seeds("0-2,7")
    (0, 1, 2, 7)

    Raises:
        UsageError: if it is none of these.
    """
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not 0 <= last - first < 10_000:
            raise UsageError(f"seeds {text}: write a number, a list (0,1,2) or a range (0-4)")
        chosen += range(first, last + 1)
    return tuple(dict.fromkeys(chosen))


@dataclass(frozen=True, kw_only=True)
class HeadBlock:
    """A head of a sweep. What is None or empty is as the sweep says, or else the head's default.

    Its fields are the keys of a `[[head]]` block (`tfser.heads.runs.sweep_file`).
    """

    name: Annotated[str, Option("The head.")]
    presets: Annotated[tuple[str, ...], Option("Its variants.", flag="--preset")] = ()
    recipes: Annotated[tuple[str, ...], Option("Its ways of training.", flag="--recipe")] = ()
    features: Annotated[tuple[str, ...], Option("Feature sets.")] = ()
    seeds: Annotated[tuple[int, ...], Option("Seeds.", numbers=True, also="seed", read=parse_seeds)] = ()
    epochs: Annotated[int | None, Option("Instead of the recipe's number.", minimum=1)] = None
    settings: Annotated[Mapping[str, str], Option("Settings of recipe and preset.", flag="--set")] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SweepRequest(Targeted):
    """What was asked of a sweep; `presets`, `recipes` and keys of `settings` may be written `head.name`.

    A preset or recipe that is named without its head goes to every head that has it, `all` stands for all of them (of recipes,
    for the head's own: those of published lineages are named one by one); a head for which none is named takes its default one.
    Settings go to every head unless they name one. Its fields are the options of `tfser sweep` and the defaults of its file.
    """

    panel: ClassVar[str] = "Heads"
    heads: tuple[HeadBlock, ...]
    presets: Annotated[
        tuple[str, ...],
        Option("Variants: a name goes to every head that has it, or head.name; or all.", flag="--preset", metavar="NAMES"),
    ] = ()
    recipes: Annotated[tuple[str, ...], Option("Ways of training: as --preset.", flag="--recipe", metavar="NAMES")] = ()
    features: Annotated[
        tuple[str, ...], Option("Feature sets, a list (a,b) or repeated; the head's favourite if left out.", metavar="NAMES")
    ] = ()
    seeds: Annotated[
        tuple[int, ...],
        Option("A seed, a list (0,1) or a range (0-4); 0 if left out.", metavar="N", numbers=True, also="seed", read=parse_seeds),
    ] = (0,)
    settings: Annotated[
        Mapping[str, str],
        Option("A setting of all heads, or head.KEY=VALUE of one.", flag="--set", metavar="KEY=VALUE"),
    ] = field(default_factory=dict)
    reference: Annotated[
        bool, Option("The reference heads (logreg and svm; of dimensions ridge and svr), once a feature set.")
    ] = True


@dataclass(frozen=True, kw_only=True)
class LayerRequest(Targeted):
    """What is asked about the layers of an encoder; None is left to be chosen."""

    panel: ClassVar[str] = "Head"
    features: Annotated[str | None, Option("Features of all layers: whisper-base/all, or whisper-base.", metavar="NAME")] = None
    head: Annotated[str | None, Option("What judges the layers; logreg if left out, of dimensions ridge.", metavar="NAME")] = None
    mix: Annotated[
        str, Option("What learns a mix of the layers, where --head is fitted at once and learns none; or none.", metavar="NAME")
    ] = "mean_pool"
    preset: Annotated[str | None, Option("Variant of the head.", metavar="NAME")] = None
    recipe: Annotated[str | None, Option("Way of training the head.", metavar="NAME")] = None
    settings: Annotated[
        Mapping[str, str], Option("Change a setting of the head's recipe or preset.", flag="--set", metavar="KEY=VALUE")
    ] = field(default_factory=dict)
    seeds: Annotated[
        tuple[int, ...], Option("A seed, a list (0,1) or a range (0-4); 0 if left out.", metavar="N", read=parse_seeds)
    ] = (0,)
