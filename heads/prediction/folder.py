"""An exported model on disk: a folder that needs no cache, is read the same on any machine, and holds nothing that can
run.

What comes in: trained heads. What goes out: a folder of

* `tfser.json`: what the heads are (configurations, classes, features with their fingerprint, where they are from), and
  the SHA-256 of every other file;
* `model.safetensors`, or `model-1.safetensors` ... of an ensemble: weights with their normalisation;
* `README.md`: the card (`tfser.heads.prediction.card`);
* `encoder/`: the encoder's own files, where they are to travel along (`encoder-2/` ... of features of several encoders);
* `mixes.safetensors`: how the layers of a learned mix were scaled, where the features are one;
* `model.onnx`: where it was asked for.

All are plain (mode 0644), and no pickle is written or read. A folder is written aside and renamed: nobody sees half of
one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfser import __version__
from tfser.heads.prediction.makers import is_mix
from tfser.heads.prediction.trained import TrainedHead, described
from tfser.heads.training.normalise import Normaliser
from tfser.manifests.errors import CannotWriteError, TfserError, UsageError, first_line
from tfser.manifests.files import is_left_over
from tfser.pipeline.features.stored_set import StoredSet

DESCRIPTION, CARD, ENCODER, MIXES = "tfser.json", "README.md", "encoder", "mixes.safetensors"
FORMAT = 1
"""Raised when a folder of an older version would be read as another model."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


class ExportedError(TfserError):
    """An exported folder is not what was written, or cannot be read."""


def check_target(folder: Path) -> Path:
    """Return where a new folder is to lie, before anything long is begun.

    Raises:
        UsageError: if something is there already, or there is no folder that it could be made in.
    """
    target = folder.expanduser().absolute()
    if target.is_symlink():
        raise UsageError(f"{folder}: is a link; name a new folder")
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{folder}: is there already; name a new folder")
    if not target.parent.is_dir():
        raise UsageError(f"{folder}: there is no folder {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{folder}: {target.parent} may not be written")
    return target


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside the target, which takes the target's place when the block ends well, and else is
    removed.

    Raises:
        UsageError: as `check_target`.
        CannotWriteError: if the disk is full or read-only.
    """
    target = check_target(folder)
    aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir(mode=0o755)
        try:
            yield aside
            for path in aside.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            _take_place(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise CannotWriteError(f"{folder}: cannot be written ({(error.strerror or str(error)).lower()})") from error


def _take_place(aside: Path, target: Path) -> None:
    """Rename a folder to its target, which may be an empty folder.

    Raises:
        UsageError: another process has written the target meanwhile.
    """
    try:
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    except OSError as error:
        if os.path.lexists(target):
            raise UsageError(f"{target}: was written by another process meanwhile; name a new folder") from error
        raise


def left_of(folder: Path) -> list[Path]:
    """Return the hidden folders beside a target that exports to it left when they were killed, or are writing now."""
    target = folder.expanduser().absolute()
    beside = [path for path in target.parent.glob(".*.tmp") if path.name.startswith(f".{target.name}.")]
    return sorted(path for path in beside if is_left_over(path.name) and path.is_dir())


def weight_files(count: int) -> list[str]:
    """Return what the weights of so many heads are called.

    >>> weight_files(1), weight_files(2)
    (['model.safetensors'], ['model-1.safetensors', 'model-2.safetensors'])
    """
    return ["model.safetensors"] if count == 1 else [f"model-{i}.safetensors" for i in range(1, count + 1)]


def write_weights(folder: Path, heads: Sequence[TrainedHead]) -> None:
    """Write the weights of each head, with their normalisation, and what mixes of layers were scaled with."""
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    for name, of in zip(weight_files(len(heads)), heads, strict=True):
        save_file({key: tensor.contiguous() for key, tensor in of.state.items()}, folder / name)
    arrays = {f"{key}.{what}": getattr(mix, what) for key, mix in heads[0].mixes.items() for what in _OF_MIX}
    if arrays:
        save_arrays(arrays, folder / MIXES)


_OF_MIX = ("mean", "deviation")


def _read_mixes(folder: Path, features: StoredSet) -> dict[str, Normaliser]:
    """Return what the mixes of layers in a feature set were scaled with."""
    from safetensors.numpy import load_file

    found: dict[str, Normaliser] = {}
    for part in features.parts:
        found |= _read_mixes(folder, part)
    if is_mix(features):
        arrays = load_file(folder / MIXES)
        mean, deviation = (arrays[f"{features.fingerprint}.{what}"] for what in _OF_MIX)
        found[features.fingerprint] = Normaliser(mode=features.config["normalise"], mean=mean, deviation=deviation)
    return found


def _at_hand(folder: Path, features: StoredSet, encoders: Mapping[str, str]) -> StoredSet:
    """Return a feature set whose encoders are those in the folder.

    Args:
        folder: as it was exported.
        features: what it says of its features.
        encoders: the names of the folders of encoders, by the hash of their weights.
    """
    there = encoders.get(str(features.config.get("weights"))) if features.is_encoder else None
    source = features.source if there is None else {"weights": str(folder / there), "commit": None}
    return replace(features, source=source, parts=tuple(_at_hand(folder, part, encoders) for part in features.parts))


def write_description(folder: Path, heads: Sequence[TrainedHead], more: Mapping[str, Any]) -> None:
    """Write what the folder holds, last of all: every file that is in it is listed with its SHA-256.

    Args:
        folder: with everything else in it.
        heads: whose weights are there.
        more: what else a reader may want: scores, the experiment that vouches.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    about = {
        "format": FORMAT,
        "made_with": {"tfser": __version__},
        "selection": heads[0].selection,
        "classes": list(heads[0].classes),
        **({"targets": list(heads[0].targets), "scale": list(heads[0].scale)} if heads[0].targets else {}),
        "features": heads[0].features.to_dict(),
        "heads": [
            {"weights": name, **{key: of.about.get(key) for key in _OF_RUN}}
            for name, of in zip(weight_files(len(heads)), heads, strict=True)
        ],
        **more,
        "files": {path.relative_to(folder).as_posix(): _sha256(path) for path in files},
    }
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


