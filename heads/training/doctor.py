"""What works on this machine, and why something does not: one `Check` a row, for `tfser doctor`.

A check changes nothing, and never fails itself: what it cannot find out, it says. ``problem`` stands where tfser cannot do its
work, ``off`` where something that it can do without is missing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tfser import __version__
from tfser.heads.spec.precision import has_native_bfloat16
from tfser.manifests.cache import Cache, default_cache_root
from tfser.manifests.errors import TfserError, first_line
from tfser.manifests.wording import count, size
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.resources.cores import cores
from tfser.pipeline.resources.devices import processor
from tfser.pipeline.resources.memory import why_not

State = Literal["ok", "off", "problem"]

_LITTLE_DISK = 10**9  # bytes; features of a middling corpus


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    """What there is, or why it is not."""
    action: str = ""
    """What to do, if anything."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Optional:
    """A package that tfser can use and does without."""

    package: str
    purpose: str
    action: str


OPTIONAL = (
    Optional(
        package="mamba-ssm",
        purpose="fused scan of tf_mamba on an NVIDIA GPU",
        action="pip install '.[cuda]'",
    ),
    Optional(package="triton", purpose="needed by mamba-ssm", action="comes with torch for CUDA"),
    Optional(package="einops", purpose="needed by mamba-ssm", action="pip install einops"),
    Optional(package="av", purpose="sound of video files (mp4, m4a)", action="pip install '.[video]'"),
    Optional(package="audformat", purpose="corpora that are databases in audformat", action="pip install '.[audformat]'"),
    Optional(package="opensmile", purpose="eGeMAPS and ComParE features", action="pip install '.[opensmile]'"),
    Optional(package="onnx", purpose="tfser export --onnx", action="pip install '.[onnx]'"),
    Optional(package="onnxscript", purpose="tfser export --onnx", action="pip install '.[onnx]'"),
    Optional(package="onnxruntime", purpose="checks exported graphs, predicts with them", action="pip install '.[onnx]'"),
    Optional(package="mlflow-skinny", purpose="tfser export --mlflow", action="pip install '.[mlflow]'"),
    Optional(package="tensorboard", purpose="tfser export --tensorboard", action="pip install '.[tensorboard]'"),
    Optional(package="datasets", purpose="features as a Hugging Face data set", action="pip install '.[datasets]'"),
    Optional(package="ray", purpose="extract and sweep with --engine ray", action="pip install '.[ray]'"),
    Optional(package="s3fs", purpose="corpora and caches at s3://", action="pip install '.[s3]'"),
    Optional(package="gcsfs", purpose="corpora and caches at gs://", action="pip install '.[gcs]'"),
    Optional(package="starlette", purpose="tfser ui", action="pip install '.[ui]'"),
    Optional(package="uvicorn", purpose="tfser ui", action="pip install '.[ui]'"),
)


def examine(cache: Path | None = None) -> list[Check]:
    """Look at everything.

    Args:
        cache: the cache folder; None: the one that commands take.
    """
    return [*_versions(), *_hardware(), *_scans(), *_optional(), *_folders(cache)]


