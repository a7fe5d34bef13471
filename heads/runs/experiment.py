"""From a request to an experiment: everything that the request left open is settled, and said.

An experiment is one head, preset and recipe on one feature set and protocol; a run of it adds fold and seed. Its name is
made of its whole configuration, so the same request finds the same runs.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tfser.heads import HEADS, head
from tfser.heads.runs.asked_head import AskedHead, TrainedBy, asked_head
from tfser.heads.runs.chosen_features import spread
from tfser.heads.runs.request import Request
from tfser.heads.runs.store import digest
from tfser.heads.runs.target import check_protocol, scale_words
from tfser.heads.runs.training_data import TrainingData, check_temperature, count_samples, data_hash, look_up, soft_hash
from tfser.heads.spec.first_words import named_by
from tfser.heads.spec.head import Baseline, HeadSpec, Network
from tfser.heads.spec.precision import settle_precision
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.parts import settle_parts
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.distributions import class_distributions
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.manifests.splits.choose import choose_protocol
from tfser.manifests.wording import count
from tfser.pipeline.features.feature_set import is_per_utterance
from tfser.pipeline.features.layer_views import LayerView, asks_for_each
from tfser.pipeline.resources.devices import choose_device

How = Literal["none", "vmap", "streams"]

METHOD_VERSION = 2
"""Raised when the same configuration would train to other numbers, so that old runs are not taken for new ones."""


EVERYTHING = 0
"""The number of the fold that trains on all labelled utterances and tests nobody: `--fold none`, a model for use."""


@dataclass(frozen=True, kw_only=True)
class Experiment(TrainedBy):
    """Everything that defines an experiment, settled; a run of it adds the fold.

    `corpus` is one corpus, or several joined by + (`corpora` parts them). `chosen` says what was not asked for.
    """

    corpus: str
    feature_set: str
    fingerprint: str
    dim: int
    protocol: str
    protocol_hash: str
    validation: str
    classes: tuple[str, ...]
    folds: tuple[int, ...]
    of_folds: int
    seed: int
    device: str
    data_hash: str
    allow_leaks: bool
    again: bool
    chosen: tuple[str, ...]
    allow_gaps: bool = False
    layers: int = 1
    """Layers that the features hold side by side; `dim` is of all of them."""
    stacked: How = "none"
    """How runs of it are trained together (`tfser.heads.training.together`): other numbers within rounding, so a name of its
    own."""
    graphs: bool = False
    """Training steps are CUDA graphs (`tfser.heads.training.graphs`): the same numbers within rounding, so the same name."""
    counted_epochs: tuple[int, ...] = ()
    """Of a recipe that counts steps: the epochs that they come to in each fold of the protocol, from fold 1 on."""
    view: LayerView | None = None
    """Where the features are one layer of a stored stack: which. It names nothing: an extracted layer is the same numbers."""
    counted_on_all: int = 0
    """... and on all labelled utterances."""
    scales: tuple[tuple[str, float, float], ...] = ()
    """Where dimensions are learned: each corpus with the ends of the scale that it is rated on."""
    targets: tuple[str, ...] = ()
    """Dimensions that are learned; alone, or beside the classes where there are any."""
    labels: Mapping[str, str] | None = None
    """The class of each label that raters gave, where soft labels are trained on; None: every label is its own class."""

    @property
    def outputs(self) -> int:
        """How many numbers the head gives: one a class, then one a dimension."""
        return len(self.classes) + len(self.targets)

    @property
    def chooses_by(self) -> str:
        """Which score chooses the epoch of `val` and `test-oracle`, in words (`tfser.heads.spec.selections`)."""
        return " + ".join(name for name, is_one in (("UA", self.classes), ("mean CCC", self.targets)) if is_one)

    def epochs(self, fold: int | None = None) -> int:
        """Return how many epochs a fold is trained, or the fold that is trained longest: 1 for heads that are fitted at once."""
        if isinstance(self.spec, Baseline):
            return 1
        if not self.counted_epochs:
            return self.recipe.epochs
        if fold == EVERYTHING or self.folds == (EVERYTHING,):
            return self.counted_on_all
        return max(self.counted_epochs) if fold is None else self.counted_epochs[fold - 1]

    def configuration(self) -> dict[str, Any]:
        """Return the whole configuration but fold and seed, as a run stores it."""
        return {
            "method_version": METHOD_VERSION,
            "head": self.spec.name,
            "preset": self.preset,
            "head_config": self.config.to_dict(),
            "recipe": self.recipe_name,
            "recipe_config": self.recipe.to_dict(),
            "corpus": self.corpus,
            "feature_set": self.feature_set,
            "fingerprint": self.fingerprint,
            "protocol": self.protocol,
            "protocol_hash": self.protocol_hash,
            "validation": self.validation,
            "classes": list(self.classes),
            "data_hash": self.data_hash,
            "device": self.device.partition(":")[0],
            **({"layers": self.layers} if self.layers > 1 else {}),
            **({"stacked": self.stacked} if self.stacked != "none" else {}),
            **({"targets": list(self.targets), "scales": [list(of) for of in self.scales]} if self.targets else {}),
        }

    def identity(self) -> dict[str, Any]:
        """Return what names the experiment: `configuration` without what was added later and is at its default.

        A recipe's summary changes nothing, so names hold the words that it had in the first releases, whatever they are now.
        """
        words = named_by(self.spec.name, self.recipe_name.partition("+")[0]) if self.recipe.summary else ""
        recipe = self.recipe.identity() | {"summary": words}
        return self.configuration() | {"head_config": self.config.identity(), "recipe_config": recipe}

    @property
    def corpora(self) -> list[str]:
        """The corpora that its utterances are from."""
        return self.corpus.split(JOINED_BY)

    @property
    def stored(self) -> str:
        """The feature set whose shards hold the features: theirs, or the stack that they are a layer of."""
        return self.feature_set if self.view is None else self.view.stack

    @functools.cached_property  # asked for by each run of a plan, again and again
    def name(self) -> str:
        """The experiment's id: readable, and unique by its configuration."""
        return f"{self.spec.name}-{self.preset}-{self.recipe_name.partition('+')[0]}-{self.corpus}-{digest(self.identity())}"

    def run_id(self, fold: int) -> str:
        """Return the id of one run."""
        return f"{self.name}-f{fold}-s{self.seed}"


