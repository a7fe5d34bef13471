"""`tfser profile` and `tfser doctor` through the runner: what they print, where, and how they exit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .conftest import run

SMALL = ("--frames", "24", "--width", "16", "--repeats", "2", "--device", "cpu", "--threads", "1", "--no-keep-memory")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--head", "mean_pol"), "did you mean 'mean_pool'?"),
        (("--preset", "mpl"), "did you mean 'mlp'?"),
        (("--head", "mean_pool", "--preset", "full"), "unknown preset of mean_pool"),
        (("--head", "mean_pool", "--head", "tf_transformer", "--preset", "full"), "mean_pool has no preset full"),
        (("--batch-size", "0"), "--batch-size"),
        (("--frames", "-3"), "--frames"),
        (("--width", "0"), "--width"),
        (("--head", "tf_mamba", "--width", "30"), "width"),
        (("--classes", "1"), "--classes"),
        (("--repeats", "0"), "--repeats"),
        (("--threads", "0"), "--threads"),
        (("--precision", "float8"), "unknown precision 'float8'"),
        (("--device", "abacus"), "not usable here"),
        (("--format", "xml"), "xml"),
    ],
)
def test_wrong_requests_get_one_line_and_exit_2(words: tuple[str, ...], expected: str) -> None:
    result = run("profile", "--no-keep-memory", *words)
    assert result.exit_code == 2, result.stderr
    assert expected in result.stderr
    assert result.stderr.startswith("tfser: ") and len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.slow
def test_json_is_a_list_of_objects_with_numbers() -> None:
    result = run("profile", *SMALL, "--format", "json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {"mean_pool", "tf_mamba", "tf_transformer"} <= {of["head"] for of in found}
    for of in found:
        assert isinstance(of["preset"], str) and isinstance(of["config"], dict)
        for name in ("parameters", "macs", "batch_size", "frames", "width", "classes", "samples", "sample_frames", "threads"):
            assert isinstance(of[name], int) and of[name] > 0, name
        for name in ("latency_ms", "latency_min_ms", "latency_p90_ms", "step_ms", "step_min_ms", "step_p90_ms"):
            assert isinstance(of[name], float) and of[name] > 0, name
        for name in ("latency_peak_bytes", "step_peak_bytes"):
            assert of[name] is None or isinstance(of[name], int)
        assert (of["frames"], of["width"], of["threads"], of["repeats"]) == (24, 16, 1, 2)
        assert (of["device"], of["precision"], of["kept_memory"]) == ("cpu", "float32", False)


@pytest.mark.slow
def test_tables_say_the_conditions_and_the_paper_s_counts() -> None:
    heads = ("--head", "mean_pool", "--head", "tf_mamba", "--head", "tf_transformer")
    result = run("profile", *heads, *SMALL, "--preset", "mlp", "--preset", "full", "--batch-size", "2")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].endswith("1 CPU thread, float32: 2 utterances of 24 frames, 4 classes; scan chunked")
    assert lines[1:3] == ["  mean_pool, tf_mamba: 2 x 24 x 16", "  tf_transformer: 2 x 80 x 16"]
    assert lines[3].split() == ["head", "preset", "parameters", "MACs", "ms", "p90", "step_ms", "MB", "step_MB"]
    assert [line.split()[:2] for line in lines[4:]] == [["mean_pool", "mlp"], ["tf_mamba", "full"], ["tf_transformer", "full"]]
    assert "multiply-accumulates" in result.stderr
    paper = run("profile", "--head", "tf_mamba", "--preset", "baseline", "--repeats", "1", "--frames", "9", "--no-keep-memory")
    assert "657,156  0.66 M  656 k" in paper.stdout


def test_csv_has_one_line_a_preset() -> None:
    rows = list(csv.DictReader(io.StringIO(run("profile", *SMALL, "--head", "mean_pool", "--format", "csv").stdout)))
    assert [(row["head"], row["preset"]) for row in rows] == [("mean_pool", "mlp"), ("mean_pool", "linear")]
    assert json.loads(rows[0]["config"])["hidden"] == [512, 256]


def test_doctor_prints_a_row_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFSER_CORPORA", raising=False)
    result = run("doctor", "--cache", str(tmp_path), "--format", "json")
    assert result.exit_code == 0, result.stdout
    found = json.loads(result.stdout)
    assert all(set(check) == {"name", "state", "detail", "action"} for check in found)
    assert {check["state"] for check in found} <= {"ok", "off"}
    table = run("doctor", "--cache", str(tmp_path))
    assert table.stdout.split()[:4] == ["name", "state", "detail", "action"]
    assert table.stderr == ""


@pytest.mark.slow
def test_doctor_exits_with_1_on_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFSER_CORPORA", raising=False)
    (tmp_path / "file").write_text("")
    result = run("doctor", "--cache", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert result.stderr == "1 problem; what to do stands beside it\n"
    assert "this is a file, not a folder" in result.stdout
    monkeypatch.setenv("TFSER_CORPORA", str(tmp_path / "nowhere"))
    assert run("doctor", "--cache", str(tmp_path)).exit_code == 1


def test_both_stand_in_the_help() -> None:
    text = run("--help").stdout
    assert "  profile " in text and "  doctor " in text
