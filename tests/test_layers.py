"""The house's rules that a machine can hold: imports point one way, in rooms too; nothing is a circle; importing is cheap."""

from __future__ import annotations

import ast
import functools
import gc
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("manifests", "pipeline", "heads", "cli")
SOURCES = [*sorted(p for layer in LAYERS[:-1] for p in (ROOT / layer).rglob("*.py")), ROOT / "cli.py"]

HEAVY = frozenset(
    {"torch", "transformers", "sklearn", "h5py", "scipy", "soundfile", "soxr", "av", "audformat", "safetensors"}
    | {"matplotlib", "jinja2"}
)
"""What takes long to import, or is not everywhere."""

FRONT = (
    "cli",
    *(f"pipeline.{name}" for name in ("extraction.extract", "scanning.scan", "corpora", "features.registry", "shards.writer")),
    "pipeline.inventory",
)
"""What `--help`, a scan and an extraction of log-Mel frames begin with."""


ROOMS = {
    "manifests": (
        *("errors", "labels", "natural", "wording", "widths", "feature_name", "notes", "plugins", "failures", "seals"),
        *("utterances", "connections", "dimensions", "annotations", "files", "cache"),
        *("experiment_names", "texts", "garbage", "streams", "options"),
        *("outputs", "display", "protocols", "catalogue", "splits", "audits", "commands"),
    ),
    "pipeline": (
        *("resources", "sound", "corpora", "scanning", "shards", "stores", "features", "extraction", "front_end", "derived"),
        *("feature_files", "import_features", "verify", "inventory", "copies", "commands"),
    ),
    "heads": ("spec", "models", "training", "runs", "results", "prediction", "reports", "commands"),
}
"""The files and folders of each room, from the ground up: whoever stands here imports from its left alone."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


class Facts(NamedTuple):
    """What the tests ask of a file: what it imports anywhere, and when it is imported itself; what it calls; its classes."""

    everywhere: frozenset[str]
    at_once: frozenset[str]
    calls: frozenset[str]
    classes: tuple[str, ...]


@functools.cache
def facts(path: Path) -> Facts:
    """Return them, read once for all tests; the syntax itself is let go: the trees of all files are a million objects."""
    gc.disable()  # or it is all looked through, many times
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        return Facts(
            everywhere=_imports(path, nodes),
            at_once=_imports(path, _at_once(tree)),
            calls=frozenset(of.func.id for of in nodes if isinstance(of, ast.Call) and isinstance(of.func, ast.Name)),
            classes=tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef)),
        )
    finally:
        gc.enable()


def imported(path: Path, *, at_once: bool = False) -> frozenset[str]:
    """Return what a file imports: everywhere, or only what runs when the file is imported."""
    return facts(path).at_once if at_once else facts(path).everywhere


def _imports(path: Path, nodes: Iterable[ast.AST]) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return frozenset(names)


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs on import: not functions' bodies, not what stands under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_once(child)


def reached(start: str) -> dict[str, str]:
    """Return every module that importing one of the house imports in turn, by whom."""
    files = {module_of(path): path for path in SOURCES}
    found, todo = {start: ""}, [start]
    while todo:
        name = todo.pop()
        for other in imported(files[name], at_once=True):
            inside = other.removeprefix("tfser.")
            if other.startswith("tfser.") and inside in files:
                parts = inside.split(".")  # a package comes before what is in it
                news = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
            else:
                news = [other.split(".")[0]] if not other.startswith("tfser") else []
            for new in news:
                if new not in found:
                    found[new] = name
                    todo += [new] if new in files else []
    return found


def test_every_layer_is_there() -> None:
    """The tests below would pass over nothing."""
    of_layer = {layer: [p for p in SOURCES if p.relative_to(ROOT).parts[0].removesuffix(".py") == layer] for layer in LAYERS}
    assert all(of_layer.values()), of_layer
    assert any("tfser.manifests.errors" in imported(path) for path in of_layer["heads"])
    assert {"cli", *LAYERS[:-1]} <= {module_of(path) for path in SOURCES}


def test_imports_point_one_way() -> None:
    for path in SOURCES:
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        allowed = LAYERS[: LAYERS.index(layer) + 1]
        for name in imported(path):
            top, _, rest = name.partition(".")
            if top == "tfser" and rest and rest != "__version__":
                assert rest.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"
            assert top not in LAYERS, f"{path.relative_to(ROOT)} imports {name} without tfser."


def test_the_manifests_know_neither_audio_nor_torch() -> None:
    """Not even inside of functions."""
    for path in sorted((ROOT / "manifests").rglob("*.py")):
        assert not {name for name in imported(path) if name.split(".")[0] in HEAVY - {"scipy", "sklearn"}}, path


@pytest.mark.parametrize("name", FRONT)
def test_the_front_reaches_nothing_heavy(name: str) -> None:
    """What a front imports, and what that imports in turn; a message names the way."""
    found = reached(name)
    assert "manifests.errors" in found, "the walk goes nowhere"
    for heavy in HEAVY & found.keys():
        way = [heavy]
        while way[-1]:
            way.append(found[way[-1]])
        raise AssertionError(" <- ".join(way[:-1]))


def test_only_commands_print() -> None:
    """The parser of options, tables and bars, and the helpers that show them: the rest returns values and rows."""
    for path in SOURCES:
        if path.parent.name == "commands" or module_of(path) in ("cli", "manifests.display"):
            continue
        names = imported(path)
        shown = {name for name in names if name.split(".")[0] in ("typer", "click", "rich") or "manifests.display" in name}
        assert not shown, path
        # Streams have nobody else to tell that output fails.
        assert "print" not in facts(path).calls or module_of(path) == "manifests.streams", path


def test_the_walk_finds_what_is_heavy() -> None:
    assert "torch" in reached("heads.training.loop")
    assert "torch" not in reached("heads.results.intervals")


def test_the_report_loads_no_torch() -> None:
    """It shows what is stored: a page takes seconds, and torch alone takes as many to load."""
    assert not {"torch", "transformers", "sklearn"} & reached("heads.commands.report").keys()


def test_help_and_a_plain_extraction_load_nothing_heavy() -> None:
    modules = ", ".join(f"tfser.{name}" for name in FRONT)
    code = f"import sys, {modules}; print(sorted(m for m in {set(HEAVY)} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_file_has_a_place_in_the_order() -> None:
    for top, order in ROOMS.items():
        there = {path.stem for path in (ROOT / top).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
        assert there - {"__init__"} == set(order), top


def test_rooms_import_from_below() -> None:
    """Inside of functions and under TYPE_CHECKING, too."""
    for path in SOURCES:
        top, *inside = module_of(path).split(".")
        order = ROOMS.get(top, ())
        for name in imported(path) if inside else ():
            _, layer, *rest = (*name.split("."), "")
            if layer == top and rest[0] in order:
                assert order.index(rest[0]) <= order.index(inside[0]), f"{path.relative_to(ROOT)} imports {name}"


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import one another in a circle (strongly connected, Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in arrows[name]:
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            circle = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            found.extend([circle] if len(circle) > 1 else [])

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def test_nothing_imports_itself_in_a_circle() -> None:
    """Imports inside of functions count: they only hide a circle."""
    files = {module_of(path): path for path in SOURCES}
    arrows = {
        name: {other for found in imported(path) if (other := found.removeprefix("tfser.")) in files and other != name}
        for name, path in files.items()
    }
    assert sum(map(len, arrows.values())) > 500, "the imports are not seen"
    assert circles(arrows) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_no_module_takes_a_name_of_the_standard_library() -> None:
    taken = {module_of(path) for path in SOURCES if path.stem in sys.stdlib_module_names}
    assert taken == set()


def test_a_class_name_means_one_class() -> None:
    """Two of a name on one call path are taken for one another by whoever reads an error or an annotation."""
    where: dict[str, list[str]] = {}
    for path in SOURCES:
        for name in facts(path).classes:
            where.setdefault(name, []).append(module_of(path))
    assert len(where) > 100, "the classes are not seen"
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}
