"""What is drawn of the inside of heads is what they compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tfser.heads.models.tf_mamba import TFMamba, TFMambaConfig
from tfser.heads.models.tf_transformer import TFTransformer, TFTransformerConfig
from tfser.heads.reports import paper_drawing, style
from tfser.heads.reports.inside_data import Watched, _attended, attention, tokens
from tfser.heads.reports.paper_data import CostPoint
from tfser.manifests.errors import UsageError

ABOUT = {"utterance_id": "u1", "label": "anger", "predicted": "fear"}


def _watched(model: torch.nn.Module, frames: int, width: int) -> Watched:
    torch.manual_seed(1)
    given = torch.randn(1, frames, width)
    return Watched(
        about={"run_id": "r", "preset": "p"}, model=model.eval(), frames=given, lengths=torch.tensor([frames]),
        raw=given[0].numpy(), hop_s=0.01, utterance=ABOUT,
    )  # fmt: skip


def _mamba(**changes: Any) -> TFMamba:
    torch.manual_seed(0)
    config = TFMambaConfig(max_frames=40, state=4, hidden=(8,), attention_heads=2, scan="reference", **changes)
    return TFMamba(config, 16, 3)


def test_a_filter_that_keeps_all_changes_no_spectrum() -> None:
    model = _mamba()
    layer = model.block.branches[1].filter  # type: ignore[union-attr, index]
    with torch.no_grad():
        layer.threshold.fill_(-50.0)
    view = tokens(_watched(model, 30, 16))
    assert view.unfiltered is not None
    assert view.filtered is not None
    assert view.kept is not None
    assert view.filtered == pytest.approx(view.unfiltered)
    assert (view.kept == 1).all()
    assert view.unfiltered[1:].mean() == pytest.approx(1)  # in units of the mean above 0 Hz
    assert view.threshold == pytest.approx((np.exp(-50.0),) * 3)
    with torch.no_grad():
        layer.threshold.fill_(50.0)
    nothing = tokens(_watched(model, 30, 16))
    assert nothing.filtered is not None
    assert (nothing.filtered == 0).all()


def test_token_intensities_are_of_the_convolution() -> None:
    model = _mamba()
    watched = _watched(model, 30, 16)
    branch = model.block.branches[0]  # type: ignore[union-attr]
    view = tokens(watched)
    valid = torch.ones(1, 30, dtype=torch.bool)
    with torch.inference_mode():
        x = model.attention(watched.frames, watched.frames, watched.frames, valid)  # type: ignore[misc]
        projected = branch.in_proj(model.block.norm(x)).split(branch.sizes, dim=-1)[1]  # type: ignore[union-attr, operator]
    wanted = projected[0].square().mean(dim=-1).sqrt().numpy()
    assert view.before == pytest.approx(wanted, rel=1e-5)
    assert view.after is not None
    assert len(view.after) == len(view.seconds) == 30


def test_what_a_filter_leaves_is_drawn_to_its_bottom_but_for_next_to_nothing() -> None:
    plain = tokens(_watched(_mamba(), 30, 16))
    assert plain.unfiltered is not None
    lowest = 10 * np.log10(plain.unfiltered.min())
    for share, shown in ((0.1, -10.0), (1e-6, -20.0)):
        view = replace(plain, filtered=plain.unfiltered * share, threshold=(plain.unfiltered.min(),) * 3)
        with style.house_style():
            bottom = paper_drawing.tokens(view, 7.0).axes[1].get_ylim()[0]
        assert bottom == pytest.approx(lowest + shown - 2)


def test_legends_stay_within_their_axes_at_the_width_of_a_column() -> None:
    view = tokens(_watched(_mamba(), 30, 16))
    with style.house_style():
        for width in style.COLUMN_INCHES.values():
            figure = paper_drawing.tokens(view, width)
            figure.draw_without_rendering()
            for ax in figure.axes:
                legend = ax.get_legend()
                assert legend is not None
                inside, drawn = ax.get_window_extent(), legend.get_window_extent()
                assert inside.x0 <= drawn.x0 and drawn.x1 <= inside.x1


def test_names_of_bubbles_that_lie_upon_each_other_do_not() -> None:
    """Two heads of one cost and score: their names stand in a legend within the figure, with a colour and shape each."""
    same: dict[str, Any] = {"parameters": 59_000, "milliseconds": 2.1, "score": 0.91, "low": 0.86, "high": 0.94, "conditions": ""}
    points = [CostPoint(name=f"head {i}", **same) for i in range(12)]
    with style.house_style():
        for width in style.COLUMN_INCHES.values():
            figure = paper_drawing.cost(points, width)
            figure.draw_without_rendering()
            (legend,) = figure.legends
            inside, boxes = figure.bbox, [text.get_window_extent() for text in legend.get_texts()]
            assert len(boxes) == 12
            assert all(inside.x0 <= of.x0 and of.x1 <= inside.x1 and inside.y0 <= of.y0 for of in boxes)
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_preset_without_branches_is_refused() -> None:
    with pytest.raises(UsageError, match="no branch"):
        tokens(_watched(_mamba(branches=()), 30, 16))


def test_attention_is_that_of_the_layers() -> None:
    """What is watched, put through the layer's last map, is what the layer itself attends."""
    torch.manual_seed(0)
    model = TFTransformer(TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint_feed_forward=8), 16, 3).eval()
    layer = model.joint_layer
    q, k, v = (torch.randn(2, 4, 4) for _ in range(3))
    with torch.inference_mode():
        weights, gathered = _attended(layer, q, k, v)
        assert torch.allclose(layer.out(gathered), layer._attend(q, k, v, None), atol=1e-6)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


def test_every_frame_of_an_utterance_has_its_attention() -> None:
    torch.manual_seed(0)
    config = TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint_feed_forward=8)
    view = attention(_watched(TFTransformer(config, 16, 3), 37, 16))
    assert view.borders == pytest.approx((0.16, 0.32))
    assert view.time is not None
    assert view.frequency is not None
    assert view.joint is not None
    assert view.time.shape == (37,)
    assert view.frequency.shape == view.joint.shape == view.logmel.shape == (16, 37)
    for of in (view.time[:16], view.frequency[:, :16], view.joint[:, :16]):
        assert of.min() == 0
        assert of.max() == 1
    torch.manual_seed(0)
    partly = attention(_watched(TFTransformer(TFTransformerConfig(segment_frames=16, channels=4, joint=False), 16, 3), 20, 16))
    assert partly.joint is None
    with style.house_style():
        for width in style.COLUMN_INCHES.values():
            titles = [ax.get_title(loc="left") for ax in paper_drawing.attention(partly, width).axes]
            assert "(c) frequency attention" in titles
            assert not any("time-frequency" in title for title in titles)
