"""The GPU check: a section that fails or hangs stops no other, every claim is named, and the sections run without a GPU."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

PRETENDED = """
import json, sys, time
name = sys.argv[1]
def say(claim, outcome):
    about = {"value": 2.5, "unit": "times", "bar": 2.0, "device": "toy", "size": "1 x 1"}
    print(json.dumps({"claim": claim, "outcome": outcome, **about}))
    sys.stdout.flush()
say("first", "proven")
print("other words")
if name == "hangs":
    time.sleep(60)
if name == "breaks":
    raise SystemExit("no such kernel")
say("second", "failed" if name == "fails" else "proven")
"""


def load(name: str) -> ModuleType:
    """Return a file of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check() -> ModuleType:
    return load("gpu_check")


@pytest.mark.slow
def test_sections_stop_each_other_in_no_way(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu_sections.py").write_text(PRETENDED)
    sections = tuple(
        check.Section(name=name, limit_s=limit, claims=("first", "second"))
        for name, limit in (("hangs", 1), ("breaks", 30), ("fails", 30), ("works", 30))
    )
    monkeypatch.setattr(check, "HERE", tmp_path)
    monkeypatch.setattr(check, "SECTIONS", sections)
    monkeypatch.setattr(check, "_PATIENCE", 5)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--toy", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["section"] for row in rows if row["claim"] == "first"] == ["hangs", "breaks", "fails", "works"]
    stopped = {row["section"]: row["said"] for row in rows if row["outcome"] == "stopped"}
    assert stopped.keys() == {"hangs", "breaks"}
    assert "limit of time" in stopped["hangs"] and "not reached: second" in stopped["hangs"]
    assert "no such kernel" in (tmp_path / "out" / "breaks.txt").read_text()
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert "proven (5)" in text and "failed (1)" in text and "stopped (2)" in text
    assert "not reached (2)\n  hangs: second\n  breaks: second\n" in text
    assert "fails: second 2.5 times (bar 2); 1 x 1; toy" in text
    assert text in capsys.readouterr().out


def test_the_limits_add_up_to_less_than_eight_minutes(check: ModuleType) -> None:
    assert sum(section.limit_s for section in check.SECTIONS) <= 480
    assert [section.name for section in check.SECTIONS][:3] == ["tests", "ssd", "mamba_step"]


def test_the_page_names_tests_that_exist() -> None:
    """docs/gpu.md says of each decision which test holds it."""
    root = BENCHMARKS.parent
    text = (root / "docs" / "gpu.md").read_text()
    rows = [line.split("|")[3] for line in text.splitlines() if line.startswith("| ") and line.count("|") == 4][1:]
    assert len(rows) > 20
    words = {word for row in rows for word in re.findall(r"`([\w./]+)`", row)}
    files = {path.name: path.read_text() for path in (root / "tests").rglob("test_*.py")}
    for word in words:
        if word.endswith(".py"):
            assert Path(word).name in files, word
        else:
            assert any(f"def test_{word}(" in content for content in files.values()), word


# What is carried to a machine without a network.

BARE = """
import importlib.metadata, sys
from importlib.machinery import PathFinder
sys.path.insert(0, sys.argv[1])
import gpu_carried
there = {*gpu_carried.needed(("torch",)), "numpy", "triton", "pip", "setuptools", "tfser"}
there |= {line.partition("==")[0] for line in gpu_carried.carried()}
packages = importlib.metadata.packages_distributions()
hidden = {name for name, of in packages.items() if not {gpu_carried.canonicalize_name(one) for one in of} & there}
assert {"pyarrow", "scipy", "sklearn", "xdist"} <= hidden

class Bare:
    find_distributions, invalidate_caches = PathFinder.find_distributions, PathFinder.invalidate_caches
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
import gpu_sections, head_step, pytest
import tfser.heads.training.cost, tfser.pipeline.features.encoder_engine, tfser.pipeline.features.encoders.loading
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel, WhisperFeatureExtractor
words = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "gpu_standins"]
sys.exit(pytest.main([*words, *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_a_machine_with_torch_and_what_is_carried_runs_the_cuda_tests() -> None:
    """All else is hidden: a library that the check comes to need and nobody carries fails here."""
    root = BENCHMARKS.parent
    files = [root / "tests" / name for name in ("heads/test_stacked.py", "pipeline/test_encoders.py", "heads/test_ssd.py")]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", BARE, str(BENCHMARKS), *map(str, files)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_carried_is_whole_and_small() -> None:
    """Pinned as it is installed, with what it needs, without what torch brings or what nobody could carry."""
    module = load("gpu_carried")
    names = {line.partition("==")[0]: line.partition("==")[2] for line in module.carried()}
    brought = set(module.needed(("torch",)))
    assert set(module.ROOTS) - brought <= set(names)
    assert not {"torch", "numpy", "triton", *module.LEFT_OUT} & set(names)
    for name, version in names.items():
        if name not in module.ALONE:
            assert version == importlib.metadata.version(name)
            wanted = {line.partition(";")[0].strip() for line in importlib.metadata.requires(name) or () if ";" not in line}
            direct = {module.canonicalize_name(re.match(r"[\w.-]+", line)[0]) for line in wanted}  # type: ignore[index]
            assert direct <= {*names, *brought, "numpy", *module.LEFT_OUT}
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        module.needed(("surely-not-installed",))


def test_what_stands_in_for_a_library_can_be_imported_and_asked_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = load("gpu_standins").StandIns(["no_such_library"])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    module = importlib.import_module("no_such_library.tables.parquet")
    assert callable(module.schema([("a", module.int64())]).field) and module is sys.modules["no_such_library"].tables.parquet
    for name in [name for name in sys.modules if name.startswith("no_such_library")]:
        monkeypatch.delitem(sys.modules, name)
    assert finder.find_spec("another_library") is None


def sections(check: ModuleType, names: str, folder: Path) -> dict[str, dict[str, str]]:
    """Run sections at toy size; return the outcome of each of their claims."""
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": "1", "OUT": str(folder)}
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--toy", "--only", names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=BENCHMARKS.parent, check=False)
    logs = "\n".join(path.read_text() for path in folder.glob("*.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found: dict[str, dict[str, str]] = {name: {} for name in names.split(",")}
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["device"].startswith("cpu (") and row["toy"]
        found[row["section"]][row["claim"]] = row["outcome"]
    for section in check.SECTIONS:
        if section.name in found:
            assert found[section.name].keys() == set(section.claims)
    return found


@pytest.mark.slow
def test_a_section_runs_at_toy_size(check: ModuleType, tmp_path: Path) -> None:
    """No speed is proven where there is no GPU."""
    assert set(sections(check, "resident", tmp_path)["resident"].values()) == {"left out"}


@pytest.mark.slow
def test_all_sections_run_at_toy_size(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sections(check, ",".join(section.name for section in check.SECTIONS), tmp_path)
    assert found["tests"]["fit on the device is fit on the CPU"] == "proven"
    assert found["ssd"]["compiled scan agrees"] == "proven"
