"""The figures of papers: cost, tokens and spectra, attention, embeddings, features. Values in, a Matplotlib figure out.

Each takes what `tfser.heads.reports.inside_data` or `paper_data` gives and a width in inches. Nothing is computed here but
decibels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfser.heads.reports.drawing import short_text
from tfser.heads.reports.inside_data import AttentionView, TokenView, described
from tfser.heads.reports.paper_data import CostPoint, Embedded, FeatureView
from tfser.heads.reports.style import BLUE, CYCLE, FAINT, INK, MARKERS, ORANGE, VERMILION, legend_outside, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMES = 14
"""Of a legend; what comes after it shares a colour and is counted."""

_TINY = 1e-12


def cost(points: Sequence[CostPoint], width: float) -> Figure:
    """Draw score by latency, a bubble an experiment as large as its head has parameters (TF-Mamba, Fig. 3)."""
    columns = 1 if width < 5 else 2
    figure = new_figure(width, min(width, 3.2) + 0.16 * -(-len(points) // columns))
    ax = figure.subplots()
    most = max(point.parameters for point in points)
    for i, point in enumerate(points):
        # A colour that comes again has another shape, so that names may stand below, where none lies over another.
        colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i // len(CYCLE) % len(MARKERS)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "alpha": 0.55, "linewidth": 0.8, "edgecolor": INK}
        if point.low is not None and point.high is not None:
            ax.plot([point.milliseconds] * 2, [100 * point.low, 100 * point.high], color=colour, linewidth=1, alpha=0.6)
        ax.scatter(point.milliseconds, 100 * point.score, s=30 + 700 * point.parameters / most, **look)
        ax.scatter([], [], s=30, label=f"{short_text(point.name, 34)}, {_millions(point.parameters)}", **look)
    legend_outside(figure, "outside lower center", ncols=columns, handletextpad=0.2)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.margins(0.2, 0.15)
    ax.set_xlabel("latency of an utterance (ms)")
    ax.set_ylabel("pooled UA (%), 95 % interval")
    ax.set_title("area: parameters")
    ax.grid()
    return figure


def _millions(n: int) -> str:
    """Return a number of parameters in a few letters.

    >>> _millions(20_790_000), _millions(4_321)
    ('20.79 M', '4.3 k')
    """
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n / 1e3:.1f} k"


def tokens(view: TokenView, width: float) -> Figure:
    """Draw token intensities before and after the temporal module, spectra before and after the filter (TF-Mamba, Fig. 4)."""
    parts = [part for part, there in (("time", view.before), ("frequency", view.unfiltered)) if there is not None]
    figure = new_figure(width, 0.5 + 2.1 * len(parts))
    axes = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    for ax, part in zip(axes, parts, strict=True):
        if part == "time":
            _intensities(ax, view)
        else:
            _filtered(ax, view, columns=3 if width > 5 else 2)
    figure.suptitle(short_text(described(view.utterance), 70), x=0.01, ha="left", fontsize=8)
    return figure


def _intensities(ax: Axes, view: TokenView) -> None:
    assert view.before is not None and view.after is not None
    ax.plot(view.seconds, view.before, color=FAINT, label="before")
    ax.plot(view.seconds, view.after, color=BLUE, label="after the temporal module")
    ax.set_xlabel("time (s)")
    ax.set_ylabel("token intensity (rms)")
    ax.set_xlim(0, view.seconds[-1])
    ax.set_ylim(0, 1.25 * max(view.before.max(), view.after.max()))
    ax.grid()
    ax.legend(loc="upper right", ncols=2)


def _filtered(ax: Axes, view: TokenView, *, columns: int) -> None:
    assert view.hertz is not None and view.unfiltered is not None and view.filtered is not None and view.threshold is not None
    ax.plot(view.hertz, _decibels(view.unfiltered), color=FAINT, label="before")
    kept = np.where(view.filtered > _TINY, _decibels(view.filtered), np.nan)
    ax.plot(view.hertz, kept, color=BLUE, label="after the filter")
    low, middle, high = view.threshold
    if view.kind == "power":
        ax.axhspan(_decibels(low), _decibels(high), color=VERMILION, alpha=0.18, linewidth=0)
        ax.axhline(_decibels(middle), color=VERMILION, linestyle="--", linewidth=1, label="learned threshold")
    else:
        ax.axvspan(low, high, color=VERMILION, alpha=0.18, linewidth=0)
        ax.axvline(middle, color=VERMILION, linestyle="--", linewidth=1, label="learned cut-off")
    finite = _decibels(view.unfiltered)
    shown = min(finite.min(), _decibels(low) if view.kind == "power" else finite.min())
    # What the filter leaves is shown as far as 20 dB below that: next to nothing would press all else together.
    lowest = max(min(shown, np.nanmin(kept, initial=shown)), shown - 20) - 2
    # The legend stands above the curves; in a narrow figure it takes two lines.
    ax.set_ylim(lowest, finite.max() + (0.2 if columns > 2 else 0.4) * (finite.max() - lowest))
    ax.set_xlim(0, view.hertz[-1])
    ax.set_xlabel("frequency along the frames (Hz)")
    ax.set_ylabel("mean power (dB)")
    ax.grid()
    ax.legend(loc="upper right", ncols=columns)


def _decibels(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, _TINY))


def attention(view: AttentionView, width: float) -> Figure:
    """Draw the log-Mel spectrogram, and over it what each module attends to (TF-Transformer, Fig. 3)."""
    f, n = view.logmel.shape
    extent = (0.0, n * view.hop_s, 0.0, float(f))
    time = None if view.time is None else np.tile(view.time[None, :], (f, 1))
    # Modules that the head lacks have no map; the spectrogram comes first, so that each map is read against it.
    maps = [("log-Mel spectrogram", None), ("time attention", time), ("frequency attention", view.frequency),
            ("time-frequency attention", view.joint)]  # fmt: skip
    shown = [(title, weights) for title, weights in maps if weights is not None or title == "log-Mel spectrogram"]
    beside = width > 5
    shape = (-(-len(shown) // 2), 2) if beside else (len(shown), 1)
    figure = new_figure(width, 0.5 + 1.75 * shape[0])
    axes = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True).ravel()
    image = None
    for i, (ax, (title, weights)) in enumerate(zip(axes, shown, strict=False)):
        picture = ax.imshow(view.logmel, origin="lower", aspect="auto", extent=extent, cmap="gray_r", interpolation="nearest")
        if weights is not None:
            image = ax.imshow(weights, origin="lower", aspect="auto", extent=extent, cmap="viridis", vmin=0, vmax=1, alpha=0.62,
                              interpolation="nearest")  # fmt: skip
        else:
            figure.colorbar(picture, ax=ax, label="ln power", pad=0.01)
        for border in view.borders:
            ax.axvline(border, color=ORANGE, linewidth=0.6, linestyle=":")
        ax.set_title(f"({'abcd'[i]}) {title}")
        if ax.get_subplotspec().is_last_row():
            ax.set_xlabel("time (s)")
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("Mel band")
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    # One bar for all maps: weights of different modules are on one scale.
    if image is not None:
        figure.colorbar(image, ax=list(axes[1 : len(shown)]), label="weight in its segment", pad=0.01)
    figure.suptitle(short_text(described(view.utterance), 70), x=0.01, ha="left", fontsize=8)
    return figure


def embedding(embedded: Embedded, width: float) -> Figure:
    """Draw utterances in a plane, coloured by class and, beside it, by speaker."""
    beside = width > 5
    figure = new_figure(width, 3.4 if beside else 6.6)
    axes = figure.subplots(1, 2) if beside else figure.subplots(2, 1)
    for ax, title, names in ((axes[0], "class", embedded.labels), (axes[1], "speaker", embedded.speakers)):
        _scatter(ax, embedded, names)
        ax.set_title(f"by {title}")
        if embedded.explained is not None:
            ax.set_xlabel(f"principal component 1 ({100 * embedded.explained[0]:.0f} % of variance)")
            ax.set_ylabel(f"principal component 2 ({100 * embedded.explained[1]:.0f} %)")
        else:
            called = {"tsne": "t-SNE", "umap": "UMAP"}[embedded.method]
            ax.set_xlabel(f"{called} 1 (no unit)")
            ax.set_ylabel(f"{called} 2 (no unit)")
    title = f"{embedded.feature_set}, mean over frames, {len(embedded.labels):,} utterances"
    figure.suptitle(title, x=0.01, ha="left", fontsize=8)
    return figure


def _scatter(ax: Axes, embedded: Embedded, names: Sequence[str]) -> None:
    every = sorted(set(names), key=lambda name: (-names.count(name), name))
    shown, rest = every[:_MOST_NAMES], every[_MOST_NAMES:]
    for i, name in enumerate(shown):
        members = np.array([n == name for n in names])
        marker = MARKERS[(i + i // len(CYCLE)) % len(MARKERS)]  # colours come again, with other shapes
        ax.scatter(embedded.places[members, 0], embedded.places[members, 1], s=9, color=CYCLE[i % len(CYCLE)], marker=marker,
                   linewidth=0, alpha=0.75, label=short_text(name, 14))  # fmt: skip
    if rest:
        members = np.array([n in set(rest) for n in names])
        places = embedded.places[members]
        ax.scatter(places[:, 0], places[:, 1], s=6, color=FAINT, linewidth=0, label=f"{len(rest)} more")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1, borderaxespad=0.2)
    ax.tick_params(labelbottom=False, labelleft=False, length=0)


def features(view: FeatureView, width: float) -> Figure:
    """Draw an utterance's wave, and below it frames of its feature sets: log-Mel as it is, encoders by feature standardised."""
    parts = len(view.frames) + (view.samples is not None)
    figure = new_figure(width, 0.4 + 1.5 * parts)
    axes = list(figure.subplots(parts, 1, squeeze=False, sharex=True)[:, 0])
    last = axes[-1]
    if view.samples is not None:
        ax = axes.pop(0)
        low, high, seconds = _envelope(view.samples, view.sample_rate)
        ax.fill_between(seconds, low, high, color=BLUE, linewidth=0.3)
        ax.set_ylabel("amplitude\n(full scale 1)")
        ax.set_title(short_text(f"{view.utterance['utterance_id']}: {view.utterance['label'] or 'no label'}", 60))
    for ax, (name, (frames, hop_s)) in zip(axes, view.frames.items(), strict=True):
        is_mel = name == "logmel"  # joined with others it is one part of many
        shown = frames if is_mel else _by_peak((frames - frames.mean(axis=0)) / np.maximum(frames.std(axis=0), 1e-6))
        extent = (0.0, len(frames) * hop_s, 0.0, float(frames.shape[1]))
        bounds = {} if is_mel else {"vmin": -3, "vmax": 3}
        image = ax.imshow(shown.T, origin="lower", aspect="auto", extent=extent, cmap="viridis" if is_mel else "cividis",
                          interpolation="nearest", **bounds)  # fmt: skip
        figure.colorbar(image, ax=ax, label="ln power" if is_mel else "deviations", pad=0.01)
        ax.set_ylabel("Mel band" if is_mel else "feature, by its peak")
        ax.set_title(short_text(name, 60))
    last.set_xlabel("time (s)")
    return figure


def _by_peak(frames: Any) -> Any:
    """Return frames (t, D) with their features in the order in which they are highest, over three frames at a time."""
    smooth = frames.copy()
    smooth[1:-1] = (frames[:-2] + frames[1:-1] + frames[2:]) / 3
    return frames[:, np.argsort(smooth.argmax(axis=0), kind="stable")]


def _envelope(samples: Any, rate: int) -> tuple[Any, Any, Any]:
    """Return the least and the largest sample of each of some 1,500 stretches, and where they begin in seconds."""
    size = max(1, len(samples) // 1500)
    n = len(samples) // size
    parts = samples[: n * size].reshape(n, size)
    return parts.min(axis=1), parts.max(axis=1), np.arange(n) * size / rate