# -- versions ----------------------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Check]:
    yield Check(name="tfser", state="ok", detail=__version__)
    yield Check(name="python", state="ok", detail=f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    try:
        requirements = metadata.requires("tfser") or []
    except metadata.PackageNotFoundError:
        yield Check(
            name="libraries",
            state="off",
            detail="tfser runs without being installed: what it requires is not known",
            action="pip install it",
        )
        return
    good: list[str] = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None:  # of an extra
            continue
        check = _library(requirement)
        if check.state == "ok":
            good.append(f"{check.name} {check.detail}")
        else:
            yield check
    yield Check(name="libraries", state="ok", detail=", ".join(good))


def _library(requirement: Requirement) -> Check:
    """Check one required library: its version, and that it loads."""
    name = requirement.name
    action = f"pip install '{requirement}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name=name, state="problem", detail="not installed", action=action)
    if not fits(version, str(requirement.specifier)):
        return Check(name=name, state="problem", detail=f"{version} does not fit: {requirement}", action=action)
    reason = _does_not_load(_module_of(name))
    if reason is not None:
        return Check(name=name, state="problem", detail=f"{version} does not load: {reason}", action=action)
    return Check(name=name, state="ok", detail=version)


def fits(version: str, bounds: str) -> bool:
    """Tell whether a version lies within bounds, a pre-release as the release that it comes before.

    >>> fits("2.13.0+cpu", ">=2.6"), fits("6.0", ">=5.17,<6"), fits("2.3.1", ""), fits("1.4", "==1.4.*")
    (True, False, True, True)
    """
    try:
        return SpecifierSet(bounds).contains(Version(version).base_version, prereleases=True)
    except InvalidVersion:  # of a library that was built by hand: its own matter
        return True


def _module_of(name: str) -> str:
    """Return the module that a library is imported by: of its own name, or else its first (yaml of pyyaml)."""
    own = canonicalize_name(name).replace("-", "_")
    if find_spec(own) is not None:
        return own
    # Only now the list of its files, which of a large library is long.
    library = metadata.distribution(name)
    brought = (library.read_text("top_level.txt") or "").split()
    brought = brought or [path.parts[0].removesuffix(".py") for path in library.files or () if path.suffix == ".py"]
    public = sorted(module for module in brought if module.isidentifier() and not module.startswith("_"))
    return public[0] if public else own


def _does_not_load(module: str) -> str | None:
    """Import a module and return why that fails, None if it does not."""
    try:
        import_module(module)
    except Exception as error:  # whatever a broken installation does
        return first_line(error)
    return None


# -- hardware ----------------------------------------------------------------------------------------------------------------


def _hardware() -> Iterator[Check]:
    yield Check(name="cpu", state="ok", detail=f"{processor('cpu')}, {count(cores(), 'core')}{_threads()}")
    if has_native_bfloat16("cpu"):
        yield Check(name="cpu bfloat16", state="ok", detail="native: precision=auto takes it on the CPU")
    else:
        yield Check(name="cpu bfloat16", state="off", detail="not native, or not known: precision=auto takes float32 on the CPU")
    reason = why_not()
    if reason is None:
        yield Check(name="kept memory", state="ok", detail="glibc: training on the CPU keeps freed memory, which is faster")
    else:
        yield Check(name="kept memory", state="off", detail=f"{reason}: training on the CPU may take longer")
    yield _memory()
    yield from _gpus()


def _threads() -> str:
    with contextlib.suppress(Exception):  # reported as a library
        import torch

        return f", torch uses {count(torch.get_num_threads(), 'thread')}"
    return ""


def _memory() -> Check:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
        with contextlib.suppress(OSError):  # free pages leave out what caches would give up
            found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.M)
            free = 1024 * int(found[1]) if found else free
    except (AttributeError, OSError, ValueError):
        return Check(name="memory", state="off", detail="its size is not known on this system")
    return Check(name="memory", state="ok", detail=f"{size(total)}, {size(free)} available")


def _gpus() -> Iterator[Check]:
    try:
        import torch
    except Exception:  # reported as a library
        yield Check(name="gpu", state="off", detail="torch does not load")
        return
    reason, action = _no_gpu(torch)
    if reason is not None:
        yield Check(name="gpu", state="off", detail=f"{reason}; the CPU does everything", action=action)
        return
    for number in range(torch.cuda.device_count()):
        device = f"cuda:{number}"
        try:
            about = torch.cuda.get_device_properties(number)
            bfloat16 = "bfloat16 native" if has_native_bfloat16(device) else "bfloat16 not native"
            detail = f"{about.name}, {size(about.total_memory)}, compute capability {about.major}.{about.minor}, {bfloat16}"
            torch.ones(1, device=device).add_(1).cpu()
        except Exception as error:
            yield Check(
                name=device,
                state="problem",
                detail=f"there, but does not compute: {first_line(error)}",
                action="take --device cpu, or a build of torch for this GPU and its driver",
            )
        else:
            yield Check(name=device, state="ok", detail=detail)


