"""A model by its name: a run, an experiment, or an exported folder, with what makes its frames and what it has seen.

What comes in: what a person typed. What goes out: `Model`, ready to be called. Which of the three a text is, is decided
here alone: a folder that exists is a folder, anything else is looked up in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfser.heads.prediction.companies import Familiar, known_to
from tfser.heads.prediction.folder import read_folder
from tfser.heads.prediction.fused import Voice, sets_of, trained_in, voice
from tfser.heads.prediction.makers import Mixes, makers
from tfser.heads.prediction.trained import choose_runs
from tfser.manifests.cache import Cache
from tfser.manifests.errors import UsageError
from tfser.pipeline.derived.joint_front_end import FrontEnds


@dataclass(frozen=True, kw_only=True)
class Model:
    """Trained heads, what makes the frames of their feature sets, and what the first one was tested and trained on."""

    heads: tuple[Voice, ...]
    fronts: FrontEnds
    known: Familiar


def load_model(
    text: str,
    cache: Cache,
    *,
    ensemble: bool = False,
    selection: str = "last",
    weights: str | None = None,
    calibrated: bool = False,
) -> Model:
    """Return what a text names.

    Args:
        text: an exported folder, a run, an experiment, or a piece of its id.
        cache: where runs are; of a folder, nothing of it is needed.
        ensemble: take all folds and seeds.
        selection: last or val.
        weights: of the encoder; None: where they were.
        calibrated: probabilities at the temperature that each head's training fitted.

    Raises:
        UsageError: there is nothing of this name, it leaves a choice, or no temperature was fitted.
        TfserError: weights are damaged, or the encoder is not here.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        heads: tuple[Voice, ...] = read_folder(path)  # several of them are an ensemble, which it was exported as
        if ensemble and len(heads) < 2:
            raise UsageError(f"--ensemble: {text} holds one head; export an experiment with --ensemble")
        if selection != heads[0].selection:
            raise UsageError(f"--selection {selection}: {text} was exported with the weights of {heads[0].selection}")
        heads = _calibrated(heads) if calibrated else heads
        return Model(heads=heads, fronts=fronts_of(heads, weights), known=Familiar())
    heads = tuple(voice(cache, run, selection=selection) for run in choose_runs(cache, text, ensemble=ensemble))
    heads = _calibrated(heads) if calibrated else heads
    known = known_to(cache, heads[0].about)
    roles = dict(known.roles)
    for other in heads[1:]:
        for content, role in known_to(cache, other.about).roles.items():
            if role == "train" or content not in roles:  # what any of them has learnt from, all of them answer from
                roles[content] = role
    return Model(heads=heads, fronts=fronts_of(heads, weights, cache), known=replace(known, roles=roles))


def _calibrated(heads: Sequence[Voice]) -> tuple[Voice, ...]:
    return tuple(of.calibrated() for of in heads)


def fronts_of(heads: Sequence[Voice], weights: str | None = None, cache: Cache | None = None) -> FrontEnds:
    """Return what makes the frames that heads listen to.

    Args:
        heads: at least one.
        weights: of the encoder; None: where they were.
        cache: where hashes of weights are remembered; None: an exported folder has none.

    Raises:
        UsageError: weights are named, and nothing is computed with any.
        TfserError: an encoder is not here, or the features cannot be computed any more.
    """
    mixes: Mixes = {key: mix for of in heads for head in trained_in(of) for key, mix in head.mixes.items()}
    memo = None if cache is None else cache.root / "weights.json"
    return makers(sets_of(heads), mixes, weights=weights, memo=memo)
