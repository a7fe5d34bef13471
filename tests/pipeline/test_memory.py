"""The allocator's setting, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_it_takes_on_glibc_and_only_there() -> None:
    try:
        glibc = sys.platform.startswith("linux") and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except ValueError:
        glibc = False
    code = "from tfser.pipeline.resources.memory import keep_freed_memory; import sys; sys.exit(10 + keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 10 + glibc


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfser.pipeline.resources import memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
