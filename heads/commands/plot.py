"""`tfser plot`: single figures for papers. The page of `tfser report` draws from the same functions, and loads none of this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfser.heads.reports.plots import plot as draw_plot
from tfser.heads.reports.style import COLUMN_INCHES, FILE_KINDS, as_bytes, house_style
from tfser.heads.reports.wishes import PLOTS, PlotWishes
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.outputs import check_output, format_of, writing
from tfser.manifests.wording import size

_KINDS = "\n".join(("One of those below.", *(f"{name}: {kind.shows}" for name, kind in PLOTS.items())))


def plot(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=_KINDS)],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXPERIMENT", help="Ids, enough of them, or names; of features: an utterance."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="x.svg, x.pdf or x.png.")],
    wishes: PlotWishes,
    place: InCache,
) -> None:
    """Draw one figure for a paper: readable at one column or two, for any colour vision, fonts embedded.

    Raises:
        UsageError: if there is no such kind, or what it needs is not there.

    Example:
        tfser plot confusion svm --output confusion.pdf --width one
        tfser plot features 03a01Fa --output features.png
    """
    if wishes.width not in COLUMN_INCHES:
        raise unknown("width", wishes.width, list(COLUMN_INCHES))
    if kind not in PLOTS:
        raise unknown("kind of plot", kind, list(PLOTS))
    check_output(output)
    suffix = format_of(output, FILE_KINDS, otherwise="")
    if suffix is None:
        raise UsageError(f"--output {output}: name a file that ends in .svg, .pdf or .png")
    store = place.store
    with open_catalogue(store) as connection, house_style():
        figure = draw_plot(store, connection, kind, names or (), wishes, COLUMN_INCHES[wishes.width])
        content = as_bytes(figure, suffix)
    with writing(output) as file:
        file.write(content)
    say(f"{kind}: {output} ({size(len(content))})")
