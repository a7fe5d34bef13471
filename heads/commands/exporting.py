"""`tfser export`: a trained model as a folder, on a hub, or as runs of other people's trackers.

In: a run or an experiment, and where to. Out: what was written, in a few lines on standard error, and the folder's or the
address's name on standard output. What is written is in `tfser.heads.prediction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tfser.heads.prediction.trackers import finished_runs, to_mlflow, to_tensorboard
from tfser.manifests.cache import Cache
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say, show
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.wording import count, size


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """What goes into the folder."""

    ensemble: Annotated[bool, Option("All folds and seeds of an experiment; what reads it takes their mean.")] = False
    selection: Annotated[str, Option("Whose weights: last, or val (the validated epoch).")] = "last"
    onnx: Annotated[bool, Option("Add model.onnx, compared with PyTorch on cached utterances (tfser[onnx]).")] = False
    encoder: Annotated[
        bool | None, Option("Take the encoder's files along; left out: where they came from a folder, not from the hub.")
    ] = None
    weights: Annotated[str | None, Option("Where the encoder's weights are, if not where they were.", metavar="ID|DIR")] = None
    hub: Annotated[
        str | None, Option("Push the folder to a model hub; DIR may be one that was exported before.", metavar="ORG/NAME")
    ] = None
    private: Annotated[bool, Option("With --hub: a repository that is made is private.")] = False


@dataclass(frozen=True, kw_only=True)
class Tracking(InCache):
    """Trackers of other people."""

    mlflow: Annotated[
        str | None, Option("Write finished runs to an MLflow tracking URI, a run below its experiment.", metavar="URI")
    ] = None
    tensorboard: Annotated[Path | None, Option("Write the curves of finished runs as TensorBoard events.", metavar="DIR")] = None


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run or an experiment (or a piece of its id).")],
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="A new folder to write.")] = None,
    *,
    exporting: Exporting,
    tracking: Tracking,
) -> None:
    """Write a trained model to a folder that needs no cache: safetensors, JSON and a card, no pickle.

    `tfser predict DIR file.wav` works from it alone. Of an experiment, the run on all labelled utterances is taken
    (`tfser train --fold none`), or all folds and seeds with --ensemble.

    Example:
        tfser export tf_mamba-full ./my-model --onnx
    """
    cache = tracking.store
    if folder is None and not (tracking.mlflow or tracking.tensorboard):
        raise UsageError("say where to: a new folder DIR, or --mlflow URI, or --tensorboard DIR")
    if tracking.mlflow or tracking.tensorboard:
        if exporting != Exporting():
            raise UsageError("--mlflow and --tensorboard go without the options of a folder")
        if folder is not None:
            raise UsageError(f"{folder}: --mlflow and --tensorboard write runs, and no folder; leave it out")
        _track(cache, model, tracking)
        return
    assert folder is not None
    if exporting.hub is not None:
        from tfser.heads.prediction.hub import check_repository

        check_repository(exporting.hub)
    if exporting.private and exporting.hub is None:
        raise UsageError("--private goes with --hub")
    if not _is_there(folder, exporting):
        _write(cache, model, folder, exporting)
    if exporting.hub is not None:
        from tfser.heads.prediction.hub import push

        show(push(folder, exporting.hub, private=exporting.private))


def _is_there(folder: Path, exporting: Exporting) -> bool:
    """Tell whether a folder that is to be pushed was exported before."""
    from tfser.heads.prediction.folder import DESCRIPTION

    return exporting.hub is not None and (folder / DESCRIPTION).is_file()


def _write(cache: Cache, model: str, folder: Path, exporting: Exporting) -> None:
    from tfser.heads.prediction.export import Wish
    from tfser.heads.prediction.export import export as export_it

    wish = Wish(
        ensemble=exporting.ensemble,
        selection=exporting.selection,
        onnx=exporting.onnx,
        encoder=exporting.encoder,
        weights=exporting.weights,
    )
    heads = export_it(cache, model, folder, wish, tell=say)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total = sum(path.stat().st_size for path in files)
    say(f"{count(len(heads), 'head')} of {heads[0].about['experiment']}: {count(len(files), 'file')}, {size(total)}")
    say(f"the card is {folder / 'README.md'}: read it before you hand it on")
    show(str(folder))


def _track(cache: Cache, model: str, tracking: Tracking) -> None:
    runs = finished_runs(cache, model)
    if tracking.mlflow is not None:
        say(f"{count(to_mlflow(cache, runs, tracking.mlflow), 'run')} written to {tracking.mlflow}")
    if tracking.tensorboard is not None:
        say(f"{count(to_tensorboard(cache, runs, tracking.tensorboard), 'run')} written to {tracking.tensorboard}")
