"""The heads of TF-Mamba's Table I: their published sizes, and the parts that make each of them what it is."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tfser.heads import TABLE_ONE, head
from tfser.heads.models.blocks import positions, shift_frames, windowed_attention
from tfser.heads.models.dst import deform
from tfser.heads.models.dwformer import windows
from tfser.heads.models.layer_mix import build_module
from tfser.heads.models.mstr import pool_frames
from tfser.heads.spec.head import Network, count_parameters
from tfser.manifests.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"
ANY_WIDTH = [name for name in TABLE_ONE if not head(name).reads]

PUBLISHED = {
    ("shift_cnn", 768): 9.5,
    ("shift_lstm", 768): 9.5,
    ("shiftformer", 768): 9.5,
    ("shiftformer", 1024): 16.8,
    ("dwformer", 1024): 37.4,
    ("dst", 1024): 21.7,
    ("speechformer", 1024): 66.9,
    ("speechformer_pp", 1024): 66.9,
}


def build(name: str, dim: int, preset: str | None = None, hop_s: float = 0.02, **changes: str) -> nn.Module:
    spec = head(name)
    config = spec.preset(preset).with_settings(changes)
    return build_module(spec, spec.settled(config, hop_s=hop_s, longest=326, device="cpu"), dim, 4)


@cache
def counted(name: str, width: int) -> int:
    """Return how many parameters a head has at a width of the features."""
    with torch.device("meta"):  # nothing is drawn
        return count_parameters(build(name, width))


@pytest.mark.parametrize(("name", "width"), PUBLISHED)
def test_the_number_of_parameters_is_the_published_one_within_a_hundredth(name: str, width: int) -> None:
    spec = head(name)
    assert isinstance(spec, Network)
    assert spec.printed_parameters[width] == PUBLISHED[name, width]
    found = counted(name, width)
    assert found == pytest.approx(1e6 * PUBLISHED[name, width], rel=0.01)


def test_the_documented_counts_are_those_of_the_heads() -> None:
    """docs/methods.md: each head's row has its count, and the difference to the printed one, or a reason why there is none."""
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.strip(" |").split("|")] for line in text.splitlines() if line.startswith("  | `")]
    listed = [row for row in table if row[0].strip("`") in TABLE_ONE]
    assert {row[0].strip("`") for row in listed} == set(TABLE_ONE)
    for name, width, ours, printed, note in listed:
        name = name.strip("`")
        found = counted(name, int(width))
        assert f"{found:,}" == ours, name
        if (name, int(width)) in PUBLISHED:
            assert float(printed.removesuffix(" M")) == PUBLISHED[name, int(width)], name
            difference = found / PUBLISHED[name, int(width)] / 1e4 - 100
            assert note == f"{difference:+.1f} %".replace("-0.0", "0.0"), name
        else:
            assert not note.endswith("%") and len(note) > 10, name


def test_what_is_printed_is_said_once() -> None:
    said = {(name, width) for name in TABLE_ONE for width in head(name).printed_parameters}  # type: ignore[attr-defined]
    assert said == set(PUBLISHED)
    for name in TABLE_ONE:
        spec = head(name)
        assert isinstance(spec, Network) and bool(spec.printed_otherwise) != bool(spec.printed_parameters), name


@pytest.mark.parametrize("name", ANY_WIDTH)
def test_a_width_of_its_own_puts_a_linear_map_first(name: str) -> None:
    module = build(name, 24, width="16")
    frames, lengths = torch.randn(2, 40, 24), torch.tensor([40, 25])
    assert module.input.weight.shape == (16, 24) and module(frames, lengths).shape == (2, 4)  # type: ignore[union-attr]
    assert isinstance(build(name, 16).input, nn.Identity)


@pytest.mark.parametrize(("name", "width"), [("dwformer", 20), ("dst", 12), ("speechformer", 12), ("mstr", 12), ("ent", 15)])
def test_a_width_that_does_not_fit_has_a_way_out(name: str, width: int) -> None:
    with pytest.raises(UsageError, match=rf"{name}: .* must divide the width {width}; .*--width"):
        build(name, width)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", ANY_WIDTH)
def test_long_utterances_are_seen_to_their_end(name: str) -> None:
    """12 seconds: more words than SpeechFormer++ has tokens for, and longer than DST's span."""
    torch.manual_seed(0)
    module = build(name, 16).eval()
    frames, lengths = torch.randn(1, 600, 16), torch.tensor([600])
    with torch.no_grad():
        before = module(frames, lengths)
        frames[:, -3:] = torch.randn(1, 3, 16)
        assert torch.isfinite(before).all() and not torch.equal(module(frames, lengths), before)


@pytest.mark.parametrize("name", ANY_WIDTH)
def test_one_frame_is_an_utterance(name: str) -> None:
    module = build(name, 16)
    module(torch.randn(3, 5, 16), torch.tensor([1, 5, 2])).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    assert torch.isfinite(module.eval()(torch.randn(1, 1, 16), torch.tensor([1]))).all()


def test_a_shift_moves_each_part_by_one_frame_within_the_utterance() -> None:
    x = torch.arange(1.0, 11.0).view(1, 5, 2).repeat(1, 1, 2)  # (1, 5, 4)
    valid = torch.tensor([[True, True, True, True, False]])
    found = shift_frames(x, valid, 1, 1)
    assert found[0, :, 0].tolist() == [0.0, 1.0, 3.0, 5.0, 7.0]  # shows the frame before
    assert found[0, :4, 1].tolist() == [4.0, 6.0, 8.0, 0.0]  # the frame after; nothing of what is beyond the end
    assert torch.equal(found[0, :4, 2:], x[0, :4, 2:])