def each_request(cache: Cache, request: Request) -> list[Request]:
    """Return a request for each feature set that its name stands for: one, or every layer of an encoder (`whisper-base/each`).

    Raises:
        UsageError: the corpus has no layer of that encoder, or the cache leaves several corpora.
    """
    if not asks_for_each(request.features):
        return [request]
    corpus, _ = choose_protocol(
        cache, request.corpus, request.protocol, labels=request.split_labels, validation=request.validation
    )
    return [replace(request, features=name) for name in spread(cache, corpus, request.features)]


def resolve(cache: Cache, request: Request) -> Experiment:
    """Settle what a request leaves open.

    Raises:
        UsageError: if a name is unknown, or the cache leaves several choices or none.
        TfserError: if the corpus cannot fill the protocol.
    """
    named = asked_head(cache, request)
    request, spec, recipe = named.request, named.spec, named.recipe
    # The recipe before the protocol, since it may bring a validation policy.
    corpus, protocol, chosen = _choose_protocol(cache, request, recipe)
    data = look_up(cache, request.features, spec, recipe, corpus, protocol, request.targets)
    _check_data(request, spec, recipe, data)
    left = _left_out(request, named, corpus, protocol, data.features.name)
    chosen += [*named.chosen, *_instead(request, spec, data), *scale_words(data.scales), *left]
    # What depends on data and device comes last, since it may depend on all of the above.
    way = _settle(request, spec, named.config, recipe, data)
    return Experiment(
        spec=spec,
        preset=named.preset,
        config=way.config,
        recipe_name="+".join([named.recipe_name, *named.changes]),
        recipe=way.recipe,
        corpus=corpus,
        feature_set=data.features.name,
        fingerprint=data.features.row["fingerprint"],
        dim=data.features.row["dim"],
        protocol=protocol,
        protocol_hash=data.protocol["hash"],
        validation=data.protocol["validation"],
        classes=tuple(data.protocol["classes"]),
        folds=way.folds,
        of_folds=data.protocol["folds"],
        seed=request.seed,
        device=way.device,
        data_hash=data.hash,
        allow_leaks=request.allow_leaks,
        allow_gaps=request.allow_gaps,
        again=request.again,
        chosen=(*chosen, *way.chosen),
        layers=data.layers,
        stacked=way.stacked,
        graphs=request.graphs and way.device.startswith("cuda"),
        view=data.features.view,
        counted_epochs=way.counted_epochs[1:],
        counted_on_all=way.counted_epochs[EVERYTHING] if way.counted_epochs else 0,
        targets=request.targets,
        scales=tuple((name, scale.low, scale.high) for name, scale in data.scales.items()),
        labels=data.labels,
    )


