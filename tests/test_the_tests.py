"""The rules of the tests themselves: each of them can fail, and none fails because the machine is busy."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from few_cases import far_apart
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("*.py"))


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Return the syntax of all files, when a test asks: every process of a run imports this module."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def calls(node: ast.AST) -> set[str]:
    called = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    plain = {func.id for func in called if isinstance(func, ast.Name)}
    return plain | {func.attr for func in called if isinstance(func, ast.Attribute)}


def can_fail(node: ast.AST, checking: frozenset[str]) -> bool:
    """Whether something is asserted, refused or checked in it, or in a function of the tests that it calls."""
    if any(isinstance(of, (ast.Assert, ast.Raise)) for of in ast.walk(node)):
        return True  # most of them, and nothing else need be looked for
    named = calls(node)
    checked = any(isinstance(of, ast.keyword) and of.arg in ("check", "parse_constant") for of in ast.walk(node))
    return bool(named & checking) or any(name == "raises" or name.startswith("assert_") for name in named) or checked


@functools.cache
def checking() -> frozenset[str]:
    """Return the functions of the tests, other than tests, that check something."""
    helpers = (of for tree in trees().values() for of in functions(tree) if not of.name.startswith("test_"))
    return frozenset(of.name for of in helpers if can_fail(of, frozenset()))


def always_true(test: ast.expr) -> bool:
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple):
        return bool(test.elts)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(always_true(value) for value in test.values)
    return isinstance(test, ast.IfExp) and (always_true(test.body) or always_true(test.orelse))


def test_no_time_limit_for_an_example() -> None:
    assert settings().deadline is None
    pattern = re.compile(r"\bdeadline\s*=\s*(None|\d)")
    said = [path.name for path in FILES if path.name not in ("conftest.py", Path(__file__).name)
            and pattern.search(path.read_text(encoding="utf-8"))]  # fmt: skip
    assert said == [], "the profile in conftest.py says it for all"


@pytest.mark.slow
def test_every_test_can_fail() -> None:
    """It asserts something that is not true in itself, and swallows no error without a look at it."""
    tests = [(path, of) for path in FILES for of in functions(trees()[path]) if of.name.startswith("test_")]
    assert len(tests) > 1000, "the tests are not seen"
    for path, test in tests:
        where = f"{path.name}:{test.lineno} {test.name}"
        assert can_fail(test, checking()), f"{where} checks nothing"
        for node in ast.walk(test):
            assert not (isinstance(node, ast.Assert) and always_true(node.test)), f"{where} asserts what is always true"
            swallows = isinstance(node, ast.ExceptHandler) and all(isinstance(of, ast.Pass) for of in node.body)
            assert not swallows, f"{where} swallows an error"


@pytest.mark.parametrize(
    ("text", "can"),
    [
        ("assert f() == 1", True),
        ("with pytest.raises(ValueError): f()", True),
        ("np.testing.assert_allclose(a, b)", True),
        ("f()", False),
        ("for x in y: print(x)", False),
    ],
)
def test_the_rule_sees_what_can_fail(text: str, can: bool) -> None:
    assert can_fail(ast.parse(text), frozenset()) is can


@pytest.mark.parametrize("text", ["True", "x == 1 or True", "x == 1 if y else True", "(x, 'said')"])
def test_the_rule_sees_what_is_always_true(text: str) -> None:
    assert always_true(ast.parse(text, mode="eval").body)
    assert not always_true(ast.parse("x == 1 or y", mode="eval").body)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 12))
def test_few_cases_differ_as_far_as_so_few_can(sizes: list[int], n: int) -> None:
    cases = list(itertools.product(*map(range, sizes)))
    kept = far_apart(cases, n)
    assert len(kept) == min(n, len(cases)) and kept <= set(range(len(cases)))
    for axis, size in enumerate(sizes):
        if n >= max(sizes) * len(sizes):
            assert {cases[place][axis] for place in kept} == set(range(size))


def test_the_quick_tests_exist() -> None:
    makefile = HERE.parent / "Makefile"
    if not makefile.exists():
        pytest.skip("not a checkout")
    found = re.findall(r"addprefix tests/(\w+)/test_,\$\(addsuffix \.py,([^)]*)\)", makefile.read_text(encoding="utf-8"))
    named = [HERE / folder / f"test_{name}.py" for folder, names in found for name in names.replace("\\", " ").split()]
    assert len(named) > 10 and [path for path in named if not path.exists()] == []
