"""`tfser protocol ls`, `show` and `export`: which splits there are, what one is in counts, and who is where in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.commands.printing import InCache, Printing
from tfser.manifests.display import Output, print_json, print_rows, say
from tfser.manifests.options import Option
from tfser.manifests.protocols.own import damaged_own
from tfser.manifests.splits.choose import settled
from tfser.manifests.splits.export import export
from tfser.manifests.splits.show import describe, headline, listed
from tfser.manifests.splits.split import SplitDetails
from tfser.manifests.wording import count

ProtocolName = Annotated[str | None, typer.Argument(help="Its name; the corpus's default if left out.")]


def protocol_ls(*, printing: Printing) -> None:
    """List the named and generic protocols.

    Example:
        tfser protocol ls --format json
    """
    rows = listed()
    for reason in damaged_own(printing.store).values():
        say(reason)
    print_rows(rows, printing.format, ["protocol", "corpora", "about"] if printing.format is Output.table else None)


def protocol_show(protocol: ProtocolName = None, *, split: SplitDetails, printing: Printing) -> None:
    """Print what a protocol is, who uses it, and its counts by fold, role and class.

    Example:
        tfser protocol show loso-speaker --corpus emodb
    """
    store = printing.store
    chosen, name = settled(store, split, protocol)
    with open_catalogue(store) as connection:
        description = describe(connection, name, chosen)
    if printing.format is Output.json:
        print_json(description)
        return
    for line in headline(description):
        say(line)
    print_rows(description["counts"], printing.format)


def protocol_export(
    protocol: ProtocolName = None,
    *,
    output: Annotated[Path, Option("Where to; of audformat, a folder.", metavar="FILE")],
    format: Annotated[str | None, Option("csv, json or audformat; by the output's suffix if left out.")] = None,
    split: SplitDetails,
    place: InCache,
) -> None:
    """Write who is in which fold and role, for other tools.

    Example:
        tfser protocol export loso-speaker --corpus emodb --output folds.csv
    """
    store = place.store
    chosen, name = settled(store, split, protocol)
    with open_catalogue(store) as connection:
        written = export(connection, name, chosen, output, format)
    say(f"{name} on {chosen}: {count(written, 'row')} written to {output}")