@given(window=st.integers(1, 12), tokens=st.integers(1, 20), length=st.integers(1, 20))
def test_attention_in_windows_is_masked_attention(window: int, tokens: int, length: int) -> None:
    length = min(length, tokens)
    q, k, v = torch.randn(3, 2, 2, tokens, 4, generator=torch.Generator().manual_seed(0))
    valid = (torch.arange(tokens) < length).expand(2, -1)
    near = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs() <= window // 2
    wanted = functional.scaled_dot_product_attention(q, k, v, near & valid[:, None, None])
    found = windowed_attention(q, k, v, valid, window)
    torch.testing.assert_close(found[:, :, :length], wanted[:, :, :length], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(found).all()


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
def test_windows_are_runs_and_a_lone_frame_joins_those_behind_it(strong: list[bool], padding: int) -> None:
    n = len(strong)
    given_ = torch.tensor([strong + [True] * padding])
    found = windows(given_, torch.arange(n + padding)[None] < n)[0, :n].tolist()
    begins = [True] * n  # a window begins where strength changes, unless the frame before began one alone
    for i in range(1, n):
        changes = strong[i] != strong[i - 1]
        begins[i] = changes and not (i > 1 and strong[i - 1] != strong[i - 2])
    assert found == list(itertools.accumulate(begins[1:], initial=0))


def test_a_deformed_window_is_the_one_that_the_formula_says() -> None:
    anchor, half = torch.tensor([[3.25]]), torch.tensor([[1.5]])  # from 1.75 to 4.75
    weight, seen = deform(anchor, half, 8)
    assert seen[0, 0].tolist() == [False, True, True, True, True, True, False, False]
    # 1; less 0.75 and 0.25 at the outermost frames; plus the nearness of the two frames beside the anchor.
    torch.testing.assert_close(weight[0, 0, 1:6], torch.tensor([0.25, 1.0, 1.75, 1.25, 0.75]))


def test_a_window_s_place_and_width_are_learned() -> None:
    anchor = torch.tensor([[3.3]], requires_grad=True)
    half = torch.tensor([[1.4]], requires_grad=True)
    (deform(anchor, half, 8)[0] * torch.arange(8.0)).sum().backward()
    assert anchor.grad is not None and half.grad is not None and anchor.grad.abs() > 0 and half.grad.abs() > 0


def test_the_heads_windows_begin_between_50_ms_and_a_second() -> None:
    layer = build("dst", 16).layers[0]  # type: ignore[index]
    _, half = layer._windows(torch.zeros(1, 10, 16))
    assert (2 * half[0, :, 0] * 0.02).tolist() == pytest.approx([0.05 + i * 0.95 / 7 for i in range(8)], rel=1e-3)


def test_stages_are_counted_in_their_own_tokens() -> None:
    spec = head("speechformer")

    def stages(hop_s: float) -> list[tuple[int, int]]:
        return spec.settled(spec.preset(), hop_s=hop_s, longest=1, device="cpu").stages()  # type: ignore[attr-defined]

    assert stages(0.02) == [(2, 2), (10, 6), (8, 4)] and stages(0.01) == [(5, 5), (8, 5), (8, 4)]
    assert all(window > 0 and merge > 0 for window, merge in stages(0.5))


def test_pooled_frames_are_means_of_those_that_there_are() -> None:
    x = torch.tensor([[[1.0], [3.0], [5.0], [99.0], [99.0]]])
    mean, there = pool_frames(x, torch.tensor([[True, True, True, False, False]]), 2)
    assert mean[0, :2, 0].tolist() == [2.0, 5.0] and there.tolist() == [[True, True, False]]


def test_positions_are_sinusoids() -> None:
    found = positions(50, 6, torch.device("cpu"))
    assert found[7, 2].item() == pytest.approx(math.sin(7 / 10_000 ** (2 / 6)), abs=1e-6)
    assert found[7, 3].item() == pytest.approx(math.cos(7 / 10_000 ** (2 / 6)), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("shift_cnn", {"kernel": "4"}, "odd"),
        ("shiftformer", {"shift": "1"}, "0, or 2 or more"),
        ("dst", {"widest_seconds": "20"}, "below 2 span_seconds"),
        ("dst", {"first_widths": "0.5"}, "one share a head"),
        ("speechformer", {"layers": "1,2"}, "one number more"),
        ("mstr", {"scales": ""}, "one number at least"),
        ("dwformer", {"strong": "1"}, "between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, settings: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        head(name).preset().with_settings(settings)


def ca_mser(**changes: str) -> nn.Module:
    return build("ca_mser", 888, **changes)


def test_ca_mser_takes_its_parts_apart() -> None:
    """Of the published 175 M 94.4 are the encoder's and 54.6 AlexNet's classifier's, whose result goes nowhere."""
    with torch.device("meta"):
        found = count_parameters(ca_mser())
    assert found == pytest.approx(25.7e6, rel=0.01)
    torch.manual_seed(0)
    module = ca_mser(segment_frames="12", image="63,63", lstm_units="4", dropout="0", lstm_dropout="0").eval()
    frames, lengths = torch.rand(1, 12, 888), torch.tensor([12])
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("convolutions", "lstm", "of_encoder"):
        getattr(module, name).register_forward_hook(lambda _, given, out, name=name: seen.update({name: tuple(given[0].shape)}))
    module(frames, lengths)
    assert seen == {"convolutions": (1, 1, 63, 63), "lstm": (1, 12, 40), "of_encoder": (1, 768)}
    with pytest.raises(UsageError, match="segments of 11 frames"):
        module(frames[:, :11], lengths - 1)
