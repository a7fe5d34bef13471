"""What a machine with torch and nothing else lacks for the GPU check: names and versions, one a line, for `pip download`.

The libraries that the sections of the check and the CUDA tests import, with all that those need, in the versions that are
installed here (the ones that everything else is tested with). What torch brings along is left out, and so is `LEFT_OUT`.

    python benchmarks/gpu_carried.py [NAME ...]          # in the environment of development; NAME: what that machine has already
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = (
    "duckdb", "filelock", "h5py", "huggingface-hub", "hypothesis", "packaging", "platformdirs", "pytest", "pytest-timeout",
    "pytz", "rich", "safetensors", "soundfile", "soxr", "threadpoolctl", "transformers", "typer",
)  # fmt: skip
"""Imported by the check and its tests; what they need in their turn is looked up."""

ALONE = ("einops",)
"""Needed by mamba-ssm's scan and not installed in the environment of development; it needs nothing itself."""

LEFT_OUT = ("pyarrow", "scipy", "scikit-learn", "matplotlib", "pandas", "hf-xet")
"""Too large to be carried, or, the last, of no use without a network: the check does without (`gpu_standins`)."""


def needed(roots: Iterable[str]) -> dict[str, str]:
    """Return name and version of packages and of all that they need on this machine, extras left out.

    Raises:
        importlib.metadata.PackageNotFoundError: One is not installed.
    """
    found: dict[str, str] = {}
    waiting = [canonicalize_name(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        package = importlib.metadata.distribution(name)
        found[name] = package.version
        for text in package.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def carried(has: Iterable[str] = ()) -> list[str]:
    """Return what is to be carried, as `name==version`, or a name alone where any version will do; not what is there already."""
    there = {*needed(("torch",)), "numpy", "triton", *LEFT_OUT, *map(canonicalize_name, has)}
    found = {name: version for name, version in needed(ROOTS).items() if name not in there}
    return [f"{name}=={version}" for name, version in sorted(found.items())] + [name for name in ALONE if name not in there]


if __name__ == "__main__":
    try:
        print("\n".join(carried(sys.argv[1:])))
    except importlib.metadata.PackageNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed here: run this in the environment of development (make setup)")
