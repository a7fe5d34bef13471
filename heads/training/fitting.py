"""Whether a recipe can train a head on a fold, before a frame is copied or a weight drawn.

What comes in: a head with its configuration, a recipe, a fold. What goes out: nothing, or one line that says what does not fit.
"""

from __future__ import annotations

from tfser.heads.spec.fold import FoldData
from tfser.heads.spec.head import HeadSpec, Network
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.manifests.errors import UsageError


def check_fits(spec: HeadSpec, config: Settings, recipe: Recipe, data: FoldData) -> None:
    """Refuse a recipe that is not settled, or asks for what a head or a fold has not.

    Raises:
        UsageError: It does.
    """
    rates = not data.classes
    for kind in ("cut", "slice"):
        if getattr(recipe, f"{kind}_seconds") is not None and getattr(recipe, f"{kind}_frames") is None:
            raise UsageError(f"recipe setting {kind}_seconds: say how long a frame is (Recipe.settled), or {kind}_frames")
    frames, most = spec.sample_frames(config, recipe), spec.max_frames(config)
    if frames is not None and most is not None and frames > most:
        raise UsageError(f"slices of {frames} frames are longer than the {most} that {spec.name} is made for")
    if frames is None and recipe.speed:
        raise UsageError(f"recipe setting speed={recipe.speed}: only for segments, and {spec.name} eats utterances")
    if recipe.temperature and rates:
        raise UsageError("recipe setting temperature=True: it is fitted on classes' probabilities, and dimensions have none")
    if recipe.temperature and not len(data.val):
        raise UsageError(
            "recipe setting temperature=True: it is fitted on validation utterances, and there are none; hold some out with "
            "--validation next-group or speakers:N"
        )
    if recipe.cmdt and rates:
        raise UsageError(f"recipe setting cmdt={recipe.cmdt}: it pulls classes together, and dimensions have none; take cmdt=0")
    if recipe.cmdt and (most is None or not (isinstance(spec, Network) and spec.gives_frames)):
        raise UsageError(f"recipe setting cmdt={recipe.cmdt}: {spec.name} gives no frames to compare; take cmdt=0")
