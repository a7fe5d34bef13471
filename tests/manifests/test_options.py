"""Options declared once: the command line and the code below read the same fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tfser.manifests.commands.opening import opened
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option, declared, pairs


@dataclass(frozen=True, kw_only=True)
class Training:
    head: Annotated[str, Option("What to train.", metavar="NAME")]
    features: Annotated[tuple[str, ...], Option("Feature sets.", metavar="NAMES")] = ()
    settings: Annotated[Mapping[str, str], Option("A setting.", flag="--set", metavar="KEY=VALUE")] = field(default_factory=dict)
    seed: Annotated[int, Option("Random seed.", minimum=0)] = 0
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
    assert list(declared(Training)) == ["head", "features", "settings", "seed", "again", "reference"]