def _left_out(request: Request, named: AskedHead, corpus: str, protocol: str, features: str) -> list[str]:
    """Return what a request left to be chosen, with what was taken for it."""
    choices = (
        (request.corpus, "corpus", corpus),
        (request.protocol, "protocol", protocol),
        (request.features, "features", features),
        (request.preset, "preset", named.preset),
        (request.recipe, "recipe", named.recipe_name),
    )
    return [f"{what} {value}" for asked, what, value in choices if asked is None]


def _instead(request: Request, spec: HeadSpec, data: TrainingData) -> list[str]:
    """Return what a head does in place of what was asked, and whose soft labels it is trained on, in sentences."""
    sentences = []
    if request.epochs is not None and isinstance(spec, Baseline):
        sentences.append(f"one fit instead of {request.epochs} epochs ({spec.name} is fitted at once)")
    if request.labels_from == "distribution" and isinstance(spec, Baseline):
        sentences.append(f"one label an utterance ({spec.name} takes no soft labels)")
    if data.beside is not None:
        rated, every = data.beside
        rest = "" if rated == every else f"; the other {every - rated:,} train and test the classes alone"
        sentences.append(f"ratings of {rated:,} of {every:,} utterances{rest}")
    if data.beyond:
        ends = ", ".join(f"{name} {scale}" for name, scale in data.scales.items())
        sentences.append(
            f"{count(data.beyond, 'utterance')} rated beyond the scale ({ends}), where no head reaches: see the audit "
            "scale_left, and declare the right scale with `tfser scan --scale`"
        )
    if data.rated is not None:
        rated, every = data.rated
        rest = "" if rated == every else f"; the other {every - rated:,} have none in these classes and keep their one label"
        sentences.append(f"soft labels of {rated:,} of {every:,} utterances{rest}")
    return sentences


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How it is trained: what depends on data and device, settled."""

    config: Settings
    recipe: Recipe
    folds: tuple[int, ...]
    device: str
    stacked: How
    counted_epochs: tuple[int, ...]
    """On everything, then in each fold of the protocol; nothing for recipes that count epochs."""
    chosen: tuple[str, ...]
    """What was settled otherwise than it was asked, in sentences."""


def _settle(request: Request, spec: HeadSpec, config: Settings, recipe: Recipe, data: TrainingData) -> _Way:
    """Settle what a configuration and a recipe leave to the data and the device, so that `auto` never stands in a run's name.

    The order matters: widths before the check, seconds to frames before the longest sample, that before what the head settles by
    it, and parts last, since they depend on all of these.
    """
    row, layers = data.features.row, data.layers
    config = _with_parts(spec, config, row)
    spec.check(config, row["dim"] // layers)
    device = choose_device(request.device) if isinstance(spec, Network) else "cpu"
    # Seconds become frames before anything is counted in frames: what a head sees, its longest sample, its steps.
    recipe = recipe.settled(row["hop_s"])
    longest = int(data.lengths.max(initial=1))
    longest = spec.sample_frames(config, recipe) or min(longest, recipe.cut_frames or longest)
    config = spec.settled(config, hop_s=row["hop_s"], longest=longest, device=device)
    recipe = settle_precision(recipe, device)
    # A recipe of steps trains as many epochs as they come to in each fold, which differ in size; what is shown and
    # estimated goes by these.
    counted: list[int] = []
    if recipe.steps is not None:
        for fold in range(EVERYTHING, data.protocol["folds"] + 1):
            samples = count_samples(spec, config, recipe, data.trained.get(fold, ()))
            counted.append(recipe.length(-(-samples // recipe.batch_size)))
    folds, chosen = _folds(request.folds, data.protocol["folds"], data.protocol["protocol"]), list[str]()
    # Stacking is asked for: on by default it would rename runs, and on a CPU it costs time (docs/log.md).
    stacked: How = "none"
    if request.stack and folds != (EVERYTHING,):
        from tfser.heads.training.together import choose_stacking

        stacking = choose_stacking(spec, config, recipe, device, layers=layers, dim=row["dim"] // layers)
        stacked = stacking.how
        if stacked == "none":
            chosen.append(f"trained one by one ({stacking.reason})")
    if request.graphs and not device.startswith("cuda"):
        chosen.append("steps launched one by one (only a GPU has graphs)")
    # Last, since how a batch is parted depends on all of the above and changes no number.
    recipe, whole = settle_parts(spec, config, recipe, device, data.lengths, stacked=stacked != "none")
    return _Way(
        config=config,
        recipe=recipe,
        folds=folds,
        device=device,
        stacked=stacked,
        counted_epochs=tuple(counted),
        chosen=(*chosen, *([] if whole is None else [whole])),
    )


def _check_data(request: Request, spec: HeadSpec, recipe: Recipe, data: TrainingData) -> None:
    """Refuse data that a head or a recipe cannot learn from.

    Raises:
        UsageError: if the protocol has no classes, or nobody validates a temperature; if the feature set has one frame an
            utterance, and the head looks along time.
    """
    check_protocol(data.protocol, request.learns_classes)
    feature_set = data.features.row
    if is_per_utterance(feature_set) and not spec.per_utterance:
        able = ", ".join(name for name in HEADS if head(name).per_utterance)
        raise UsageError(
            f"{feature_set['feature_set']} has one frame an utterance, and {spec.name} needs frames over time; for it: {able}"
        )
    if recipe.temperature:
        check_temperature(data, request.folds)


def _with_parts(spec: HeadSpec, config: Settings, feature_set: Mapping[str, Any]) -> Settings:
    """Return the configuration with the widths of a joined feature set's parts, for a head that takes them apart.

    Raises:
        UsageError: if the feature set is not joined of the kinds that the head reads, in their order.
    """
    if not spec.reads:
        return config
    parts = json.loads(feature_set["config"]).get("parts", [])
    fits = len(parts) == len(spec.reads) and all(
        wanted in ("*", part["kind"]) for wanted, part in zip(spec.reads, parts, strict=True)
    )
    if not fits:
        kinds = "+".join("an encoder's frames" if wanted == "*" else wanted for wanted in spec.reads)
        raise UsageError(
            f"{spec.name} reads {kinds} side by side, and {feature_set['feature_set']} is not that; "
            f"join them first: `tfser cache join --features {spec.features[0]}`"
        )
    return replace(config, part_dims=tuple(part["dim"] for part in parts[:-1]))  # type: ignore[call-arg]


def _choose_protocol(cache: Cache, request: Request, recipe: Recipe) -> tuple[str, str, list[str]]:
    """Return corpus and protocol, under the recipe's validation policy where none is asked for, and what to say of it."""

    def choose(validation: str | None) -> tuple[str, str]:
        return choose_protocol(cache, request.corpus, request.protocol, labels=request.split_labels, validation=validation)

    if request.validation is not None or recipe.validation is None:
        return *choose(request.validation), []
    try:
        return *choose(recipe.validation), [f"validation {recipe.validation} (the recipe's)"]
    except UsageError:  # the protocol has a validation side of its own; any other mistake is met again
        return *choose(None), [f"validation of the protocol, instead of the recipe's {recipe.validation}"]


