"""How figures look, and how they become files or inline SVG: sizes, colours, and bytes that are the same each time.

What comes in: a figure that `tfser.heads.reports.drawing` has filled. What goes out: an SVG, PDF or PNG file for a paper, or SVG
for a page, whose ink and paper are the page's own (so that it is read in the light and in the dark), with a title and a
description for screen readers. No time, no random id and no path is written into any of them. Nothing here knows what is drawn.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any colour vision tell apart; what must be
told apart has a shape or a place of its own besides.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
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
"""Text, what stands back (grids, axes), and the ground. A page replaces the three by its own."""

_ON_A_PAGE = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"}

_RC: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
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

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in letters that the font lacks: a page has the reader's fonts, a file shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, {**_RC, **changes}))
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches wide and high, that places its axes so that no label is cut."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of an svg, pdf or png file: the same bytes for the same figure. Call in `house_style`.

    In an SVG file letters are drawn as outlines: whoever opens it sees them as they are here, whatever fonts there are.
    """
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
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for ax in figure.axes:
        for artist in (*ax.lines, *ax.patches, *ax.texts, *ax.collections, *ax.images):
            artist.set_in_layout(False)
    canvas = FigureCanvasSVG(figure)
    figure.set_dpi(72)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    figure.patch.set_visible(False)
    stream = io.StringIO()
    canvas.print_svg(stream, metadata=dict(_NO_DATE["svg"]))  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _view_box(text: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', text)
    assert found is not None, "Matplotlib writes one"
    return found[1]


def _with_links(text: str, links: Mapping[str, tuple[str, str]]) -> str:
    """Let the links that artists bear lead to their targets, named for a screen reader."""

    def target(match: re.Match[str]) -> str:
        where = links.get(match[1])
        return "<a>" if where is None else f'<a href="{escape(where[0])}" aria-label="{escape(where[1])}">'

    return re.sub(r'<a xlink:href="link:([^"]*)"[^>]*>', target, text)
