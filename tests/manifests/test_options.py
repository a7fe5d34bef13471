"""Options declared once: the command line and the code below read the same fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from tfser.manifests.commands.opening import Said, opened
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option, build, declared, pairs, shared


@dataclass(frozen=True, kw_only=True)
class Training:
    head: Annotated[str, Option("What to train.", metavar="NAME")]
    features: Annotated[tuple[str, ...], Option("Feature sets.", metavar="NAMES")] = ()
    settings: Annotated[Mapping[str, str], Option("A setting.", flag="--set", metavar="KEY=VALUE")] = field(default_factory=dict)
    seed: Annotated[int, Option("Random seed.", minimum=0)] = 0
    longest: Annotated[float, Option("Longest.", minimum=0.1)] = 1.0
    hop: Annotated[float | None, Option("Hop.")] = None
    again: Annotated[bool, Option("Train again.")] = False
    reference: Annotated[bool | None, Option("Reference heads.")] = None
    internal: int = 7


@dataclass(frozen=True, kw_only=True)
class Split:
    corpus: Annotated[str | None, Option("Corpus.", metavar="NAME")] = None


def run(*words: str) -> tuple[Training | None, Split | None, str]:
    app, got = typer.Typer(rich_markup_mode=None), []

    @app.command()
    @opened
    def train(training: Training, split: Split, fold: Annotated[str, typer.Option("--fold")] = "all") -> None:
        """Train."""
        got.append((training, split, fold))

    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return (*got[0][:2], result.output + got[0][2]) if got else (None, None, result.output)


def test_fields_become_options() -> None:
    training, split, _ = run(
        "--head", "x", "--features", "a,b", "--features", "c", "--set", "lr=0.1", "--seed", "3", "--again", "--corpus", "emodb"
    )
    assert training == Training(
        head="x", features=("a", "b", "c"), settings={"lr": "0.1"}, seed=3, again=True, reference=None, internal=7
    )
    assert split == Split(corpus="emodb")


def test_what_is_left_out_is_the_field_s_default() -> None:
    assert run("--head", "x")[:2] == (Training(head="x"), Split())
    assert run("--head", "x", "--no-reference")[0] == Training(head="x", reference=False)


def test_help_and_bounds() -> None:
    _, _, words = run("--help")
    assert "--set" in words and "KEY=VALUE" in words and "Random seed." in words and "--no-reference" in words
    assert "internal" not in words and "--no-again" not in words
    assert "Missing option" in run()[2]
    assert "--seed" in run("--head", "x", "--seed", "-1")[2]


@pytest.mark.parametrize(("flag", "number"), [("--longest", "inf"), ("--hop", "nan"), ("--hop", "-inf")])
def test_a_number_that_is_not_finite_is_refused(flag: str, number: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} {number}: a finite number is wanted"):
        run("--head", "x", flag, number)
    assert run("--head", "x", "--longest", "1e9")[0] == Training(head="x", longest=1e9)


def test_wrong_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="--set lr: write KEY=VALUE"):
        run("--head", "x", "--set", "lr")
    with pytest.raises(UsageError):
        pairs("--set", ["=1"])


def test_two_fields_of_one_name_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other:
        corpus: Annotated[str | None, Option("Another.")] = None

    def both(a: Split, b: Other) -> None: ...

    both.__annotations__ = {"a": Split, "b": Other}
    with pytest.raises(TypeError, match="corpus"):
        opened(both)


def test_declared_fields_in_their_order() -> None:
    assert list(declared(Training)) == ["head", "features", "settings", "seed", "longest", "hop", "again", "reference"]


@dataclass(frozen=True, kw_only=True)
class Everything(Training, Split):
    panel: ClassVar[str] = "Everything"
    seeds: Annotated[tuple[int, ...], Option("Seeds.", read=lambda text: tuple(map(int, text.split("+"))))] = (0,)
    stack: Annotated[bool, Option("Stack.", negative=True)] = False
    own: Annotated[str, Option("Elsewhere.", panel="Other")] = "x"


def said(*words: str) -> tuple[dict[str, Any], tuple[str, ...], str]:
    app, got = typer.Typer(rich_markup_mode=None), []

    @app.command()
    @opened
    def sweep(
        given: Annotated[Mapping[str, Any], Said(Everything)], names: Annotated[tuple[str, ...], Option("Names.")] = ("a",)
    ) -> None:
        """Sweep."""
        got.append((dict(given), names))

    result = CliRunner().invoke(app, words)
    return (*got[0], result.output) if got else ({}, (), result.output)


def test_only_what_was_said_counts_where_a_file_says_the_rest() -> None:
    given, names, _ = said("--head", "x", "--seed", "0", "--no-stack", "--seeds", "3+4", "--names", "b,c")
    assert given == {"head": "x", "seed": 0, "stack": False, "seeds": (3, 4)} and names == ("b", "c")
    assert said("--head", "x")[:2] == ({"head": "x"}, ("a",))


def test_what_has_to_be_given_stands_first_and_each_under_its_heading() -> None:
    fields = declared(Everything)
    assert list(fields)[:4] == ["head", "seeds", "stack", "own"]
    assert {*declared(Training), *declared(Split)} < set(fields)
    assert [fields[name].panel for name in ("seeds", "own", "corpus")] == ["Everything", "Other", None]


def test_a_dataclass_hands_on_what_it_is_made_of() -> None:
    whole = build(Everything, {"head": "x", "corpus": "emodb", "seeds": "1+2", "settings": ["a=b"], "seed": None})
    assert whole == Everything(head="x", corpus="emodb", seeds=(1, 2), settings={"a": "b"})
    assert Training(**shared(Training, whole)) == Training(head="x", settings={"a": "b"})
    assert fields_in_files("settings") == ("set", "settings") and fields_in_files("corpus") == ("corpus",)


def fields_in_files(name: str) -> tuple[str, ...]:
    return declared(Everything)[name].keys
