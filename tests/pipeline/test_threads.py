"""Who settles how threads wait: the program for its own process, never an importer's, never against the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tfser.pipeline.resources.threads import PASSIVE, wait_passively

SHOW = f"import json, os; print(json.dumps({{name: os.environ.get(name) for name in {list(PASSIVE)}}}))"


def variables(program: str, **environment: str) -> dict[str, str | None]:
    """Return the variables of a process at the end of a program."""
    clean = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{SHOW}"], env=clean | environment, capture_output=True, text=True, check=True
    )
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


CLI = """
import sys
from tfser import cli
assert "torch" not in sys.modules
sys.argv = ["tfser", "heads"]
try:
    cli.main()
except SystemExit:
    pass
"""


@pytest.mark.slow
def test_the_program_sets_them_before_torch_is_there() -> None:
    assert variables(CLI) == PASSIVE


@pytest.mark.slow
def test_what_the_user_has_set_stays_and_nothing_is_put_beside_it() -> None:
    assert variables(CLI, OMP_WAIT_POLICY="ACTIVE") == dict.fromkeys(PASSIVE) | {"OMP_WAIT_POLICY": "ACTIVE"}
    assert variables(CLI, GOMP_SPINCOUNT="1000") == dict.fromkeys(PASSIVE) | {"GOMP_SPINCOUNT": "1000"}


@pytest.mark.slow
def test_an_importer_keeps_its_own() -> None:
    code = "import tfser, tfser.cli, tfser.heads.runs.processes, tfser.pipeline.resources.threads"
    assert variables(code) == dict.fromkeys(PASSIVE)


def test_nothing_is_set_once_torch_has_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PASSIVE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", object())  # type: ignore[arg-type]
    assert not wait_passively()
    assert not PASSIVE.keys() & os.environ.keys()


@pytest.mark.slow
def test_a_worker_of_a_sweep_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is ours, whoever has started it."""
    program = """
import sys, threading
from multiprocessing import Pipe
from tfser.heads.runs import processes
from tfser.heads.runs.running import RunningMany
ours, theirs = Pipe()
processes._die_with_parent = lambda: None
ours.send(None)
processes._work(theirs, None, RunningMany(threads=1, keep_memory=False))
assert "torch" in sys.modules
"""
    assert variables(program) == PASSIVE
