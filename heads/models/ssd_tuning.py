"""Which configuration of a Triton kernel was the fastest, kept on disk for the next process.

Triton keeps its own choices (`TRITON_CACHE_AUTOTUNING`), but not of kernels whose configurations clear an output before they add
to it (``pre_hook``): those it tries again in every process, some of mamba-ssm's backward kernels among them. What comes in: such
kernels (`triton.runtime.autotuner.Autotuner`). What goes out: the same kernels, whose choices are looked up in files first. A
choice belongs to the processor, the versions, the kernel's source and its configurations: where any of them is another, it is
tried again. A folder that cannot be read or written only costs the time of trying.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json, write_json


class KeptChoices(dict[Any, Any]):
    """What stands for an autotuner's ``cache``: the configuration chosen for each key, remembered beyond the process.

    Args:
        kernel: the autotuner; each of its configurations has words of its own (``str``).
        folder: where choices lie, a file each; made when there is something to keep.
        machine: says which processor and versions choices are of; asked when the first one is looked for.
    """

    def __init__(self, kernel: Any, folder: Path, machine: Callable[[], str]) -> None:
        super().__init__(kernel.cache)
        self._configs = {str(config): config for config in kernel.configs}
        self._folder, self._machine = folder, machine
        self._kernel = f"{kernel.base_fn.__name__}|{_source(kernel.base_fn)}|{'|'.join(sorted(self._configs))}"
        self._absent: set[Any] = set()  # keys of which there is no file: looked for once

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a choice for a key, here or on disk."""
        if super().__contains__(key):
            return True
        if key in self._absent:
            return False
        found = self._stored(key)
        if found is None:
            self._absent.add(key)
            return False
        super().__setitem__(key, found)
        return True

    def __setitem__(self, key: Any, config: Any) -> None:
        """Remember a choice."""
        super().__setitem__(key, config)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._file(key), {"config": str(config)})
        except (OSError, TfserError):  # a full or read-only disk is no reason not to compute
            pass

    def _stored(self, key: object) -> Any:
        """Return the configuration that is stored for a key; None: none, or none that the kernel still has."""
        try:
            stored = read_json(self._file(key))
        except (OSError, TfserError):  # none yet, or none that can be read
            return None
        return self._configs.get(str(stored.get("config"))) if isinstance(stored, dict) else None

    def _file(self, key: object) -> Path:
        digest = hashlib.sha256(f"{self._machine()}|{self._kernel}|{key!r}".encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"


def keep_choices(kernels: Iterable[Any], folder: Path | None = None, machine: Callable[[], str] | None = None) -> int:
    """Let kernels that Triton forgets remember their choices; return how many they are.

    Args:
        kernels: autotuners, and anything else, which is passed over.
        folder: where; None: beside Triton's compiled kernels.
        machine: see `KeptChoices`; None: the present GPU and the versions of torch and Triton.
    """
    count = 0
    for kernel in kernels:
        if not all(hasattr(kernel, name) for name in ("configs", "cache", "base_fn")) or len(kernel.configs) < 2:
            continue
        if any(getattr(config, "pre_hook", None) for config in kernel.configs) and not isinstance(kernel.cache, KeptChoices):
            kernel.cache = KeptChoices(kernel, folder or _folder(), machine or _machine)
            count += 1
    return count


def _source(function: Any) -> str:
    """Return a digest of the file that a kernel is written in, or nothing where there is none."""
    file = inspect.getsourcefile(function)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file and Path(file).is_file() else ""


def _folder() -> Path:
    kernels = os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"
    return Path(kernels) / "tfser_choices"


def _machine() -> str:
    import torch

    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "unknown"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return f"{torch.cuda.get_device_name()}|{capability}|torch {torch.__version__}|triton {triton}"
