"""How figures look, and how they become files or inline SVG: sizes, colours, and bytes that are the same each time.

What comes in: a figure that `tfser.heads.reports.drawing` has filled. What goes out: an SVG, PDF or PNG file for a paper, or SVG
for a page, whose ink and paper are the page's own (so that it is read in the light and in the dark), with a title and a
description for screen readers. No time, no random id and no path is written into any of them. Nothing here knows what is drawn.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any colour vision tell apart; what must be
told apart has a shape or a place of its own besides.
"""

from __future__ import annotations

import functools
import io
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tfser.heads.reports.letters import HOUSE_FONT, boxes_text, families_with, lacking
from tfser.manifests.notes import note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES = {"one": 3.5, "two": 7.0}
"""Widths of a figure in a paper: one column of two, or both."""

FILE_KINDS = ("svg", "pdf", "png")

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

INK, FAINT, PAPER = "#1b1c1d", "#8c8d8e", "#fefdfc"
"""Text, what stands back (grids, axes), and the ground. A page replaces the three by its own, and blue, dim in the dark."""

_ON_A_PAGE = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)", BLUE: "var(--blue)"}

_RC: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": [HOUSE_FONT],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "lines.linewidth": 1.2,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # whole letters, which a publisher can embed and a reader can search
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "tfser",
    "text.parse_math": False,  # names and labels are other people's text
    "path.simplify": True,
}