def _no_gpu(torch: Any) -> tuple[str | None, str]:
    """Return why there is no GPU for torch and what can be done; (None, "") if there is one."""
    driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()
    if torch.version.cuda is None and not torch.version.hip:
        action = "this machine has an NVIDIA driver: install PyTorch's CUDA build" if driver else ""
        return f"torch {torch.__version__} is built without CUDA", action
    if torch.cuda.is_available():
        return None, ""
    try:
        torch.cuda.init()
    except Exception as error:
        return first_line(error), "see whether nvidia-smi lists a GPU" if driver else ""
    return "torch finds no GPU", "see whether nvidia-smi lists a GPU" if driver else ""


# -- scans and optional packages ---------------------------------------------------------------------------------------------


def _scans() -> Iterator[Check]:
    try:
        import torch

        from tfser.heads.models.ssd import BACKENDS, choose_backend, unavailable
    except Exception:  # reported as a library
        yield Check(name="scan", state="off", detail="torch does not load")
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for backend in BACKENDS:
        reason = unavailable(backend, device)
        if reason is not None:
            yield Check(name=f"scan {backend}", state="off", detail=f"{reason}; `{choose_backend(device)}` takes its place")
        else:
            taken = f"tf_mamba takes it on {device}" if backend == choose_backend(device) else "tf_mamba can take it"
            yield Check(name=f"scan {backend}", state="ok", detail=taken)


def _optional() -> Iterator[Check]:
    for optional in OPTIONAL:
        try:
            version = metadata.version(optional.package)
        except metadata.PackageNotFoundError:
            yield Check(name=optional.package, state="off", detail=f"not installed; {optional.purpose}", action=optional.action)
        else:
            yield Check(name=optional.package, state="ok", detail=f"{version}; {optional.purpose}")


# -- folders -----------------------------------------------------------------------------------------------------------------


def _folders(cache: Path | None) -> Iterator[Check]:
    yield _cache(cache)
    yield _corpora(os.environ.get("TFSER_CORPORA"))


def _cache(root: Path | None) -> Check:
    """Look at the cache folder, or at where it will be made."""
    elsewhere = "name another with --cache or $TFSER_CACHE"
    where = root if root is not None else default_cache_root()
    try:
        folder = Cache(root).root
        above = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=above).close()
    except TfserError as error:
        return Check(name="cache", state="problem", detail=str(error), action=elsewhere)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Check(name="cache", state="problem", detail=f"{where}: cannot be written ({reason})", action=elsewhere)
    free = shutil.disk_usage(above).free
    detail = f"{folder}: {'writable' if above == folder else 'not there yet, can be made'}, {size(free)} free"
    if free < _LITTLE_DISK:
        return Check(name="cache", state="problem", detail=detail, action=f"free some disk, or {elsewhere}")
    return Check(name="cache", state="ok", detail=detail)


def _corpora(home: str | None) -> Check:
    name = "$TFSER_CORPORA"
    if not home:
        return Check(name=name, state="off", detail="not set: the folder where corpora lie", action="set it, or say --root DIR")
    folder = Path(home).expanduser()
    if not folder.is_dir():
        return Check(name=name, state="problem", detail=f"{home}: no such folder", action="mend it, or unset it")
    found = [corpus for corpus in CORPORA if corpus != "table" and (folder / corpus).is_dir()]
    return Check(name=name, state="ok", detail=f"{home}: {', '.join(found) or 'holds no folder with the name of a known corpus'}")


def problems(checks: Sequence[Check]) -> int:
    """Return how many checks found something that keeps tfser from its work."""
    return sum(check.state == "problem" for check in checks)
