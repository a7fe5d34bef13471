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

The recipes themselves stand in `lineages.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.selections import peeks
from tfser.manifests.texts import packaged


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


_THEIRS = Recipe(epochs=100, batch_size=32, normalise="none")
"""What most of them have in common."""


def _read() -> dict[str, Lineage]:
    """Return the lineages of `lineages.toml`, by name."""
    lineages = {}
    for name, block in tomllib.loads(packaged("heads.spec", "lineages.toml")).items():
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in block["recipe"].items()}
        lineages[name] = Lineage(recipe=replace(_THEIRS, **settings), caveat=block["caveat"], source=block["source"])
    return lineages


LINEAGES = _read()


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
    lineage = LINEAGES[name]
    rest = "last is the honest number of the same training" if any(map(peeks, lineage.reports)) else ""
    but = " (with settings changed)" if changed else ""
    none = [] if have is None else [selection for selection in lineage.reports if selection not in set(have)]
    without = f"NOT HERE: without a validation side there is no {' and no '.join(none)} (add --validation)" if none else ""
    first = f"{name}{but} reports {' and '.join(lineage.reports)}: {lineage.caveat}"
    return "; ".join(part for part in (first, rest, without) if part)
