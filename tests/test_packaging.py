"""What pyproject.toml says is what is there: packages, data files, and a wheel that holds them all."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("manifests", "pipeline", "heads")


def test_every_folder_of_the_house_is_listed() -> None:
    folders = {p.parent for room in ROOMS for p in (ROOT / room).rglob("*.py") if "__pycache__" not in p.parts}
    expected = {"tfser"} | {"tfser." + ".".join(f.relative_to(ROOT).parts) for f in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_only_the_package_and_its_command_line_stand_at_the_top() -> None:
    assert {p.name for p in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_constraints_pin_what_the_project_depends_on() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    needed = {d.split(">")[0].split("[")[0] for d in PROJECT["project"]["dependencies"]}
    assert {"torch", "transformers", "duckdb", "h5py", "pyarrow", "typer", "rich", "scikit-learn"} <= needed
    assert needed <= pinned, f"constraints.txt lacks {needed - pinned}"


def test_a_wheel_holds_every_module_audit_and_table(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="the wheel is built without isolation, with setuptools 77 or newer")
    copy = tmp_path / "tree"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "benchmarks")
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("*.py", "*.sql", "*.toml", "*.tsv.gz", "*.json", "*.csv", "*.html", "*.css")
    wanted = {p for room in ROOMS for kind in kinds for p in (ROOT / room).rglob(kind)}
    assert {p.name for p in wanted} >= {"index.json", "reference_numbers.csv", "emobox_emodb.tsv.gz", "encoders.json", "ui.css"}
    names = {f"tfser/{p.relative_to(ROOT).as_posix()}" for p in wanted} | {"tfser/cli.py", "tfser/__init__.py", "tfser/py.typed"}
    assert names <= held, f"the wheel lacks {sorted(names - held)}"
    assert not [name for name in held if name.startswith(("heads/", "pipeline/", "manifests/", "tests/"))]
