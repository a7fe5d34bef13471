"""Recipes of published lineages, so that their numbers can be compared like with like: any head, trained their way.

Every head with a network has them beside its own recipes (`HeadSpec.recipe`; a head's own of the same name wins). A lineage is
a way of training and of **choosing the epoch that is reported**; architecture, features and corpus are chosen as always. The
facts are from the repositories that the authors published (`Lineage.source`); where these differ from the paper, the repository
counts.

What is not theirs: rates move with every step (theirs mostly with every epoch); ties go to the earliest epoch; the last,
smaller batch of an epoch is spread over the others. Weight decay leaves out biases and norms. Limits in frames of 20 ms are
given in seconds, so that they hold for log-Mel frames, too; utterances are not padded to them. Features are not normalised, as
in those of them that train on an encoder's frames. Gradient accumulation is not offered: without batch normalisation, 8
batches of 4 are one of 32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.selections import peeks


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A published way of training and choosing."""

    recipe: Recipe
    caveat: str
    """What keeps its number from being a result, or what to know about it."""
    source: str
    """The repository, and the paper."""

    @property
    def reports(self) -> tuple[str, ...]:
        """The selections that its publications report."""
        return self.recipe.selections


_ON_TEST = "epochs chosen on the test fold, an upper bound and no result"
_LEAKY = "validation utterances are a random 20 % and share their speakers with training: the epoch is chosen on known voices"

_THEIRS = Recipe(epochs=100, batch_size=32, normalise="none")
"""What most of them have in common."""

_DWFORMER = replace(
    _THEIRS,
    summary="DWFormer on IEMOCAP: SGD 5e-4, warm restarts, 120 epochs; best WA + UA of the test fold",
    optimiser="sgd",
    lr=5e-4,
    schedule="restarts",
    period_epochs=3.0,
    period_growth=2.0,
    floor=0.02,
    epochs=120,
    batch_size=32,
    cut_seconds=6.48,
    selections=("test-WA+UA",),
)

