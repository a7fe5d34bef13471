"""A pytest plugin for the GPU check: on a machine without pyarrow, something stands in for it that can be imported.

The CUDA tests share fixtures with tests that read tables, so that pyarrow, too large to be carried along, is imported and then
not used. Where pyarrow is installed nothing happens; scipy, scikit-learn and matplotlib are imported where they are used and
need no stand-in.

    python -m pytest -p gpu_standins -m gpu tests        # with this folder in PYTHONPATH
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

NAMES = ("pyarrow",)


class StandIns:
    """Finds packages, and all modules in them, that are objects which do nothing."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Say that a module of one of the packages is here."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.names else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make one."""
        module = MagicMock(name=spec.name)
        module.__name__, module.__path__, module.__spec__ = spec.name, [], spec
        return module  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing more."""


missing = [name for name in NAMES if importlib.util.find_spec(name) is None]
if missing:
    sys.meta_path.append(StandIns(missing))  # type: ignore[arg-type]


def pytest_runtest_logreport(report: Any) -> None:
    """Show a failure when it happens: what is stopped at its limit of time has told what it knew."""
    if report.failed:
        print(f"\n{report.nodeid}\n{str(report.longrepr)[-3000:]}", flush=True)
