"""The drawings of scores and probabilities: `FigureData` in, a Matplotlib figure out; the same for a page and for a paper.

Each drawing takes its data and a width in inches, and chooses its height by what there is to draw. Axes say what they are and in
which unit; colours are told apart by any eye and stand beside shapes or places; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfser.heads.reports.epochs_data import mean_curve
from tfser.heads.reports.figure_data import FigureData, percent_of
from tfser.heads.reports.style import BLUE, CYCLE, FAINT, GREEN, INK, MARKERS, ORANGE, SKY, VERMILION, legend_outside, new_figure
from tfser.heads.spec.selections import peeks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED_SPEAKERS = 45
"""Of more, every so many-th bears its name, the worst first."""

_LONG = 34

_CELL_INCHES = 0.24
"""In smaller cells of a confusion only the share stands, without its sign."""

_RANGE = 26
"""Characters of a group of numbers in a narrow figure."""

_NARROW = 22
"""Characters of a name beside an axis, in a wide figure and in a narrow one."""

_FAR = 0.25
"""From chance: where all scores are further above it, its line is left out of their axis."""

_WIDE_INCHES = 5.0
"""From here on, words of an axis stand on one line, and names in full; figures for one column have less room."""


def forest(data: FigureData, width: float) -> Figure:
    """Draw a row an experiment, the best on top, its interval as a bar; at the right, lines join those not told apart."""
    rows, joined = data.rows, data.details["joined"]
    figure = new_figure(width, 0.75 + 0.26 * len(rows))
    shares = [1.0, min(0.4, 0.04 + 0.045 * len(joined))] if joined else [1.0]
    axes = figure.subplots(1, len(shares), sharey=True, width_ratios=shares, squeeze=False)[0]
    ax = axes[0]
    _bars(ax, [(y, row["low"], row["high"]) for y, row in enumerate(rows)], color=BLUE, linewidth=2.2, alpha=0.55)
    size = 5.0 if width > _WIDE_INCHES else 3.5
    for hollow in (False, True):
        places = [(100 * row["pooled_UA"], y) for y, row in enumerate(rows) if bool(row["mark"]) is hollow]
        _dots(ax, places, "o", color=BLUE, markersize=size, markerfacecolor="none" if hollow else BLUE, zorder=3)
    _chance(ax, data.details["chance"], min(row["pooled_UA"] if row["low"] is None else row["low"] for row in rows))
    most = _LONG if width > _WIDE_INCHES else _NARROW
    ax.set_yticks(range(len(rows)), [f"{short_text(row['name'], most)}{row['mark']}" for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.9)
    ax.set_xlabel(_axis_words(width, "pooled UA (%)", "95 % interval over speakers"))
    ax.grid(axis="x")
    if joined:
        _joins(axes[1], joined)
    return figure


def _chance(ax: Axes, chance: float | None, lowest: float) -> None:
    """Draw the line of chance; where that is far from all scores, say where it is, or the scores would be one heap beside it."""
    if chance and lowest - chance < _FAR:
        ax.axvline(100 * chance, color=FAINT, linestyle=":", linewidth=1)
        ax.text(100 * chance, -0.55, " chance", color=FAINT, fontsize=7, va="center")
    elif chance:
        ax.text(0.01, -0.55, f"\N{LEFTWARDS ARROW} chance {percent_of(chance)} %", color=FAINT, fontsize=7, va="center",
                transform=ax.get_yaxis_transform())  # fmt: skip


def _bars(ax: Axes, bars: Sequence[tuple[float, float | None, float | None]], **look: Any) -> None:
    """Draw lines along x, each of a place up and two shares of 1; as one artist, since each of them costs time."""
    drawn = [(y, 100 * low, 100 * high) for y, low, high in bars if low is not None and high is not None]
    if drawn:
        y, left, right = zip(*drawn, strict=True)
        ax.hlines(y, left, right, capstyle="butt", **look)


def _dots(ax: Axes, places: Sequence[tuple[float, float]], marker: str, **look: Any) -> None:
    """Draw marks at places, as one artist."""
    if places:
        ax.plot([x for x, _ in places], [y for _, y in places], marker, linestyle="none", **look)


def _joins(ax: Axes, joined: Sequence[Sequence[int]]) -> None:
    """Draw a line a set of experiments that are not told apart, with a dot at each of them."""
    for x, members in enumerate(joined):
        ax.plot([x, x], [min(members), max(members)], color=FAINT, linewidth=1)
        ax.plot([x] * len(members), list(members), "o", color=INK, markersize=3)
    ax.set_xlim(-0.7, len(joined) - 0.3)
    ax.set_axis_off()


def speakers(data: FigureData, width: float) -> Figure:
    """Draw one dot a speaker, the worst on top, with the pooled score and its interval as a band."""
    rows, several = data.rows, data.details["several"]
    named = len(rows) <= _NAMED_SPEAKERS
    figure = new_figure(width, 0.9 + (0.19 * len(rows) if named else 0.19 * _NAMED_SPEAKERS))
    ax = figure.subplots()
    if data.details["low"] is not None:
        ax.axvspan(100 * data.details["low"], 100 * data.details["high"], color=SKY, alpha=0.22, linewidth=0)
    ax.axvline(100 * data.details["mean"], color=FAINT, linewidth=1)
    kinds = sorted({str(row["gender"] or "unknown") for row in rows})
    # Colour and shape say the same twice: for any colour vision, and in print.
    look = {"F": (VERMILION, "o"), "M": (BLUE, "s")}
    for i, kind in enumerate(kinds):
        colour, marker = look.get(kind, (CYCLE[2 + i % 4], MARKERS[2 + i % 6]))
        of = [(100 * row["UA"], y) for y, row in enumerate(rows) if str(row["gender"] or "unknown") == kind]
        _dots(ax, of, marker, color=colour, markersize=4.5, label=kind)
    labels = []
    for row in rows:
        name = f"{row['corpus']}/{row['speaker']}" if several else str(row["speaker"])
        session = f", {row['session']}" if row["session"] else ""
        room = _LONG if width > _WIDE_INCHES else _NARROW
        labels.append(f"{short_text(f'{name}{session}', room)} (n {row['n']})")
    # Of many speakers only every so many-th is named: labels would lie upon one another.
    places = range(len(rows)) if named else range(0, len(rows), max(1, len(rows) // _NAMED_SPEAKERS))
    ax.set_yticks(list(places), [labels[i] for i in places])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(_first_percent(min([row["UA"] for row in rows] + [data.details["low"] or 1.0])), 102)
    ax.set_xlabel(_axis_words(width, "UA of the speaker (%)", "line and band: all, 95 %"))
    ax.grid(axis="both")
    if kinds != ["unknown"]:
        legend_outside(figure, "outside upper right", ncols=len(kinds), handletextpad=0.1)
    return figure


def confusion(data: FigureData, width: float) -> Figure:
    """Draw counts over row shares in each cell, and at the right the recall with its interval."""
    classes, cells, recalls = data.details["classes"], data.rows, data.numbers[1].rows
    K = len(classes)
    figure = new_figure(width, 0.55 + width * 0.62 * (0.6 + 0.4 * min(1.0, K / 7)))
    ax, side = figure.subplots(1, 2, sharey=True, width_ratios=[1.0, 0.3])
    small = 6.2 if K > 8 or (width < 5 and K > 5) else 7.5

    crowded = 0.77 * (width - 0.9) / K < _CELL_INCHES

    def text(row: Any) -> str:
        if crowded:
            return percent_of(row["share"], 0) if row["n"] else ""
        n = f"{row['n']:.0f}" if data.details["seeds"] == 1 else f"{row['n']:.1f}"
        return f"{n}\n{percent_of(row['share'], 0)} %" if row["n"] else ""

    _matrix(ax, cells, classes, lambda row: (BLUE, 0.72 * (row["share"] or 0.0)), text, small)
    if crowded:
        ax.set_xlabel("taken for (cells: % of the true class)")
    _bars(side, [(y, row["low"], row["high"]) for y, row in enumerate(recalls)], color=BLUE, linewidth=2.2, alpha=0.55)
    places = [(100 * row["recall"], y) for y, row in enumerate(recalls) if row["recall"] is not None]
    _dots(side, places, "o", color=BLUE, markersize=4.5)
    side.set_xlim(-4, 104)
    side.set_xticks([0, 50, 100])
    side.set_xlabel("recall (%)" if width < 5 else "recall (%), 95 %")
    side.grid(axis="x")
    side.yaxis.set_visible(False)  # its classes stand at the left already
    return figure


def difference(data: FigureData, width: float) -> Figure:
    """Draw by how many points each row share of A is above that of B: more in one colour, less in another, and the number."""
    classes = data.details["classes"]
    figure = new_figure(width, 0.55 + width * 0.55 * (0.6 + 0.4 * min(1.0, len(classes) / 7)))
    ax = figure.subplots()
    most = max((abs(row["difference"] or 0.0) for row in data.rows), default=0.0) or 1.0

    def look(row: Any) -> tuple[str, float]:
        value = row["difference"] or 0.0
        return (BLUE if value > 0 else ORANGE, 0.72 * abs(value) / most)

    def text(row: Any) -> str:
        return "" if row["difference"] is None or abs(row["difference"]) < 0.0005 else f"{100 * row['difference']:+.1f}"

    _matrix(ax, data.rows, classes, look, text, 7.5)
    return figure


def _matrix(
    ax: Axes,
    cells: Sequence[Any],
    classes: Sequence[str],
    look: Callable[[Any], tuple[str, float]],
    text: Callable[[Any], str],
    size: float,
) -> None:
    """Draw a cell for each pair of classes; each may be a link of its own (`link:row-column`)."""
    from matplotlib.patches import Rectangle

    K = len(classes)
    for i, row in enumerate(cells):
        y, x = divmod(i, K)
        colour, alpha = look(row)
        said = text(row)
        # An empty cell is no link: there is nothing behind it.
        if not alpha and not said:
            continue
        cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, alpha=alpha, linewidth=0)
        cell.set_url(f"link:{y}-{x}")
        ax.add_patch(cell)
        if said:
            ax.text(x, y, said, ha="center", va="center", fontsize=size, linespacing=0.95, url=f"link:{y}-{x}")
    ax.set_xlim(-0.5, K - 0.5)
    ax.set_ylim(K - 0.5, -0.5)
    # Many or long names do not fit beside each other: slanted, they do.
    names = [short_text(name, 14) for name in classes]
    slanted = K > 3 or max(map(len, names)) > 9
    ax.set_xticks(range(K), names, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    ax.set_yticks(range(K), names)
    ax.tick_params(length=0)
    between = [line - 0.5 for line in range(1, K)]
    ax.hlines(between, -0.5, K - 0.5, color=FAINT, linewidth=0.3, alpha=0.5)
    ax.vlines(between, -0.5, K - 0.5, color=FAINT, linewidth=0.3, alpha=0.5)
    ax.set_xlabel("taken for")
    ax.set_ylabel("true class")


def curves(data: FigureData, width: float) -> Figure:
    """Draw the UA of each fold by epoch and the mean of all, with the epochs that each selection took."""
    history, chosen, gaps = (numbers.rows for numbers in data.numbers)
    figure = new_figure(width, 2.7)
    ax = figure.subplots()
    # Single folds are faint: they show the spread, and the thick lines, which are read, are their means.
    for key in dict.fromkeys((row["seed"], row["fold"]) for row in history):
        shown = [row for row in history if (row["seed"], row["fold"]) == key and row["test_UA"] is not None]
        ax.plot([row["epoch"] for row in shown], [100 * row["test_UA"] for row in shown], color=BLUE, alpha=0.22, linewidth=0.7)
    for column, colour, style, name in (("test_UA", BLUE, "-", "test"), ("val_UA", GREEN, "--", "validation")):
        epochs, values = mean_curve(history, column)
        if epochs:
            ax.plot(epochs, [100 * v for v in values], color=colour, linestyle=style, linewidth=2, label=f"mean, {name}")
    # A selection that looked at the test side has a hollow mark of another colour, so that it is told apart in grey,
    # too.
    marks = {"last": ("o", BLUE, BLUE), "val": ("s", GREEN, GREEN), "test-oracle": ("D", VERMILION, "none")}
    mean = {row["selection"]: row["UA"] for row in gaps}
    for selection, (marker, colour, face) in marks.items():
        shown = [row for row in chosen if row["selection"] == selection and row["UA"] is not None]
        if shown:
            name = f"{selection}{'†' if peeks(selection) else ''} {percent_of(mean[selection])} %"
            ax.plot(
                [row["epoch"] for row in shown],
                [100 * row["UA"] for row in shown],
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=4,
                linestyle="none",
                alpha=0.85,
                label=name,
            )
    locator: Any = ax.xaxis.get_major_locator()
    locator.set_params(integer=True)
    ax.set_xlabel("epoch")
    ax.set_ylabel("UA (%)")
    ax.grid(axis="y")
    if data.details["gap"] is not None:
        ax.set_title(f"test-oracle† is {data.details['gap']:.1f} points above last", color=INK)
    legend_outside(figure, "outside right upper" if width > 5 else "outside lower center", ncols=1 if width > 5 else 2)
    return figure


def reliability(data: FigureData, width: float) -> Figure:
    """Draw how often it is right by how sure it is, on the diagonal if the two agree; dots by how many answers."""
    figure = new_figure(width, min(width, 3.3))
    reliability_axes(figure.subplots(), data)
    return figure


def reliability_axes(ax: Axes, data: FigureData) -> None:
    """Draw a reliability diagram into axes."""
    ax.plot([0, 100], [0, 100], color=FAINT, linestyle=":", linewidth=1)
    most = max(row["n"] for row in data.rows)
    bounded = [row for row in data.rows if row["low"] is not None]
    low, high = ([100 * row[end] for row in bounded] for end in ("low", "high"))
    ax.vlines([100 * row["sure"] for row in bounded], low, high, color=BLUE, linewidth=1.6, alpha=0.45)
    ax.plot([100 * row["sure"] for row in data.rows], [100 * row["right"] for row in data.rows], color=BLUE, linewidth=1)
    ax.scatter(
        [100 * row["sure"] for row in data.rows],
        [100 * row["right"] for row in data.rows],
        s=[8 + 60 * row["n"] / most for row in data.rows],
        color=BLUE,
        zorder=3,
        linewidth=0,
    )
    ax.set_xlim(0, 102)
    ax.set_ylim(-2, 102)
    ax.set_xlabel("largest probability (%)")
    ax.set_ylabel("right (%)")
    ax.set_title(f"ECE {100 * data.details['ECE']:.1f} points, Brier {data.details['Brier']:.3f}")
    ax.grid()


def risk(data: FigureData, width: float) -> Figure:
    """Draw the share that is wrong by the share that is answered."""
    figure = new_figure(width, min(width, 2.7))
    risk_axes(figure.subplots(), data)
    return figure


def risk_axes(ax: Axes, data: FigureData) -> None:
    """Draw risk against coverage into axes."""
    x, y = [100 * row["coverage"] for row in data.rows], [100 * row["risk"] for row in data.rows]
    ax.plot(x, y, "o-", color=VERMILION, markersize=2.5)
    ax.set_xlim(0, 102)
    ax.set_ylim(0, max(10.0, 1.1 * max(y)))
    ax.set_xlabel("answered, the surest first (%)")
    ax.set_ylabel("wrong (%)")
    ax.set_title(f"wrong {y[-1]:.1f} %, surer half {y[len(y) // 2 - 1]:.1f} %")
    ax.grid()


def entropy(data: FigureData, width: float) -> Figure:
    """Draw how many answers are right and wrong by the entropy of their probabilities."""
    figure = new_figure(width, min(width, 2.7))
    entropy_axes(figure.subplots(), data)
    return figure


def entropy_axes(ax: Axes, data: FigureData) -> None:
    """Draw entropies of right and wrong answers into axes."""
    n = len(data.rows)
    x = [(row["bin"] + 0.5) / n for row in data.rows]
    ax.bar(x, [row["right"] for row in data.rows], width=0.9 / n, color=BLUE, alpha=0.75, label="right")
    ax.step(
        [i / n for i in range(n + 1)],
        [*(row["wrong"] for row in data.rows), data.rows[-1]["wrong"]],
        where="post",
        color=VERMILION,
        linewidth=1.6,
        label="wrong",
    )
    ax.set_xlim(0, 1)
    ax.set_xlabel("entropy (0 certain, 1 even)")
    ax.set_ylabel("answers")
    means = [
        f"{word} {value:.2f}" for word, value in zip(("right", "wrong"), data.details["means"], strict=True) if value is not None
    ]
    ax.set_title(f"means: {', '.join(means)}")
    ax.legend(loc="best")


def failing(data: FigureData, width: float) -> Figure:
    """Draw a row a group of utterances, the weakest on top, with its interval; a colour and shape for each kind of group."""
    rows = data.rows
    figure = new_figure(width, 0.9 + 0.19 * max(1, len(rows)))
    ax = figure.subplots()
    ax.axvline(100 * data.details["mean"], color=FAINT, linewidth=1)
    kinds = sorted({row["what"] for row in rows})
    for i, kind in enumerate(kinds):
        colour, marker = CYCLE[i % 6], MARKERS[i % len(MARKERS)]
        of = [(y, row) for y, row in enumerate(rows) if row["what"] == kind]
        _bars(ax, [(y, row["low"], row["high"]) for y, row in of], color=colour, linewidth=1.8, alpha=0.5)
        _dots(ax, [(100 * row["UA"], y) for y, row in of], marker, color=colour, markersize=4.5)
    # A range of numbers without its middle says nothing: "level -18.1 to -16.1 dB" stays whole.
    most = _LONG if width > _WIDE_INCHES else _RANGE
    named = [(f"{row['what']} {row['group']}", row["n"]) for row in rows]
    ax.set_yticks(range(len(rows)), [f"{short_text(name, most)} (n {n:.0f})" for name, n in named])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(_first_percent(min(row["UA"] if row["low"] is None else row["low"] for row in rows)), 102)
    ax.set_xlabel(_axis_words(width, "UA of the group (%)", "95 % interval; line: all"))
    ax.grid(axis="x")
    return figure


def durations(data: FigureData, width: float) -> Figure:
    """Draw for each class how long its utterances are: the middle half as a bar, 5 to 95 % as a line, the median as a dot."""
    rows = data.rows
    figure = new_figure(width, 0.7 + 0.22 * max(1, len(rows)))
    ax = figure.subplots()
    places = range(len(rows))
    ax.hlines(places, [row["p5"] for row in rows], [row["p95"] for row in rows], color=BLUE, linewidth=1)
    middle = [row["p25"] for row in rows], [row["p75"] for row in rows]
    ax.hlines(places, *middle, color=BLUE, linewidth=5, alpha=0.45, capstyle="butt")
    _dots(ax, [(row["median"], y) for y, row in enumerate(rows)], "o", color=BLUE, markersize=4)
    ax.set_yticks(range(len(rows)), [short_text(f"{row['label']} (n {row['n']})") for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel("duration (s): 5 to 95 %, middle half, median")
    ax.grid(axis="x")
    return figure


def scatter(data: FigureData, width: float) -> Figure:
    """Draw a dot an utterance, its rating along, its prediction up, with the line on which they are the same."""
    rows = data.rows
    figure = new_figure(min(width, 4.2), min(width, 4.2))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    # The more dots, the fainter each: where many lie, it is dark.
    ax.plot(
        [row["rating"] for row in rows], [row["predicted"] for row in rows], "o", color=BLUE, markersize=3,
        alpha=max(0.08, min(0.7, 150 / max(1, len(rows)))), markeredgewidth=0, rasterized=len(rows) > 1500,
    )  # fmt: skip
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    ax.set_aspect("equal")
    ax.set_xlabel("rated (0: the scale's lower end, 1: its upper end)")
    ax.set_ylabel("predicted")
    ax.grid(axis="both")
    return figure


def _first_percent(lowest: float) -> float:
    """Return where an axis of percent begins whose lowest value is given as a share: at the ten below it.

    Dots from 85 to 95 would be one heap on an axis that begins at zero.
    """
    return max(-2, 10 * int(10 * lowest - 0.5) - 2)


def _axis_words(width: float, first: str, second: str) -> str:
    """Return what an axis says: on one line of a wide figure, on two of a narrow one, where one would be cut."""
    return f"{first}, {second}" if width > _WIDE_INCHES else f"{first}\n{second}"


def short_text(text: str, most: int = _LONG) -> str:
    """Return a name with its middle left out where it is long, and on one line.

    >>> short_text("a" * 50, 9)
    'aaaa…aaaa'
    """
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split(" "))
    if len(flat) <= most:
        return flat
    half = (most - 1) // 2
    return f"{flat[:half]}…{flat[-(most - 1 - half) :]}"


DRAWINGS: dict[str, Callable[[FigureData, float], Figure]] = {
    "forest": forest,
    "speakers": speakers,
    "confusion": confusion,
    "difference": difference,
    "curves": curves,
    "reliability": reliability,
    "risk": risk,
    "entropy": entropy,
    "failing": failing,
    "durations": durations,
    "scatter": scatter,
}
"""By the kind of `FigureData`."""


def draw(data: FigureData, width: float) -> Figure:
    """Draw a figure, so many inches wide. Call in `tfser.heads.reports.style.house_style`."""
    return DRAWINGS[data.kind](data, width)
