"""Sweeps in TOML files: what they may say, and that a slip is told by its name and place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfser.heads.runs.plan import expand
from tfser.heads.runs.request import HeadBlock, SweepRequest, Training
from tfser.heads.runs.sweep_file import _kind_of, asked, read_sweep
from tfser.manifests.errors import UsageError
from tfser.manifests.options import declared
from tfser.manifests.splits.split import Split


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


def test_a_file_says_all_that_options_do(file: Path) -> None:
    file.write_text("""
        corpus = "emodb"
        protocol = "emodb7-speaker"
        validation = "next-group"
        fold = "1-3"
        features = ["logmel", "wavlm-large"]
        seeds = "0-2"
        device = "cpu"
        reference = false
        set = { lr = 1e-3, tf_mamba.width = 64 }

        [[head]]
        name = "tf_transformer"
        presets = ["full", "t_f"]
        recipe = "robust"
        epochs = 20
        set = { jitter = false, betas = [0.9, 0.99] }

        [[head]]
        name = "tf_mamba"
        preset = "all"
        seeds = 7
        features = "logmel"
    """)
    assert read_sweep(file) == SweepRequest(
        corpus="emodb",
        protocol="emodb7-speaker",
        validation="next-group",
        folds="1-3",
        features=("logmel", "wavlm-large"),
        seeds=(0, 1, 2),
        device="cpu",
        reference=False,
        settings={"lr": "0.001", "tf_mamba.width": "64"},
        heads=(
            HeadBlock(
                name="tf_transformer",
                presets=("full", "t_f"),
                recipes=("robust",),
                epochs=20,
                settings={"jitter": "false", "betas": "0.9,0.99"},
            ),
            HeadBlock(name="tf_mamba", presets=("all",), seeds=(7,), features=("logmel",)),
        ),
    )


def test_defaults_may_have_a_table_of_their_own(file: Path) -> None:
    file.write_text('[defaults]\nseeds = [0, 2]\nfolds = 3\n[[head]]\nname = "mean_pool"\n')
    assert read_sweep(file) == SweepRequest(seeds=(0, 2), folds="3", heads=(HeadBlock(name="mean_pool"),))


HEAD = '[[head]]\nname = "mean_pool"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'featurs = "logmel"\n{HEAD}', "my.toml, defaults: unknown key 'featurs'; did you mean 'features'?"),
        (f"{HEAD}epoch = 3", "my.toml, [[head]] 1 (mean_pool): unknown key 'epoch'; did you mean 'epochs'?"),
        (f"{HEAD}\n{HEAD}corpus = 'x'", "[[head]] 2 (mean_pool): unknown key 'corpus'; known: epochs, features"),
        ("[[heads]]\nname = 'mean_pool'", "defaults: unknown key 'heads'; did you mean 'head'?"),
        ("[[head]]\nnam = 'mean_pool'", "[[head]] 1: unknown key 'nam'; did you mean 'name'?"),
        ("[[head]]\npreset = 'mlp'", "[[head]] 1: say name = ..."),
        ("[head]\nname = 'mean_pool'", "write heads as blocks: [[head]]"),
        ("seeds = 1", "no head: write a block [[head]]"),
        (f"{HEAD}epochs = '3'", "[[head]] 1 (mean_pool), epochs: '3'; write a whole number above 0"),
        (f"{HEAD}epochs = 0", "write a whole number above 0"),
        (f"{HEAD}seeds = 'x'", "seeds: seeds x: write a number"),
        (f"{HEAD}seeds = [1.5]", "seeds: [1.5]; write a number, a list of numbers"),
        (f"{HEAD}seeds = -1", "seeds: -1; write a number"),
        (f"{HEAD}presets = [1]", "presets: [1]; write a name or a list of names"),
        (f"{HEAD}set = 3", "set: 3; write a table"),
        (f"{HEAD}set = {{ lr = 1979-05-27 }}", "set.lr: datetime.date(1979, 5, 27); write a text, a number"),
        (f"reference = 'no'\n{HEAD}", "defaults, reference: 'no'; write true or false"),
        (f"preset = 'a'\npresets = 'b'\n{HEAD}", "presets stands twice"),
        (f"seeds = 1\n[defaults]\nseeds = 2\n{HEAD}", "seeds stands twice, above all tables and in [defaults]"),
        ("seeds = ", "no TOML"),
    ],
)
def test_slips_are_named_with_their_place(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_sweep(file)
    assert expected in str(error.value) and str(file) in str(error.value)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_sweep(file)


def test_options_stand_before_the_defaults_and_behind_the_blocks(file: Path) -> None:
    file.write_text(
        "seeds = 1\nepochs = 9\nset = { lr = 0.1, jitter = true }\nreference = false\n"
        '[[head]]\nname = "mean_pool"\nseeds = 5\n[[head]]\nname = "tf_mamba"\n'
    )
    request = asked(file, [], {"seeds": (0, 1), "epochs": 2, "settings": {"lr": "0.2"}})
    assert (request.seeds, request.epochs, request.features, request.device) == ((0, 1), 2, (), "auto")
    assert request.settings == {"lr": "0.2", "jitter": "true"} and request.reference is False
    assert [block.seeds for block in request.heads] == [(5,), ()]
    assert [block.name for block in asked(file, ["tf_mamba"], {}).heads] == ["tf_mamba"]
    with pytest.raises(UsageError, match="did you mean 'tf_mamba'"):
        asked(file, ["tf_mambo"], {})
    file.write_text('[[head]]\nname = "svm"\n[[head]]\nname = "svm"\nset = { C = 2 }\n')
    with pytest.raises(UsageError, match=r"Known: svm$"):
        asked(file, ["logreg"], {})


def test_without_a_file_options_are_all(file: Path) -> None:
    request = asked(None, ["mean_pool"], {"presets": ("mlp",), "seeds": (3,), "allow_leaks": True})
    assert request == SweepRequest(heads=(HeadBlock(name="mean_pool"),), presets=("mlp",), seeds=(3,), allow_leaks=True)


@pytest.mark.parametrize("kind", [SweepRequest, HeadBlock])
def test_every_option_of_a_sweep_is_a_key_of_its_file(file: Path, kind: type) -> None:
    """There is one list of them: the fields."""
    samples = {"switch": ("true", True), "number": ("7", 7), "names": ('["a", "b"]', ("a", "b")), "text": ('"some"', "some")}
    samples |= {"settings": ("{ lr = 0.5 }", {"lr": "0.5"}), "numbers": ("[1, 2]", None)}
    tried = 0
    for name, field in declared(kind).items():
        written, read = samples[_kind_of(field)]
        for key in field.keys:
            if (kind, name) == (HeadBlock, "name"):
                continue
            lines = [f"{key} = {written}", "[[head]]", "name = 'svm'"]
            file.write_text("\n".join(lines if kind is SweepRequest else [*lines[1:], lines[0]]))
            request = read_sweep(file)
            got = getattr(request if kind is SweepRequest else request.heads[0], name)
            assert got == (((1, 2) if name == "seeds" else "1,2") if read is None else read), key
            tried += 1
    assert tried > 8


def test_what_every_training_can_be_asked_reaches_every_request() -> None:
    """A field that is added to `Training` or `Split` needs no second line to get from a sweep to its runs."""
    changed: dict[str, Any] = {"folds": "2", "epochs": 3, "device": "cpu", "labels": "common4"}
    for kind in (Training, Split):
        for name, field in declared(kind).items():
            changed.setdefault(name, not field.default if field.is_switch else f"some {name}")
    request = SweepRequest(heads=(HeadBlock(name="mean_pool"),), **changed)
    (planned,) = expand(request)
    for name, value in changed.items():
        assert getattr(planned.request, name) == value, name
