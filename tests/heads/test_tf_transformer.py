"""TF-Transformer: the shapes of the paper's section 2, its presets, and the shortcuts of its convolutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tfser.heads.models.blocks import TransformerLayer, dropout
from tfser.heads.models.layer_mix import build_module
from tfser.heads.models.tf_transformer import (
    HEAD,
    ConvEncoder,
    TFTransformer,
    TFTransformerConfig,
    pool,
)
from tfser.heads.spec.head import count_parameters
from tfser.manifests.errors import UsageError


@pytest.mark.parametrize(("preset", "count"), [("t_f", 91_180), ("t_tf", 193_592), ("f_tf", 193_592), ("full", 239_020)])
def test_parameter_counts_are_those_of_the_docstring(preset: str, count: int) -> None:
    assert count_parameters(build_module(HEAD, HEAD.preset(preset), 80, 4)) == count


def test_full_count_follows_from_the_papers_sizes() -> None:
    def encoder(kernel: int) -> int:
        return 64 * kernel + 64 * 64 * kernel + 4 * 64

    def layer(width: int, inner: int) -> int:
        attention = 4 * width * width + 3 * width  # no bias for the keys
        return attention + 4 * width + 2 * width * inner + inner + width

    maps = 2 * (80 * 20 + 20)
    total = 2 * encoder(5) + encoder(25) + 2 * layer(20, 512) + layer(20, 1024) + maps + 40 * 4 + 4
    assert count_parameters(build_module(HEAD, HEAD.preset("full"), 80, 4)) == total


def test_shapes_with_more_bands_than_frames() -> None:
    """Shapes of section 2 for f = 80 and d = 64: square ones would hide a forgotten transpose."""
    f, d = 80, 64
    model = TFTransformer(TFTransformerConfig(segment_frames=d), f, 7).eval()
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = tuple(output.shape)
            if name == "joint_layer":
                seen["q"], seen["k"], seen["v"] = (tuple(x.shape) for x in inputs)

        module.register_forward_hook(hook)

    for name in ("time", "time_layer", "to_query", "frequency", "frequency_layer", "to_key", "joint", "joint_layer"):
        note(name, model.get_submodule(name))
    assert model(torch.randn(3, d, f), torch.full((3,), d)).shape == (3, 7)
    assert seen == {
        "time": (3, f // 4, d),
        "time_layer": (3, d, f // 4),
        "to_query": (3, f // 4, d // 4),
        "frequency": (3, f, d // 4),
        "frequency_layer": (3, f, d // 4),
        "to_key": (3, d // 4, f // 4),
        "joint": (3, f // 4, d // 4),
        "q": (3, f // 4, d // 4),
        "k": (3, f // 4, d // 4),
        "v": (3, f // 4, d // 4),
        "joint_layer": (3, f // 4, d // 4),
    }
    assert model.classifier.in_features == d // 2


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((5, 1), (2, 1), (2, 0)), ((1, 5), (1, 2), (0, 2)), ((5, 5), (2, 2), (2, 2))],
)
def test_conv_encoder_equals_plain_layers(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    """Eq. 1, 4 and 7 by torch's own layers: values, gradients, running statistics, training and evaluation."""
    torch.manual_seed(0)
    ours = ConvEncoder(8, kernel, stride, padding).double()
    plain = nn.Sequential(
        nn.Conv2d(1, 8, kernel, stride, padding, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, kernel, stride, padding, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for mine, theirs in ((ours.first, 0), (ours.first_norm, 1), (ours.second, 3), (ours.second_norm, 4)):
            plain[theirs].load_state_dict(mine.state_dict())
    x = torch.randn(4, 24, 16, dtype=torch.float64) * 3 + 5
    for _ in range(2):
        y, expected = ours(x), plain(x[:, None]).mean(dim=1)
        torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)
        y.square().sum().backward()
        expected.square().sum().backward()
    pairs = {"first": 0, "first_norm": 1, "second": 3, "second_norm": 4}
    for name, place in pairs.items():
        mine, theirs = ours.get_submodule(name), plain[place]
        for (_, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
        for a, b in zip(mine.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x[:, None]).mean(dim=1), atol=1e-6, rtol=1e-6)


def test_attention_equals_torchs_own() -> None:
    torch.manual_seed(0)
    ours = TransformerLayer(20, 4, 32, 0.0).eval()
    theirs = nn.TransformerEncoderLayer(20, 4, 32, 0.0, batch_first=True).eval()
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(20), ours.value.bias]))
        theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
        for mine, other in ((ours.inner, theirs.linear1), (ours.outer, theirs.linear2)):
            other.load_state_dict(mine.state_dict())
    x = torch.randn(3, 7, 20)
    torch.testing.assert_close(ours(x, x, x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 333, requires_grad=True)
    y = dropout(x, rate)
    assert float((y == 0).double().mean()) == pytest.approx(rate, abs=0.004)
    assert float(y.detach().double().mean()) == pytest.approx(1.0, abs=0.01)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)


def test_dropout_of_nearly_all_leaves_some() -> None:
    y = dropout(torch.ones(1000, 100), 0.999)
    assert 0.9 < float(y.mean()) < 1.1


def test_pool_of_constant_rows_has_a_finite_gradient() -> None:
    y = torch.ones(2, 20, 20, requires_grad=True)
    pool(y).sum().backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()


def test_pool_is_mean_and_population_deviation() -> None:
    y = torch.randn(2, 20, 16)
    expected = torch.cat([y.mean(dim=1), y.std(dim=1, correction=0)], dim=-1)
    torch.testing.assert_close(pool(y), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"segment_frames": 72}, "multiple of 16"),
        ({"segment_frames": 0}, "multiple of 16"),
        ({"joint_heads": 3}, "joint_heads=3"),
        ({"heads": 3}, "heads=3"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"time": False, "frequency": False}, "at least two"),
        ({"channels": 0}, "channels=0"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        replace(TFTransformerConfig(), **changes)


def test_feature_widths_are_checked() -> None:
    for dim in (81, 82, 4):
        with pytest.raises(UsageError, match="feature width"):
            build_module(HEAD, HEAD.preset(), dim, 4)
    build_module(HEAD, HEAD.preset("f_tf"), 84, 4)  # 84 / 4 = 21 heads matter to the time Transformer only


def test_segments_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(80, 64\)"):
        build_module(HEAD, HEAD.preset(), 80, 4)(torch.zeros(1, 80, 64), torch.tensor([80]))
