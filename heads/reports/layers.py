"""The drawing of scores by layer: rows of `tfser.heads.results.layer_choice` in, a Matplotlib figure out.

Every layer has its pooled UA on the test speakers with the interval, and beside it, hollow, its UA on the validation speakers,
which choose. What is no layer is a line across: the choice, the learned mix, all layers together. How often a layer was chosen
stands above the axis. Colours are told apart by any eye and stand beside shapes and dashes. Nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfser.heads.reports.style import BLUE, COLUMN_INCHES, FAINT, GREEN, INK, ORANGE, VERMILION, legend_outside, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERS_AN_INCH = 3.8
"""Layers that can be named along an inch of a figure's width."""

_ACROSS = {"chosen": (VERMILION, "-"), "learned mix": (GREEN, "--"), "all side by side": (FAINT, ":")}
"""What is drawn as a line across, its colour and its dashes."""


def layers_figure(rows: Sequence[Mapping[str, Any]], width: float = COLUMN_INCHES["one"]) -> Figure:
    """Draw UA by layer; of dimensions, the mean CCC.

    Call it, and save what it returns, in `tfser.heads.reports.style.house_style`.

    Args:
        rows: of one encoder, as `layer_choice` has them or as the command's JSON holds them.
        width: in inches.
    """
    figure = new_figure(width, 1.9 + 0.3 * width)
    ax: Axes = figure.subplots()
    layers = [row for row in rows if row["layer"] is not None]
    metric, scale, unit = ("CCC", 1, "") if "pooled_CCC" in rows[0] else ("UA", 100, " (%)")
    layers = [row for row in layers if row[f"pooled_{metric}"] is not None]
    # The mix and the nested choice lie behind, as lines across; then each layer with its interval, and validation beside it.
    _across(ax, rows, metric, scale)
    numbers = [row["layer"] for row in layers]
    scores = [scale * row[f"pooled_{metric}"] for row in layers]
    for row in layers:
        if row[f"pooled_{metric}_low"] is not None:
            ends = [scale * row[f"pooled_{metric}_low"], scale * row[f"pooled_{metric}_high"]]
            ax.plot([row["layer"]] * 2, ends, color=BLUE, linewidth=2.2, alpha=0.45, solid_capstyle="butt")
    ax.plot(numbers, scores, "o-", color=BLUE, markersize=4.5, label="test speakers, 95 % interval")
    val = f"validation_{metric}"
    validated = [(row["layer"], scale * row[val]) for row in layers if row[val] is not None]
    if validated:
        x, y = zip(*validated, strict=True)
        ax.plot(x, y, "s:", color=ORANGE, markersize=4, markerfacecolor="none", label="validation speakers, mean over folds")
    # 25 layers in one column of a paper leave a number about as much room as it takes: only every so many-th is named.
    crowded = len(numbers) > _NUMBERS_AN_INCH * width
    _times(ax, layers, crowded)
    ax.set_xticks(numbers[:: math.ceil(len(numbers) / (_NUMBERS_AN_INCH * width))])
    ax.set_xticks(numbers, minor=True)
    ax.set_xlabel(f"layer of {_encoder(layers)} (0: its input)")
    ax.set_ylabel(f"{metric} of {layers[0]['head']}{unit}")
    ax.grid(axis="y")
    ax.margins(y=0.14)
    legend_outside(figure, "outside lower center", ncols=1 if width < 5 else 2, handlelength=2.4)
    return figure


def _across(ax: Axes, rows: Sequence[Mapping[str, Any]], metric: str, scale: float) -> None:
    """Draw what is no layer as lines across, each with its score in the legend."""
    for row in rows:
        if row["layer"] is None and row["what"] in _ACROSS and row[f"pooled_{metric}"] is not None:
            level = scale * row[f"pooled_{metric}"]
            color, dashes = _ACROSS[row["what"]]
            words = "chosen by validation speakers, fold by fold" if row["what"] == "chosen" else f"{row['what']} ({row['head']})"
            ax.axhline(
                level,
                color=color,
                linestyle=dashes,
                linewidth=1,
                zorder=1,
                label=f"{words}: {level:.1f}" if metric == "UA" else f"{words}: {level:.3f}",
            )


def _times(ax: Axes, layers: Sequence[Mapping[str, Any]], crowded: bool) -> None:
    """Write how many folds chose each layer along the top: `4×`, where the layers are crowded 4."""
    if any(row["chosen_in"] for row in layers):
        for row in layers:
            if row["chosen_in"]:
                ax.text(
                    row["layer"],
                    0.98,
                    f"{row['chosen_in']}{'' if crowded else '×'}",
                    transform=ax.get_xaxis_transform(),
                    ha="center",
                    va="top",
                    color=INK,
                    fontsize=6 if crowded else 7,
                )
        ax.set_title(f"{'above' if crowded else '×'}: how many folds chose the layer", fontsize=7, color=INK)


def _encoder(layers: Sequence[Mapping[str, Any]]) -> str:
    return str(layers[0]["features"]).partition("/")[0]