_OF_RUN = (
    *("run_id", "experiment", "head", "preset", "recipe", "corpus", "protocol", "protocol_hash", "validation", "fold", "seed"),
    *("feature_set", "fingerprint", "epochs", "device", "parameters", "audit", "speakers_kept", "classes", "finished_at"),
    *("versions", "config", "temperature"),
)
"""What a folder says of each run. Not: findings, which may name speakers."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """Return what an exported folder says of itself, once every file that is needed was looked at.

    Raises:
        UsageError: if it is no such folder.
        ExportedError: if a file is missing, is not what was written, or was written by a newer version.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise _not_exported(folder)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version, files, heads = about["format"], about["files"], about["heads"]
        weights = [of["weights"] for of in heads]
        is_whole = isinstance(files, dict) and bool(heads) and all(name in files for name in weights)
    except OSError as error:
        raise ExportedError(f"{path}: could not be read ({(error.strerror or str(error)).lower()})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ExportedError(f"{path}: describes no exported model ({_off(error)}); export it again") from error
    if version != FORMAT:
        raise ExportedError(f"{path}: has the format {version!r}, and this version of tfser reads {FORMAT}")
    if not is_whole:
        raise ExportedError(f"{path}: lists no weights; export it again")
    for name in (*weights, *(name for name in (MIXES,) if name in files)):
        check_file(folder, name, files)
    return dict(about)


def check_file(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """Return a file of an exported folder that is what was written there.

    Raises:
        ExportedError: if it is missing, is another one, cannot be read, or lies elsewhere.
    """
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ExportedError(f"{folder / DESCRIPTION}: lists {name!r}, which is no file of this folder")
    try:
        same = _sha256(path) == files[name]
    except FileNotFoundError:
        raise ExportedError(f"{path}: is missing; copy the folder again") from None
    except OSError as error:
        raise ExportedError(f"{path}: could not be read ({(error.strerror or str(error)).lower()})") from error
    if not same:
        raise ExportedError(f"{path}: its content is not what was exported; copy the folder again")
    return path


def read_folder(folder: Path) -> tuple[TrainedHead, ...]:
    """Return the trained heads of an exported folder.

    Raises:
        UsageError: if it is no such folder.
        ExportedError: if it is damaged, or of a newer version.
        TfserError: if a head is not known here.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = read_description(folder)
    try:
        features = StoredSet.from_dict(about["features"])
        # Folders of before say nothing of encoders: theirs has the one that they may hold.
        alone = {str(of.config["weights"]): ENCODER for of in features.encoders if (folder / ENCODER).is_dir()}
        features = _at_hand(folder, features, about.get("encoders", alone))
        mixes = _read_mixes(folder, features)
        heads = []
        for of in about["heads"]:
            state = load_file(folder / of["weights"])
            known = described(of)
            selection = about["selection"]
            heads.append(TrainedHead(about=of, **known, selection=selection, state=state, features=features, mixes=mixes))
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise ExportedError(f"{folder}: cannot be loaded ({_off(error)}); export it again") from error
    return tuple(heads)


def _off(error: BaseException) -> str:
    """Return what is off in a description, by the error that reading it ended in."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return "something in it is of another kind" if isinstance(error, (TypeError, AttributeError)) else first_line(error)


def _not_exported(folder: Path) -> UsageError:
    """Return the error for a folder that `tfser export` did not write, by what is in it."""
    if (folder / "run.json").is_file():
        return UsageError(f"{folder}: this is a run in a cache; name it by its id ({folder.name}) with --cache")
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return UsageError(
            f"{folder}: has no {DESCRIPTION} but {', '.join(pickles[:3])}: pickles can run code when they are loaded, so none is "
            "ever loaded here; `tfser export` writes folders of safetensors"
        )
    return UsageError(f"{folder}: no exported model (it has no {DESCRIPTION}); `tfser export RUN DIR` writes one")