def check_unchanged(connection: Connection, experiment: Experiment) -> None:
    """Make sure that a catalogue still holds the data that an experiment was settled on.

    Raises:
        TfserError: if the corpus was scanned or extracted anew since.
    """
    protocol, corpus = experiment.protocol, experiment.corpus
    now = rows(connection, "SELECT hash FROM protocols WHERE protocol = ? AND corpora = ?", [protocol, corpus])
    same = now and now[0]["hash"] == experiment.protocol_hash
    hashed = data_hash(connection, protocol, corpus, experiment.stored, experiment.targets)
    if experiment.recipe.labels_from == "distribution":
        hashed = soft_hash(hashed, soft_labels(connection, experiment))
    if not same or hashed != experiment.data_hash:
        raise TfserError(f"{experiment.corpus} was scanned or extracted anew while this ran; run the same command again")


def soft_labels(connection: Connection, experiment: Experiment) -> dict[tuple[str, str], tuple[float, ...]]:
    """Return the classes' shares of the raters' votes by utterance, (corpus, id); those without votes are not there."""
    return class_distributions(connection, experiment.protocol, experiment.corpora, experiment.classes, experiment.labels)


def _folds(text: str, count: int, protocol: str) -> tuple[int, ...]:
    """Parse `all`, `3`, `1,3`, `2-4` or `none`."""
    if text == "none":
        return (EVERYTHING,)
    if text == "all":
        return tuple(range(1, count + 1))
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
        if match is None:
            raise UsageError(f"--fold {text}: write a number, a list (1,3), a range (2-4), all or none")
        chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not chosen or min(chosen) < 1 or max(chosen) > count:
        raise UsageError(f"--fold {text}: {protocol} has folds 1 to {count}")
    return tuple(dict.fromkeys(chosen))
