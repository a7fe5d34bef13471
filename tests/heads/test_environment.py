"""What `tfser doctor` finds: on this machine as it is, and on machines that lack something."""

from __future__ import annotations

import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from tfser.heads.models.ssd import BACKENDS
from tfser.heads.training import doctor as environment
from tfser.heads.training.doctor import Check, examine, fits, problems
from tfser.pipeline.resources import devices, memory


def named(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def test_this_machine_has_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFSER_CORPORA", raising=False)
    root = tmp_path / "deep" / "cache"
    checks = examine(root)
    assert problems(checks) == 0, [check for check in checks if check.state == "problem"]
    assert {"tfser", "python", "libraries", "cpu", "memory", "kept memory", "cache", "$TFSER_CORPORA"} <= {c.name for c in checks}
    assert {f"scan {backend}" for backend in BACKENDS} | {of.package for of in environment.OPTIONAL} <= {c.name for c in checks}
    assert all(check.detail for check in checks)
    libraries = named(checks, "libraries").detail
    for library in ("torch", "scikit-learn", "duckdb"):
        assert f"{library} {metadata.version(library)}" in libraries
    assert named(checks, "scan chunked").state == named(checks, "scan reference").state == "ok"
    cache = named(checks, "cache")
    assert "not there yet" in cache.detail and str(root) in cache.detail
    assert not root.parent.exists()  # nothing is made by looking


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("2.6", ">=2.6", True),
        ("2.6.0+cpu", ">=2.6,<3", True),
        ("2.10", ">=2.6", True),
        ("2.5.9", ">=2.6", False),
        ("6.0.0", ">=5.17,<6", False),
        ("5.23.0", ">=5.17,<6", True),
        ("2.3.1.post1", ">=2.3,<2.3.2", True),
        ("1.4.2", "==1.4.*", True),
        ("1.5", "==1.4.*", False),
        ("1.4", "==1.4.0", True),
        ("1.5", "!=1.5", False),
        ("1.9", "~=1.4", True),
        ("2.0", "~=1.4", False),
        ("1", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, bounds: str, expected: bool) -> None:
    assert fits(version, bounds) is expected


@pytest.mark.slow
def test_libraries_that_are_missing_old_or_broken_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    real_version, real_import = metadata.version, environment.import_module

    def version(name: str) -> str:
        if name == "h5py":
            raise metadata.PackageNotFoundError(name)
        return "4.40.1" if name == "transformers" else real_version(name)

    def load(name: str) -> Any:
        if name == "soundfile":
            raise OSError("sndfile library not found\nmore")
        return real_import(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(environment, "import_module", load)
    checks = list(environment._versions())
    assert problems(checks) == 3
    assert named(checks, "h5py").detail == "not installed"
    assert named(checks, "transformers").detail.startswith("4.40.1 does not fit: transformers")
    assert named(checks, "transformers").action.startswith("pip install 'transformers")
    assert named(checks, "soundfile").detail.endswith("does not load: sndfile library not found")
    assert "h5py" not in named(checks, "libraries").detail


def test_a_library_s_module_is_found_without_a_look_at_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of files of all that is installed took ten seconds of a processor, for each library once."""
    monkeypatch.setattr(metadata, "packages_distributions", lambda: pytest.fail("all libraries are read"))
    assert problems(list(environment._versions())) == 0
    modules = {name: environment._module_of(name) for name in ("scikit-learn", "huggingface-hub", "typing_extensions", "torch")}
    assert list(modules.values()) == ["sklearn", "huggingface_hub", "typing_extensions", "torch"]


def test_without_its_own_metadata_requirements_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert named(list(environment._versions()), "libraries").state == "off"


def test_a_torch_that_does_not_load_breaks_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = [*environment._hardware(), *environment._scans()]
    assert named(checks, "gpu").state == "off" and named(checks, "scan").detail == "torch does not load"
    assert "core" in named(checks, "cpu").detail


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nmore")

    def torch(cuda: str | None, **more: Any) -> Any:
        return SimpleNamespace(__version__="2.9", version=SimpleNamespace(cuda=cuda, hip=None), cuda=SimpleNamespace(**more))

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert environment._no_gpu(torch(None)) == (
        "torch 2.9 is built without CUDA",
        "this machine has an NVIDIA driver: install PyTorch's CUDA build",
    )
    assert environment._no_gpu(torch("12.8", is_available=lambda: True)) == (None, "")
    found = environment._no_gpu(torch("12.8", is_available=lambda: False, init=fail))
    assert found == ("Found no NVIDIA driver on your system.", "see whether nvidia-smi lists a GPU")
    assert environment._no_gpu(torch("12.8", is_available=lambda: False, init=lambda: None))[0] == "torch finds no GPU"


def test_kept_memory_has_a_reason_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.why_not() is None or "glibc" in (memory.why_not() or "") or "not Linux" in (memory.why_not() or "")
    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform="darwin"))
    assert memory.why_not() == "this is darwin, not Linux"
    check = named(list(environment._hardware()), "kept memory")
    assert check.state == "off" and check.detail.startswith("this is darwin")


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in environment._cache(file).detail
    assert environment._cache(file / "cache").state == "problem"
    good = environment._cache(tmp_path)
    assert good.state == "ok" and "writable" in good.detail and list(tmp_path.iterdir()) == [file]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    full = environment._cache(tmp_path)
    assert full.state == "problem" and "1.0 MB free" in full.detail and "--cache" in full.action


def test_a_cache_on_a_read_only_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system", str(dir))

    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("TFSER_CACHE", str(tmp_path))
    found = environment._cache(None)
    assert found.state == "problem" and found.detail == f"{tmp_path}: cannot be written (read-only file system)"


def test_the_folder_of_corpora(tmp_path: Path) -> None:
    assert environment._corpora(None).state == environment._corpora("").state == "off"
    assert environment._corpora(str(tmp_path / "nowhere")).state == "problem"
    assert environment._corpora(str(tmp_path)).detail.endswith("holds no folder with the name of a known corpus")
    (tmp_path / "emodb").mkdir()
    found = environment._corpora(str(tmp_path))
    assert (found.state, found.detail) == ("ok", f"{tmp_path}: emodb")


def test_processors_have_names() -> None:
    assert devices.processor("cpu")


def test_every_package_of_an_extra_is_looked_for() -> None:
    """A new extra has to be named: whoever asks why a command refuses asks the doctor."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: items for name, items in project["optional-dependencies"].items() if not name.startswith("dev")}
    looked_for = {optional.package: optional.action for optional in environment.OPTIONAL}
    for name, items in extras.items():
        for item in items:
            assert looked_for[Requirement(item).name] == f"pip install '.[{name}]'"
