"""Fixtures of the pipeline's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def iemocap_tree() -> ModuleType:
    """The module that lays out a folder like IEMOCAP."""
    name = "tfser_tests_iemocap_tree"
    if name not in sys.modules:
        path = Path(__file__).parent.parent / "iemocap_tree.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