_NO_DATE: Mapping[str, Mapping[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@contextmanager
def house_style(**changes: Any) -> Iterator[None]:
    """Draw and save in the house's style, whatever the user's own configuration of Matplotlib says."""
    import matplotlib

    _load()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in letters that the font lacks: a page has its reader's fonts, `as_bytes` looks for others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, {**_RC, **changes}))
        yield


@functools.cache
def _load() -> None:
    """Import Matplotlib without the descriptions of properties that it writes for each kind of artist: a fifth of the time.

    A notebook, where somebody may read them, has imported it before or gets them as they are.
    """
    if "IPython" in sys.modules or "matplotlib.figure" in sys.modules:
        return
    from matplotlib import artist

    kind: Any = artist.Artist
    described = vars(kind).get("_update_set_signature_and_docstring")
    kind._update_set_signature_and_docstring = classmethod(lambda cls: None)
    try:
        import matplotlib.backends.backend_svg
        import matplotlib.figure  # noqa: F401
    finally:
        if described is not None:
            kind._update_set_signature_and_docstring = described


_OUTSIDE = {"outside right upper": "right", "outside upper right": "top", "outside lower center": "bottom"}
"""Places of a legend outside of all axes, and from which side each takes room."""

_PAD = 3.0
"""Points around a figure, and around what stands beside its axes: those of Matplotlib's constrained layout."""

_MOST_TEXTS = 10_000
"""Texts whose sizes are remembered, until all are forgotten."""

_TITLE = 15.0
"""Points that a title of axes takes, with its distance from them."""


def legend_outside(figure: Figure, place: str, **changes: Any) -> None:
    """Put a legend of all that is labelled beside or below the axes: `place` is one of `_OUTSIDE`."""
    figure.legend(loc=cast("Any", place), **changes).set_gid(place)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches wide and high, that places its axes so that no label is cut."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of an svg, pdf or png file: the same bytes for the same figure. Call in `house_style`.

    In an SVG file letters are drawn as outlines: whoever opens it sees them as they are here, whatever fonts there are. Letters
    that the house's font lacks are drawn with other fonts of this machine; where none has them, that is said.
    """
    from matplotlib.text import Text

    content = _saved(figure, kind)
    texts = cast("list[Text]", figure.findobj(Text))
    if missing := lacking(text.get_text() for text in texts if text.get_visible()):
        families = [HOUSE_FONT, *families_with(missing)]
        for text in texts:
            text.set_fontfamily(families)
        content = _saved(figure, kind) if len(families) > 1 else content
        if boxes := lacking([missing], families):
            note(boxes_text(boxes))
    return content


def _saved(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of a file, drawn with the fonts that its texts have."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        figure.savefig(stream, format=kind, metadata=dict(_NO_DATE[kind]))
    return stream.getvalue()


def inline_svg(figure: Figure, key: str, title: str, description: str, links: Mapping[str, tuple[str, str]] | None = None) -> str:
    """Return a figure as an `<svg>` element for a page. Call in `house_style`.

    Args:
        figure: what is drawn. An artist's url `link:NAME` leads where `links` says; one that is not there leads nowhere.
        key: of letters, digits and hyphens: begins each id, so that no two figures of a page share one.
        title: names the figure for a screen reader.
        description: says what there is to see.
        links: by NAME, the target and what it is called.
    """
    text = _drawn_once(figure)
    text = text[text.index("<svg") :]
    # What a page does not need: who wrote it, styles that would hold for the whole page, names of groups, digits.
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*|<\?.*?\?>|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d{3,}", lambda of: f"{float(of[0]):.2f}", tag[0]), text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', text)
    text = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{key}-", text)
    text = _with_links(text, links or {})
    for ours, theirs in _ON_A_PAGE.items():
        text = text.replace(ours, theirs)
    # The page's own letters; sizes stay.
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--letters)", text)
    width, height = (float(size) * 96 for size in figure.get_size_inches())
    role = "group" if links else "img"
    head = (
        f'<svg class="figure" role="{role}" aria-labelledby="{key}-t {key}-d" viewBox="{_view_box(text)}" '
        f'width="{width:.0f}" height="{height:.0f}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
    )
    body = re.sub(r"\s*\n\s*", "\n", text[text.index(">", text.index("<svg")) + 1 :])
    return head + body.strip()


def _drawn_once(figure: Figure) -> str:
    """Return a figure as SVG with a transparent ground.

    `Figure.savefig` lays out and draws everything twice; a page has dozens of figures, so here it is laid out once, by what
    stands outside of the axes (what is inside has its place), and drawn once.
    """
    from matplotlib.backends.backend_mixed import MixedModeRenderer
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for ax in figure.axes:
        for artist in (*ax.lines, *ax.patches, *ax.texts, *ax.collections, *ax.images):
            artist.set_in_layout(False)
    FigureCanvasSVG(figure)
    figure.set_dpi(72)
    width, height = (72 * float(inches) for inches in figure.get_size_inches())
    stream = io.StringIO()
    # What measures the labels draws them, too, as it remembers how large each is.
    renderer: Any = _renderer()(width, height, stream, image_dpi=72, metadata=dict(_NO_DATE["svg"]))
    if _in_a_row(figure):
        _place_once(figure, renderer)
    elif (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    figure.patch.set_visible(False)
    mixed: Any = MixedModeRenderer(figure, width / 72, height / 72, 72, renderer)  # type: ignore[no-untyped-call]
    figure.draw(mixed)
    renderer.finalize()
    return stream.getvalue()


@functools.cache
def _renderer() -> Any:
    """Return Matplotlib's renderer of SVG, which for all figures of a process measures each text once: most stand in several."""
    from matplotlib.backends.backend_svg import RendererSVG

    sizes: dict[tuple[str, int, Any], tuple[float, float, float]] = {}

    class RememberingRenderer(RendererSVG):
        def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
            key = (s, hash(prop), ismath)
            if len(sizes) > _MOST_TEXTS:
                sizes.clear()
            if key not in sizes:
                sizes[key] = super().get_text_width_height_descent(s, prop, ismath)  # type: ignore[no-untyped-call]
            return sizes[key]

    return RememberingRenderer


def _in_a_row(figure: Figure) -> bool:
    """Tell whether a figure is one row of axes and nothing beside it but legends of `legend_outside`."""
    specs = [ax.get_subplotspec() for ax in figure.axes]
    grids = {id(spec.get_gridspec()) for spec in specs if spec is not None}
    one_row = all(spec is not None and spec.get_gridspec().nrows == 1 for spec in specs)
    known = all(legend.get_gid() in _OUTSIDE for legend in figure.legends)
    return one_row and known and len(grids) == 1 and not figure.texts and not figure.get_suptitle()


@dataclass(frozen=True, kw_only=True)
class _Around:
    """Points that the surroundings of axes take at each side, and how far from the axes the labels of x and y stand."""

    left: float
    right: float
    above: float
    below: float
    to_x_label: float
    to_y_label: float


def _place_once(figure: Figure, renderer: Any) -> None:
    """Give each of a row of axes its place, so that labels and legends fit around them.

    Matplotlib's constrained layout measures every label four times, since those of an axis may change with its length, and
    drawing measures them again. Here they are measured once, which takes half the time: the axes begin at about their size.
    """
    width, height = (72 * float(inches) for inches in figure.get_size_inches())
    around = [_measured(ax, renderer) for ax in figure.axes]
    left, right, top, bottom = _PAD, _PAD, _PAD + max(of.above for of in around), _PAD + max(of.below for of in around)
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        match _OUTSIDE[str(legend.get_gid())]:
            case "right":
                right += _PAD + box.width
            case "top":
                top += _PAD + box.height
            case "bottom":
                bottom += _PAD + box.height
    # Above and below, all need as much as the one that needs most; to the left and right, each has its own.
    free = width - left - right - 2 * _PAD * (len(around) - 1) - sum(of.left + of.right for of in around)
    spec = figure.axes[0].get_subplotspec()
    assert spec is not None, "those of a row have one"
    ratios = np.asarray(spec.get_gridspec().get_width_ratios(), dtype=float)
    x = left
    for ax, of, ratio in zip(figure.axes, around, ratios, strict=True):
        share = max(1.0, free * ratio / sum(ratios))
        ax.set_position(((x + of.left) / width, bottom / height, share / width, max(1.0, height - top - bottom) / height))
        _put_labels(ax, of)
        x += of.left + share + of.right + 2 * _PAD


def _measured(ax: Axes, renderer: Any) -> _Around:
    """Return how many points of ticks, labels and title lie around axes."""
    if not ax.axison:
        return _Around(left=0.0, right=0.0, above=0.0, below=0.0, to_x_label=0.0, to_y_label=0.0)
    inner = ax.get_window_extent(renderer)
    boxes, labels = [], []
    for axis in (ax.xaxis, ax.yaxis):
        # The label stands beside the widest of the others, and is no matter for those: without it, they are measured once.
        axis.label.set_visible(False)
        axis.set_label_coords(0.5, 0.5)
        if (box := axis.get_tightbbox(renderer, for_layout_only=True)) is not None:
            boxes.append(box)
        axis.label.set_visible(True)
        labels.append(axis.label.get_window_extent(renderer) if axis.get_visible() and axis.label.get_text() else None)
    left, below = (max(0.0, *(inner.min[i] - box.min[i] for box in boxes)) if boxes else 0.0 for i in (0, 1))
    to_x, to_y = below + ax.xaxis.labelpad, left + ax.yaxis.labelpad
    return _Around(
        left=left if labels[1] is None else to_y + labels[1].width,
        right=max(0.0, *(box.x1 - inner.x1 for box in boxes)) if boxes else 0.0,
        above=(max(0.0, *(box.y1 - inner.y1 for box in boxes)) if boxes else 0.0) + (_TITLE if ax.get_title("left") else 0.0),
        below=below if labels[0] is None else to_x + labels[0].height,
        to_x_label=to_x,
        to_y_label=to_y,
    )


def _put_labels(ax: Axes, around: _Around) -> None:
    """Put the labels of axes that have their place where they were measured to stand."""
    from matplotlib.transforms import IdentityTransform

    box = ax.get_window_extent()
    ax.xaxis.set_label_coords(0.5 * (box.x0 + box.x1), box.y0 - around.to_x_label, transform=IdentityTransform())
    ax.yaxis.set_label_coords(box.x0 - around.to_y_label, 0.5 * (box.y0 + box.y1), transform=IdentityTransform())


def _view_box(text: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', text)
    assert found is not None, "Matplotlib writes one"
    return found[1]


def _with_links(text: str, links: Mapping[str, tuple[str, str]]) -> str:
    """Let the links that artists bear lead to their targets, named for a screen reader.

    Of several parts with one link (a cell and each line of its text) all can be clicked; the first alone is met by the Tab key
    and read aloud.
    """
    met: set[str] = set()

    def target(match: re.Match[str]) -> str:
        where = links.get(match[1])
        if where is None:
            return "<a>"
        if match[1] in met:
            return f'<a href="{escape(where[0])}" tabindex="-1" aria-hidden="true">'
        met.add(match[1])
        return f'<a href="{escape(where[0])}" aria-label="{escape(where[1])}">'

    return re.sub(r'<a xlink:href="link:([^"]*)"[^>]*>', target, text)
