"""Every registered head and preset meets the same tests; the reference heads have no network, and meet those of a fold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tfser.heads import HEADS, head
from tfser.heads.models.layer_mix import build_module
from tfser.heads.spec.fold import FoldData
from tfser.heads.spec.head import HeadSpec, Network
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.loop import TrainedState, fit, predict
from tfser.manifests.errors import UsageError

from .conftest import rated

CASES = [(name, preset) for name in HEADS if isinstance(head(name), Network) for preset in head(name).presets]
ALL = [(name, preset) for name in HEADS for preset in head(name).presets]
RATING = [(name, head(name).default_preset) for name in dict.fromkeys(name for name, _ in CASES)]
"""The default preset of each network."""
CLASSES = 4
DIM = 80
OFTEN = ("logreg", "svm", "probe", "mean_pool", "tf_mamba", "tf_transformer", "shift_lstm")
"""Whose trainings, of the default preset, are among the fast tests; all others are slow ones, what they compute is not."""


def trained(cases: Sequence[tuple[str, str]]) -> list[Any]:
    """Return cases of a test that trains, those of heads that are looked at less often marked slow."""
    often = {name: head(name).default_preset for name in OFTEN}
    return [pytest.param(*case, marks=() if case in often.items() else pytest.mark.slow, id="-".join(case)) for case in cases]


ATTENTION = {"heads": 2, "feed_forward": 16, "dropout": 0.0}
TINY: dict[str, dict[str, object]] = {
    "tf_transformer": {"segment_frames": 32, "channels": 16, "dropout": 0.0},
    **{name: {"width": 16} for name in ("shift_cnn", "shift_lstm", "shiftformer", "ent", "tent")},
    **{name: ATTENTION | {"width": 16, "hidden": (16,), "layers": 2} for name in ("dst", "mstr")},
    "dwformer": ATTENTION | {"width": 16, "hidden": (16,), "blocks": 2, "classifier_dropout": 0.0},
    **{
        name: ATTENTION | {"width": 16, "hidden": (16,), "layers": (1, 1, 1, 1), "classifier_dropout": 0.0}
        for name in ("speechformer", "speechformer_pp")
    },
    "ca_mser": {"lstm_units": 4, "hidden": 16, "dropout": 0.0, "lstm_dropout": 0.0},
}
"""Sizes at which a head learns in a second what these tests ask of it."""


RATES = {"ca_mser": 1e-3}  # no norm in it
ALWAYS: dict[str, dict[str, object]] = {"ca_mser": {"part_dims": (6, 5), "segment_frames": 12, "image": (63, 63)}}
"""What a head needs to take features of the widths below."""


def settled(spec: HeadSpec, preset: str, **changes: object) -> Settings:
    changes = ALWAYS.get(spec.name, {}) | changes
    return spec.settled(replace(spec.preset(preset), **changes), hop_s=0.01, longest=100, device="cpu")


def build(spec: HeadSpec, preset: str, dim: int = DIM, **changes: object) -> tuple[nn.Module, Settings]:
    config = settled(spec, preset, **changes)
    torch.manual_seed(0)
    return build_module(spec, config, dim, CLASSES), config


def batch(spec: HeadSpec, config: Settings, n: int = 5, dim: int = DIM, step: int = 7) -> tuple[Tensor, Tensor]:
    """Return frames and lengths as training would give them: all full for segments, ragged otherwise, ``step`` frames apart."""
    length = spec.segment_frames(config)
    generator = torch.Generator().manual_seed(1)
    if length is not None:
        return torch.randn(n, length, dim, generator=generator), torch.full((n,), length)
    lengths = torch.arange(n) * step + 12
    frames = torch.randn(n, int(lengths.max()), dim, generator=generator)
    beyond = torch.arange(frames.shape[1]) >= lengths[:, None]
    return frames.masked_fill(beyond[:, :, None], 0.0), lengths


@pytest.fixture(params=CASES, ids=[f"{name}-{preset}" for name, preset in CASES])
def case(request: pytest.FixtureRequest) -> tuple[HeadSpec, str]:
    name, preset = request.param
    return head(name), preset


def test_logits_have_one_column_a_class(case: tuple[HeadSpec, str]) -> None:
    module, config = build(*case)
    assert module(*batch(case[0], config)).shape == (5, CLASSES)


@pytest.mark.few(10)
def test_batch_mates_and_order_do_not_matter(case: tuple[HeadSpec, str]) -> None:
    module, config = build(*case)
    module.eval()
    frames, lengths = batch(case[0], config)
    with torch.no_grad():
        together = module(frames, lengths)
        alone = torch.cat([module(frames[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(len(frames))])
        backwards = module(frames.flip(0), lengths.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backwards, together, atol=1e-5, rtol=1e-5)


def test_padding_is_not_looked_at(case: tuple[HeadSpec, str]) -> None:
    module, config = build(*case)
    if case[0].inputs == "segments":
        pytest.skip("segments are never padded")
    module.eval()
    frames, lengths = batch(case[0], config)
    beyond = (torch.arange(frames.shape[1]) >= lengths[:, None])[:, :, None]
    with torch.no_grad():
        torch.testing.assert_close(module(torch.where(beyond, torch.tensor(99.0), frames), lengths), module(frames, lengths))


def test_every_parameter_gets_a_gradient(case: tuple[HeadSpec, str]) -> None:
    # So that utterances of a few frames have two tokens to attend to in the last stage.
    short = {"merges_ms": (20, 40, 80)} if case[0].name.startswith("speechformer") else {}
    module, config = build(*case, **short)
    module.train()
    logits = module(*batch(case[0], config))
    nn.functional.cross_entropy(logits, torch.arange(5) % CLASSES).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-9, name


@pytest.mark.few(2)
@pytest.mark.parametrize(("name", "preset"), trained(CASES))
def test_one_batch_can_be_learnt_by_heart(name: str, preset: str) -> None:
    spec = head(name)
    module, config = build(spec, preset, 32, **TINY.get(spec.name, {}))
    frames, lengths = batch(spec, config, 12, 32, step=1)
    labels = torch.arange(12) % CLASSES
    rate = RATES.get(spec.name, 1e-2 if "width" in TINY.get(spec.name, {}) else 3e-3)
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    for _ in range(400):
        module.train()
        loss = nn.functional.cross_entropy(module(frames, lengths), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.05:
            break
    module.eval()
    assert (module(frames, lengths).argmax(dim=1) == labels).all()


@pytest.mark.few(12)
def test_saved_and_loaded_logits_are_identical(case: tuple[HeadSpec, str], tmp_path: Path) -> None:
    module, config = build(*case)
    frames, lengths = batch(case[0], config)
    module(frames, lengths)  # moves the running statistics, if there are any
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(5)
    other = build_module(case[0], config, DIM, CLASSES)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other.eval()(frames, lengths), module.eval()(frames, lengths))


@pytest.mark.few(5)
def test_bfloat16_autocast_runs(case: tuple[HeadSpec, str]) -> None:
    module, config = build(*case)
    frames, lengths = batch(case[0], config)
    module.eval()
    with torch.no_grad():
        exact = module(frames, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            rough = module(frames, lengths)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_widths_that_do_not_fit_are_named(name: str, preset: str) -> None:
    with pytest.raises(UsageError, match="width"):
        head(name).check(settled(head(name), preset), 0)


@pytest.mark.few(4)
@pytest.mark.parametrize(("name", "preset"), trained(ALL))
def test_a_fold_is_trained_saved_and_predicted_alike(name: str, preset: str, fold: FoldData, tmp_path: Path) -> None:
    """The whole way of a run: two epochs at most, one selection at least, and the saved state gives the stored predictions."""
    spec = head(name)
    small = TINY.get(name, {}) | ({"segment_frames": 16, "channels": 4} if name == "tf_transformer" else {})
    config = settled(spec, preset, **small)
    recipe = Recipe(epochs=2, batch_size=8)
    fold = fold if "classes" in spec.learns else rated(fold)
    first, again = (fit(fold, spec=spec, config=config, recipe=recipe, seed=0) for _ in range(2))
    save_file(first.states["last"], tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    found = predict(
        TrainedState(state=state, spec=spec, config=config, recipe=recipe, n_classes=len(fold.classes), targets=fold.targets),
        fold.features,
        utterances=fold.test[::-1].copy(),
    )
    test = first.selections["last"].test
    assert test is not None and test.utterance.tolist() == fold.test.tolist()
    for key, values in vars(test).items():
        np.testing.assert_array_equal(getattr(found, key), values)
        np.testing.assert_array_equal(vars(again.selections["last"].test)[key], values)
    if fold.targets:
        assert ((test.utterance_probabilities >= 0) & (test.utterance_probabilities <= 1)).all()
    else:
        np.testing.assert_allclose(test.utterance_probabilities.sum(axis=1), 1, atol=1e-5)
    assert first.parameters > 0 and np.isfinite(first.history[-1].loss)


@pytest.mark.parametrize(("name", "preset"), trained(RATING))
def test_every_network_learns_dimensions(name: str, preset: str, fold: FoldData) -> None:
    """The classifier's last layer has an output a dimension; the loss comes down, and a state predicts what was stored."""
    spec = head(name)
    small = TINY.get(name, {}) | ({"segment_frames": 16, "channels": 4} if name == "tf_transformer" else {})
    config, recipe, of = settled(spec, preset, **small), Recipe(epochs=2, batch_size=8), rated(fold)
    found = fit(of, spec=spec, config=config, recipe=recipe, seed=0)
    test = found.selections["last"].test
    assert test is not None and test.utterance_probabilities.shape == (6, 2)
    assert found.history[-1].val_UA is None and found.history[-1].test_CCC is not None
    trained = TrainedState(state=found.states["last"], spec=spec, config=config, recipe=recipe, n_classes=0, targets=of.targets)
    again = predict(trained, of.features, utterances=of.test)
    np.testing.assert_array_equal(again.utterance_probabilities, test.utterance_probabilities)


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_recipes_and_presets_share_no_setting_s_name(name: str, preset: str) -> None:
    """`--set name=value` would mean the recipe's."""
    assert not set(Recipe().to_dict()) & set(head(name).preset(preset).to_dict())


@pytest.mark.parametrize("name", HEADS)
def test_specification_is_whole(name: str) -> None:
    spec = head(name)
    assert spec.name == name
    assert spec.default_preset in spec.presets
    assert spec.default_recipe in spec.recipes
    assert spec.features
    for config in spec.presets.values():
        assert type(config).from_dict(config.to_dict()) == config
    for recipe in spec.recipes.values():
        assert type(recipe).from_dict(recipe.to_dict()) == recipe
        assert recipe.summary


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown head 'tf_transformers'; did you mean 'tf_transformer'"):
        head("tf_transformers")
    with pytest.raises(UsageError, match=r"unknown preset of mean_pool 'big'; Known: linear, mlp"):
        head("mean_pool").preset("big")
    with pytest.raises(UsageError, match="unknown recipe of tf_transformer"):
        head("tf_transformer").recipe("secret")


def test_importing_the_package_imports_no_torch() -> None:
    code = "import tfser.heads, tfser.heads.spec.recipes, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
