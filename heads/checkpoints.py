"""Checkpoints of a training: one safetensors file, tensors and a JSON header, replaced atomically.

Nothing is pickled. The file is written aside, fsynced and renamed over the old one, so whoever opens it after a crash
finds the whole old state or the whole new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfser.manifests.errors import TfserError
from tfser.manifests.files import write_bytes

FILE = "checkpoint.safetensors"


def save(folder: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write ``folder/checkpoint.safetensors`` atomically; the folder is made if it is missing."""
    from safetensors.torch import save as to_bytes

    # Copies, since selections of the same epoch share their arrays, which safetensors refuses.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_bytes(folder / FILE, to_bytes(plain, metadata={"tfser": json.dumps(header)}))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the header of the folder's checkpoint, None if there is none.

    Raises:
        TfserError: The file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            header = json.loads((file.metadata() or {})["tfser"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise TfserError(f"{path}: not a readable checkpoint ({error}); delete it to train from the start") from error
    return tensors, header


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
