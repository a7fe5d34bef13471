"""Devices by name: which ones a command may use, with one clear line where one cannot be used here."""

from __future__ import annotations

import contextlib
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch


def choose_device(asked: str, option: str = "--device") -> str:
    """Return the device that `auto` stands for, or the one that is named if it can be used.

    Raises:
        UsageError: if it cannot be used here.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.zeros(1, device=device).cpu()  # both ways: `meta` takes numbers and gives none back
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).partition(". ")[0]  # torch goes on for a page
        raise UsageError(f"{option} {asked}: not usable here ({reason})") from error
    return asked


def choose_devices(asked: str) -> tuple[str, ...]:
    """Return the devices of a list (`cuda:0,cuda:1`), of a number of GPUs (`2`), or `all` GPUs of this machine.

    Raises:
        UsageError: if one of them cannot be used here, or there are not so many.
    """
    import torch

    here = torch.cuda.device_count()
    if asked == "all" or re.fullmatch(r"[0-9]+", asked):
        wanted = here if asked == "all" else int(asked)
        if not 0 < wanted <= here:
            raise UsageError(f"--devices {asked}: this machine has {here} GPUs that torch can use; see `tfser doctor`")
        return tuple(f"cuda:{i}" for i in range(wanted))
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--devices {asked!r}: names no device; cuda:0,cuda:1, or how many, or all")
    return tuple(choose_device(name, "--devices") for name in names)


def processor(device: str) -> str:
    """Return what people call the processor or GPU of a device (`cpu`, `cuda`, `cuda:1` ...)."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(torch.device(device)))
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or "unknown"


class _Float32Products:
    """Whether float32 products of matrices and convolutions are rounded to TF32 in this process: switched off while anybody asks.

    torch's flags are the process's, and encoders compute in a thread a device: with the last of them the flags return to what
    they were.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, (False, False)

    def enter(self, backends: Any) -> None:
        with self._lock:
            if not self._users:
                self._before = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)
                backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = False
            self._users += 1

    def leave(self, backends: Any) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = self._before


_PRODUCTS = _Float32Products()


@contextlib.contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Make a device the current one of this thread, and float32 mean float32, while something computes there.

    CUDA graphs and streams are made on the current device, whatever device their tensors are on: `cuda:1` has to be it. By
    torch's defaults convolutions in float32 are computed in TF32, with 10 bits of mantissa, which is not what float32 is called
    for. Both are as they were afterwards.
    """
    import torch

    _PRODUCTS.enter(torch.backends)
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield
    finally:
        _PRODUCTS.leave(torch.backends)
