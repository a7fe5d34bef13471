"""The file of `tfser sweep --output`: one row a run, in Parquet or csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tfser.manifests.display import Output, print_rows, say
from tfser.manifests.errors import UsageError
from tfser.manifests.outputs import check_output, output_to, write_parquet
from tfser.manifests.wording import count


def check_runs_output(path: Path) -> None:
    """Refuse a file for results that is neither Parquet nor csv, or cannot be written, before anything is trained.

    Raises:
        UsageError: it is such a file.
    """
    if path.suffix.casefold() not in (".parquet", ".csv"):
        raise UsageError(f"--output {path}: name a file that ends in .parquet or .csv")
    check_output(path)


def write_runs(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write one row a run to a Parquet or csv file, by its suffix, and say how many.

    Raises:
        UsageError: the file has another suffix, or is none that is written to.
    """
    check_runs_output(path)
    if path.suffix.casefold() == ".parquet":
        write_parquet(path, pa.Table.from_pylist(list(runs)))
    else:
        with output_to(path):
            print_rows(runs, Output.csv)
    say(f"{count(len(runs), 'row')} written to {path}")
