"""The house's rules that a machine can hold: imports point one way, and importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("manifests", "pipeline", "heads", "cli")
SOURCES = [*sorted(p for layer in LAYERS[:-1] for p in (ROOT / layer).rglob("*.py")), ROOT / "cli.py"]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "tfser" and rest and rest != "__version__":
            assert rest.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"
        assert top not in LAYERS, f"{path.relative_to(ROOT)} imports {name} without tfser."


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_torch_stays_above_the_manifests_and_the_pipeline_s_front(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    if layer == "manifests":
        assert not {n for n in imported(path) if n.split(".")[0] in {"torch", "transformers", "soundfile", "h5py"}}


def test_help_and_a_plain_extraction_load_nothing_heavy() -> None:
    code = (
        "import sys, tfser.cli, tfser.pipeline.extract, tfser.pipeline.corpora, tfser.pipeline.upstreams;"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'h5py', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
