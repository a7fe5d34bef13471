"""The GPU check: a section that fails or hangs stops no other, every claim is named, and the sections run without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
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


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", BENCHMARKS / "gpu_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


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


def test_a_section_runs_at_toy_size(check: ModuleType, tmp_path: Path) -> None:
    """No speed is proven where there is no GPU."""
    assert set(sections(check, "resident", tmp_path)["resident"].values()) == {"left out"}


@pytest.mark.slow
def test_all_sections_run_at_toy_size(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sections(check, ",".join(section.name for section in check.SECTIONS), tmp_path)
    assert found["tests"]["fit on the device is fit on the CPU"] == "proven"
    assert found["ssd"]["compiled scan agrees"] == "proven"
