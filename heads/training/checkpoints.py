"""Checkpoints of a training: one safetensors file, tensors and a JSON header, replaced atomically.

Nothing is pickled. The file is written aside, fsynced and renamed over the old one, so whoever opens it after a crash
finds the whole old state or the whole new one. It is sealed (`tfser.manifests.seals`): a training never goes on from other
numbers than it stopped at. Its header says which training it is of, so the seal is bound to the file's name alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tfser.heads.spec.fold import FoldData
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError
from tfser.manifests.files import read_bytes, write_bytes
from tfser.manifests.seals import EMPTY, KEY, is_sealed, sealed

FILE = "checkpoint.safetensors"


class ForeignCheckpointError(TfserError):
    """A checkpoint is of another training."""


def save(folder: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write ``folder/checkpoint.safetensors`` atomically; the folder is made if it is missing."""
    from safetensors.torch import save as to_bytes

    # Copies, since selections of the same epoch share their arrays, which safetensors refuses.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_bytes(folder / FILE, sealed(to_bytes(plain, metadata={"tfser": json.dumps(header), KEY: EMPTY}), FILE))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the header of the folder's checkpoint, None if there is none.

    Raises:
        DamagedError: Its content is not what was written.
        UnreadableError: It cannot be read now, or is of another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = folder / FILE
    try:
        content = read_bytes(path)
    except MissingFileError:
        return None
    with_seal = is_sealed(content, FILE, str(path))
    # The header is read by hand, since safetensors gives its metadata for files on disk alone, and these are
    # bytes that were checked.
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["tfser"])
        if not isinstance(header, dict):
            raise TypeError("its header is none")
        return from_bytes(content), header
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        kind = UnreadableError if with_seal else DamagedError  # what is sealed was written so, by another version
        raise kind(f"not a readable checkpoint ({error})", at=path) from error


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's tensors as ``<parameter's number>.<name>``."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `flatten_optimiser` back into an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix.``, without it."""
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def fingerprint(described: list[Any], data: FoldData, more: list[str]) -> str:
    """Return what a checkpoint is known by: everything that the numbers of a training follow from but the frames."""
    described += [data.layers] if data.layers > 1 else []
    described += more
    described += [list(data.targets)] if data.targets else []
    digest = hashlib.sha256(json.dumps(described).encode())
    if data.ratings is not None:
        digest.update(np.ascontiguousarray(data.ratings).tobytes() + b"|")
    for array in (data.labels, data.train, data.val, data.test, data.features.offsets):
        digest.update(np.ascontiguousarray(array).tobytes() + b"|")
    if data.soft_labels is not None:
        digest.update(np.ascontiguousarray(data.soft_labels).tobytes() + b"|")
    return digest.hexdigest()
