"""Emotion in dimensions: valence, arousal and dominance, the scales that corpora rate them on, and how they are asked for.

In: words of the command line (`--target arousal,valence`, `--scale 1-7`) and what the catalogue knows of corpora. Out: names of
dimensions in one order, and `Scale`s, which map ratings to 0..1 for training and back. A corpus whose scale is known neither
here nor by its scan has none, and nothing is guessed from its data: the lowest rating that was given is not the end of a scale.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfser.manifests.errors import UsageError, unknown

if TYPE_CHECKING:
    from tfser.manifests.connections import Connection

DIMENSIONS = ("valence", "arousal", "dominance")
"""In the order in which heads give them; columns of `utterances`."""

DIMENSION_SCORES = ("CCC", "pearson", "MAE", "scale_shift", "location_shift")
"""What a run's table `metrics` holds of dimensions; whatever else is there is of classes."""

CLASSES = "class"
"""The target of every training that names none."""

RATED = "rated"
"""What stands in a protocol's name before the dimensions that its utterances must be rated for."""

_NUMBER = r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?"


@dataclass(frozen=True)
class Scale:
    """The ends of a rating scale, the lower one first."""

    low: float
    high: float

    def __str__(self) -> str:
        """Return it as `--scale` takes it.

        >>> str(Scale(1.0, 7.0)), str(Scale(-1.0, 1.0)), str(Scale(0.0, 1234.5678))
        ('1-7', '-1:1', '0-1234.5678')
        """
        mark = ":" if self.low < 0 else "-"
        return f"{self.low:.12g}{mark}{self.high:.12g}"


SCALES = {
    "iemocap": Scale(1.0, 5.0),
    "msp_improv": Scale(1.0, 5.0),
    "msp_podcast": Scale(1.0, 7.0),
    "synthetic": Scale(1.0, 5.0),
}
"""By reader. Sources: Busso et al., IEMOCAP, Language Resources and Evaluation 42 (2008) (self-assessment manikins, 1 to
5); Busso et al., MSP-IMPROV, IEEE Transactions on Affective Computing 8 (2017) (manikins, 1 to 5); Lotfian and Busso,
MSP-Podcast, IEEE Transactions on Affective Computing 10 (2019) (manikins, 1 to 7); `tfser.pipeline.corpora.synthetic`.
MSP-IMPROV's was not compared with its page, but public readers of its Evaluation.txt map 1 to 5 as well; one of them turns
activation round (6 - A), others do not (one parts it at 2.75 and 3.25 into low, middle and high), so its direction is not
verified and is left as it stands: see that louder turns are rated as more aroused before corpora are mixed. The audit
`scale_left` says where ratings leave a scale."""


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the dimensions of a list, each once, in the order of `DIMENSIONS`; none for `class`, which may stand beside them.

    >>> parse_targets("arousal,valence"), parse_targets("class"), parse_targets("class,arousal")
    (('valence', 'arousal'), (), ('arousal',))

    Raises:
        UsageError: if one is neither a dimension nor `class`.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in (*DIMENSIONS, CLASSES):
            raise unknown("target", name, [CLASSES, *DIMENSIONS])
    return tuple(name for name in DIMENSIONS if name in names)


def parse_scale(text: str) -> Scale:
    """Return the scale that `1-7`, `0-100` or `-1:1` means.

    Raises:
        UsageError: if it is none of these.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*[-:]\s*({_NUMBER})\s*", text)
    low, high = (float(match[1]), float(match[2])) if match else (math.nan, math.nan)
    if not low < high:
        raise UsageError(f"scale {text!r}: write its ends, the lower one first: 1-7, or -1:1")
    return Scale(low, high)


def rated_name(targets: Sequence[str]) -> str:
    """Return how a protocol's name says that its utterances are rated for some dimensions, instead of a label map.

    >>> rated_name(("valence", "arousal"))
    'rated:valence+arousal'
    """
    return f"{RATED}:{'+'.join(targets)}"


def parse_rated(text: str) -> tuple[str, ...] | None:
    """Return the dimensions of what `rated_name` writes; None for a label map.

    Raises:
        UsageError: if it begins so, and names something else.
    """
    begin, mark, rest = text.strip().partition(":")
    if begin != RATED or not mark:
        return None
    named = rest.replace("+", ",")
    return _no_dimension(text) if CLASSES in named.split(",") else parse_targets(named) or _no_dimension(text)


def _no_dimension(text: str) -> tuple[str, ...]:
    raise UsageError(f"{text}: name one to three of {', '.join(DIMENSIONS)}")


def scales_of(connection: Connection, corpora: Sequence[str]) -> dict[str, Scale]:
    """Return the scale of each corpus: that of its scan (`--scale`), else that of its reader.

    Raises:
        UsageError: if one is not known; the line says how it is declared.
    """
    found = connection.execute(
        "SELECT corpus, adapter, options FROM corpora WHERE list_contains(?, corpus) ORDER BY corpus", [list(corpora)]
    ).fetchall()
    scales: dict[str, Scale] = {}
    for corpus, adapter, options in found:
        scale = scale_of(adapter, options)
        if scale is None:
            raise UsageError(
                f"{corpus}: nothing says on which scale it is rated; declare it: `tfser scan --corpus {corpus} --scale 1-5`"
            )
        scales[corpus] = scale
    return scales


def scale_of(adapter: str, options: str | None) -> Scale | None:
    """Return a corpus's scale by its reader and the options of its scan (JSON); None where neither says one."""
    declared = json.loads(options or "{}").get("scale")
    return parse_scale(declared) if declared else SCALES.get(adapter)


def scales_query(corpora: str) -> str:
    """Return the SQL of (corpus, low, high) of the corpora whose scale is known; `corpora` is that table's name."""
    from tfser.manifests.connections import quote

    readers = ", ".join(f"({quote(reader)}, {scale.low}, {scale.high})" for reader, scale in SCALES.items())
    said = "regexp_extract(json_extract_string(c.options, '$.scale'), '^(-?[0-9.]+)[-:](-?[0-9.]+)$', {0})"
    ends = ", ".join(
        f"coalesce(try_cast({said.format(place)} AS DOUBLE), k.{name}) AS {name}" for place, name in ((1, "low"), (2, "high"))
    )
    return (
        f"SELECT * FROM (SELECT c.corpus, {ends} FROM {corpora} c LEFT JOIN (VALUES {readers}) k(reader, low, high) "
        "ON k.reader = c.adapter) WHERE low IS NOT NULL AND high IS NOT NULL"
    )