LINEAGES: dict[str, Lineage] = {
    "shiftser": Lineage(
        recipe=replace(
            _THEIRS,
            summary="ShiftSER: AdamW 5e-4, cosine, 100 epochs; best WA and best UA of the test fold, each by itself",
            optimiser="adamw",
            lr=5e-4,
            weight_decay=0.05,
            schedule="cosine",
            floor=0.01,
            warmup_epochs=5,
            grad_clip=5.0,
            time_masks=2,
            time_mask_frames=15,
            band_masks=1,
            band_mask_bands=64,
            cut_seconds=7.48,
            selections=("test-WA", "test-UA"),
        ),
        caveat=f"{_ON_TEST}; WA and UA come of two different epochs",
        source="ECNU-Cross-Innovation-Lab/ShiftSER (Shen et al. 2023): 374 frames of 768 features, seed 42; masks have their "
        "full length and a learnt filling there, up to that length and zeros here",
    ),
    "dwformer": Lineage(
        recipe=_DWFORMER,
        caveat=_ON_TEST,
        source="scutcsq/DWFormer, IEMOCAP/train.py (Chen et al. 2023): 324 frames, rates down to 1e-5, seed 3",
    ),
    "dwformer_meld": Lineage(
        recipe=replace(
            _DWFORMER,
            summary="DWFormer on MELD: SGD 5e-4, warm restarts, 100 epochs; best WF1 of the validation side",
            epochs=100,
            cut_seconds=4.5,
            selections=("val-WF1",),
        ),
        caveat="the official validation side chooses the epoch, as it should; speakers of MELD stand on all its sides",
        source="scutcsq/DWFormer, Meld/train.py (Chen et al. 2023): 225 frames, seed 2",
    ),
    "speechformer": Lineage(
        recipe=replace(
            _THEIRS,
            summary="SpeechFormer(++): SGD 5e-4, cosine to a hundredth, 120 epochs; best WA + UA of the five best test epochs",
            optimiser="sgd",
            lr=5e-4,
            schedule="cosine",
            floor=0.01,
            epochs=120,
            batch_size=32,
            cut_seconds=6.52,
            selections=("test-top5",),
        ),
        caveat=_ON_TEST,
        source="HappyColor/SpeechFormer and SpeechFormer2, utils/write_result.py (Chen et al. 2022, 2023): 326 frames",
    ),
    "ca_mser": Lineage(
        recipe=replace(
            _THEIRS,
            summary="CA-MSER: AdamW 1e-5, segments of 3 s, batch 64, 100 epochs; lowest test loss, patience 8",
            optimiser="adamw",
            lr=1e-5,
            weight_decay=0.01,
            epochs=100,
            batch_size=64,
            slice_seconds=3.0,
            selections=("test-loss-patience8",),
        ),
        caveat=f"its validation speaker is its test speaker: {_ON_TEST}",
        source="Vincent-ZHQ/CA-MSER, crossval_SER.py and train_ser.py (Zou et al. 2022): 10 speaker folds; an utterance is the "
        "mean of log-probabilities there and of probabilities here, and the loss is of segments there and of utterances here",
    ),
    "superb": Lineage(
        recipe=replace(
            _THEIRS,
            summary="SUPERB: Adam 1e-4, batch 4 x 8, 30,000 steps; best WA of a random 20 % (known voices)",
            optimiser="adam",
            lr=1e-4,
            steps=30_000,
            epochs=50,  # which steps override, but its runs are named by
            grad_clip=1.0,
            validation="random-leaky:0.2",
            selections=("val-WA",),
        ),
        caveat=_LEAKY,
        source="s3prl, downstream/emotion/config.yaml (Yang et al. 2021): evaluated every 1000 steps there, every epoch here",
    ),
    "emotion2vec": Lineage(
        recipe=replace(
            _THEIRS,
            summary="emotion2vec: RMSprop 5e-4 to 1e-3 and back, 100 epochs; best WA of a random 20 % (known voices)",
            optimiser="rmsprop",
            lr=5e-4,
            betas=(0.9, 0.99),
            schedule="cyclic",
            period_epochs=20.0,
            peak=2.0,
            epochs=100,
            batch_size=128,
            validation="random-leaky:0.2",
            selections=("val-WA",),
        ),
        caveat=_LEAKY,
        source="ddlBoJack/emotion2vec, iemocap_downstream/main.py (Ma et al. 2024)",
    ),
    "emobox": Lineage(
        recipe=replace(
            _THEIRS,
            summary="EmoBox: Adam 1e-4, 10 epochs of warm-up, then a line to zero, 100 epochs; every checkpoint is tested",
            optimiser="adam",
            lr=1e-4,
            schedule="linear",
            warmup_epochs=10,
            cut_seconds=30.0,
            selections=("test-WA", "test-UA", "test-WF1"),
        ),
        caveat=f"every checkpoint is tested, and the code does not say which is reported; the best of each: {_ON_TEST}",
        source="emo-box/EmoBox, examples/sb (Ma et al. 2024): clips over 30 s are skipped there and cut here",
    ),
}


def listed() -> list[dict[str, str]]:
    """Return a row for each lineage: what it does, which selections it reports, and what is to be known of them."""
    return [
        {
            "recipe": name,
            "reports": ", ".join(lineage.reports),
            "validation": lineage.recipe.validation or "",
            "about": lineage.recipe.summary,
            "caveat": lineage.caveat,
            "source": lineage.source,
        }
        for name, lineage in LINEAGES.items()
    ]


def explain(recipe_name: str, own: Iterable[str] = (), have: Iterable[str] | None = None) -> str | None:
    """Say which selection is a lineage's own number, and what is to be known of it.

    Args:
        recipe_name: of an experiment, perhaps with changes after a plus.
        own: the head's own recipes, which win over lineages.
        have: the selections that came of the runs; what is reported and not among them is said. None: nothing is known of them.

    Returns:
        One line; None for a recipe that is no lineage's.
    """
    name, changed, _ = recipe_name.partition("+")
    if name not in LINEAGES or name in own:
        return None
    of = LINEAGES[name]
    rest = "last is the honest number of the same training" if any(map(peeks, of.reports)) else ""
    but = " (with settings changed)" if changed else ""
    none = [] if have is None else [selection for selection in of.reports if selection not in set(have)]
    without = f"NOT HERE: without a validation side there is no {' and no '.join(none)} (add --validation)" if none else ""
    return "; ".join(part for part in (f"{name}{but} reports {' and '.join(of.reports)}: {of.caveat}", rest, without) if part)
