"""One training step: the loss of a batch, and the optimiser that follows its gradient.

What comes in: a head, a batch (whole, or in parts) and a recipe. What goes out: the loss, a number that gradients can be taken
of. Nothing here draws a batch, looks at the clock or moves a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.losses import contrast, cross_entropy, spectra
from tfser.heads.training.parts import Batch
from tfser.heads.training.rating_loss import rating_loss

_RATED = 1 - 1e-6
"""Marks of samples that are rated are 1, to rounding."""


def training_loss(
    model: nn.Module,
    batch: Batch,
    class_weights: Tensor,
    recipe: Recipe,
    most: int | None,
    present: Tensor | None = None,
    batch_norm: bool = False,
) -> Tensor:
    """Return the loss of a batch: Eq. 9 of TF-Mamba where the recipe has CMDT; of dimensions, that of `rating_loss`; of both, the
    first plus ``rating_weight`` times the second, over the samples that are rated.

    Args:
        model: The head, in training mode.
        batch: B samples. Each part goes through the head by itself; the loss is of all.
        class_weights: (K,); of no classes (0,), where the targets are ratings. Where these are wider than K, they are those of
            classes and dimensions (`tfser.heads.training.sides`), and so are the head's outputs.
        recipe: How to train.
        most: Frames of the longest utterance that the head sees.
        present: (B,) bool, the samples that are there; the targets of the others are zero. None: all.
        batch_norm: The head's `forward` takes ``present``; the batch is whole then.
    """
    of_all, vectors = _outputs(model, batch, recipe, most, present if batch_norm else None)
    K = class_weights.shape[-1]
    if not K:
        return rating_loss(of_all, batch.targets, recipe, present)
    divergence = recipe.soft_loss == "kl"
    classes = batch.targets[:, :K]
    loss = cross_entropy(of_all[:, :K], classes, class_weights, recipe.label_smoothing, recipe.focal, divergence)
    if vectors:
        loss = loss + recipe.cmdt * contrast(_joined(vectors, 1), classes.argmax(dim=1), recipe, present)
    if batch.targets.shape[1] > K:
        # A sample that mixup made of a rated and an unrated one is not rated: its mark lies between 0 and 1.
        rated = batch.targets[:, -1] > _RATED
        rated = rated if present is None else rated & present
        loss = loss + recipe.rating_weight * rating_loss(of_all[:, K:], batch.targets[:, K:-1], recipe, rated)
    return loss


def _outputs(
    model: nn.Module, batch: Batch, recipe: Recipe, most: int | None, present: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Return the head's outputs of all samples (B, K), in float32, and of each part the vectors (k, b, V) that CMDT compares."""
    logits: list[Tensor] = []  # (b, K) each
    vectors: list[Tensor] = []
    # Each part goes through the head alone and the loss is taken of all logits together: a mean of the parts'
    # means would weigh a sample by the part that it fell into.
    with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        for samples, lengths in zip(batch.samples, batch.lengths, strict=True):
            if recipe.cmdt and most is not None:
                frames = model.encode(samples, lengths)  # type: ignore[operator]
                logits.append(model.classify(frames, lengths))  # type: ignore[operator]
                # The transform along time and the norms of its bins in float32: bfloat16's eight bits lose the
                # weaker bins beside the stronger ones.
                with torch.autocast(frames.device.type, enabled=False):
                    vectors.append(spectra(frames.float(), lengths, most, recipe))
            else:
                logits.append(model(samples, lengths) if present is None else model(samples, lengths, present))
    return _joined([part.float() for part in logits], 0), vectors


def make_optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser; its groups' `own_rate` is what the schedule's rate is multiplied by."""
    # Three groups: matrices decay; biases, norms and other vectors do not, as is usual; thresholds and a layer
    # mix have a rate of their own, since at the weights' rate they hardly leave where they begin.
    own: list[nn.Parameter] = model.own_rate_parameters() if hasattr(model, "own_rate_parameters") else []  # type: ignore[operator]
    among = {id(parameter) for parameter in own}
    shared = [parameter for parameter in model.parameters() if id(parameter) not in among]
    groups = [
        {"params": [p for p in shared if p.ndim > 1], "weight_decay": recipe.weight_decay, "own_rate": 1.0},
        {"params": [p for p in shared if p.ndim <= 1], "weight_decay": 0.0, "own_rate": 1.0},
        {"params": own, "weight_decay": 0.0, "own_rate": recipe.own_rate / recipe.lr},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.betas[0])
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.lr, momentum=recipe.betas[0], alpha=recipe.betas[1])
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=recipe.betas)


def move_average(average: nn.Module, model: nn.Module, share: float) -> None:
    """Move averaged weights and batch-norm statistics by a share of the way to the present ones, in a few operations."""
    with torch.no_grad():
        pairs = list(zip(_tensors(average), _tensors(model), strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in moved], [value for _, value in moved], share)
        if counts:
            torch._foreach_copy_([mean for mean, _ in counts], [value for _, value in counts])


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
