"""`tfser train` and `tfser ablate`: what one head is asked. What is shown meanwhile and afterwards is in `training`.

Torch is imported inside of the commands, once the process is set up for it, and not for `--help`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from tfser.heads.commands.showing import Selection
from tfser.heads.runs.request import OneTargeted, Request
from tfser.heads.runs.running import Running
from tfser.manifests.commands.printing import Printing
from tfser.manifests.options import Option, shared


def train(
    *,
    request: Request,
    features: Annotated[
        tuple[str, ...],
        Option("Feature sets, a list (a,b) or repeated; the head's favourite if left out.", metavar="NAMES", panel="Head"),
    ] = (),
    name: Annotated[str | None, Option("What to call the experiment, for later commands.", metavar="NAME", panel="Head")] = None,
    running: Running,
    printing: Printing,
) -> None:
    """Train a head on cached features, fold by fold; what is finished is found, what was interrupted is resumed.

    Raises:
        UsageError: if the request is off.
        TfserError: if an audit forbids a fold, or a fold could not be trained.

    Example:
        tfser train --features whisper-base/3
        tfser train --head mean_pool --features logmel --protocol loso-speaker
        tfser train --head tf_transformer --fold 1 --set lr=0.001 --epochs 20
    """
    running.prepare(request.device)
    from tfser.heads.commands.training import show_training

    requests = [replace(request, features=name) for name in features] or [request]
    show_training(running.store(printing.cache), requests, running, printing.format, name=name)


def ablate(
    *,
    head_request: OneTargeted,
    preset: Annotated[
        tuple[str, ...], Option("Only rows of these variants; may be repeated.", metavar="NAME", panel="Head", commas=False)
    ] = (),
    features: Annotated[
        str | None, Option("Feature set; the head's favourite in the cache if left out.", metavar="NAME", panel="Head")
    ] = None,
    reference: Annotated[
        bool, Option("The reference heads below the table (of dimensions ridge and svr).", panel="Output and cache")
    ] = True,
    selection: Selection = "last",
    running: Running,
    printing: Printing,
) -> None:
    """Train every row of a head's ablation table over the same folds, and print the paper's beside ours.

    Raises:
        UsageError: if the request is off.
        TfserError: if an audit forbids a fold, or a fold could not be trained.

    Example:
        tfser ablate --head tf_transformer --features logmel --epochs 20
        tfser ablate --head tf_mamba --target arousal,valence
    """
    running.prepare(head_request.device)
    from tfser.heads.commands.training import show_ablation

    request = Request(features=features, **shared(OneTargeted, head_request))
    show_ablation(
        running.store(printing.cache),
        request,
        running,
        printing.format,
        presets=preset,
        reference=reference,
        selection=selection,
    )
