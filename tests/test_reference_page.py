"""docs/reference.md is what docs/make_reference.py makes of the program."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tfser.cli import CONTENTS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_is_made_from_the_program() -> None:
    script = DOCS / "make_reference.py"
    if not script.exists():
        pytest.skip("the pages are not part of an installed package")
    spec = importlib.util.spec_from_file_location("tfser_docs_make_reference", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.reference()
    assert made == (DOCS / "reference.md").read_text(encoding="utf-8"), "run: python docs/make_reference.py > docs/reference.md"
    assert all(f"### tfser {line.name}\n" in made for stage in CONTENTS for line in stage.lines)
    # Words for people: what may be left out is in one pair of brackets, and no type has the name that Python gives it.
    assert "`[EXPERIMENT ...]`" in made and "`KIND`" in made
    assert not re.search(r"\[\[|\.\.\.\]\.\.\.|<(str|path|int|int range|float|list)", made)
