"""What can be asked of reports and figures: options and names, for the command line; importing it is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from tfser.manifests.options import Option


class FigureKind(NamedTuple):
    """A kind of figure: what it shows, and what draws it: `module:function` of this folder, which takes a `plots.AskedFigure`."""

    shows: str
    drawn_by: str


PLOTS: dict[str, FigureKind] = {
    "forest": FigureKind("experiments with their intervals, those not told apart joined", "plots:forest"),
    "speakers": FigureKind("one dot a speaker", "plots:speakers"),
    "confusion": FigureKind("whom an experiment takes for whom (TF-Transformer, Fig. 2)", "plots:confusion"),
    "difference": FigureKind("confusion of A minus that of B", "plots:difference"),
    "curves": FigureKind("UA by epoch, with the epochs of each selection", "plots:epochs"),
    "ratings": FigureKind("predicted against rated, of one dimension", "plots:ratings"),
    "reliability": FigureKind("is it as right as it is sure: ECE and Brier score", "plots:reliability"),
    "risk": FigureKind("what is wrong among the surest answers", "plots:risk"),
    "entropy": FigureKind("entropy of right and wrong answers", "plots:entropy"),
    "failing": FigureKind("UA by duration, level, gender, sentence ...", "plots:failing"),
    "cost": FigureKind("score against latency and parameters (TF-Mamba, Fig. 3)", "plots:cost"),
    "tokens": FigureKind("tokens and spectrum before and after TF-Mamba's modules (its Fig. 4)", "plots:tokens"),
    "attention": FigureKind("log-Mel frames and TF-Transformer's attention (its Fig. 3)", "plots:attention"),
    "layers": FigureKind(
        "UA by layer of an encoder, and the layer that validation speakers chose (after `tfser layers`)", "plots:layers"
    ),
    "embedding": FigureKind("utterances in a plane, by class and by speaker", "plots:embedding"),
    "features": FigureKind("wave, log-Mel and encoder frames of one utterance", "plots:features"),
}
"""Kinds of figures by name. A new one is a file with its function, and a line here."""

EMBEDDED_MB = 4.0
"""Up to so many megabytes of sound are part of a page."""


@dataclass(frozen=True, kw_only=True)
class PlotWishes:
    """What a figure is of, beyond its kind and its experiments."""

    width: Annotated[str, Option("Columns of a paper that it fills: one (3.5 in) or two (7 in).", metavar="one|two")] = "two"
    selection: Annotated[str, Option("How the epoch was chosen: last, val ...", metavar="NAME")] = "last"
    utterance: Annotated[
        str | None, Option("Of tokens and attention: which one; the surest right answer if left out.", metavar="ID")
    ] = None
    fold: Annotated[int | None, Option("Of tokens and attention: the run of this fold.", metavar="N", minimum=1)] = None
    method: Annotated[str, Option("Of embedding: pca, tsne or umap (if installed).", metavar="NAME")] = "tsne"
    features: Annotated[
        tuple[str, ...], Option("Of embedding and features: feature sets; the experiment's, or one of each kind, if left out.",
                                metavar="NAMES")
    ] = ()  # fmt: skip
    dimension: Annotated[str | None, Option("Of ratings: which, where there are several.", metavar="NAME")] = None
    corpus: Annotated[str | None, Option("Of features: where several corpora have that utterance.", metavar="NAME")] = None


@dataclass(frozen=True, kw_only=True)
class ReportWishes:
    """What a report holds."""

    selection: Annotated[str, Option("How the epoch was chosen: last, val ...", metavar="NAME")] = "last"
    audio: Annotated[bool, Option("Players for confident mistakes, in the page or (above --audio-mb) beside it.")] = False
    audio_mb: Annotated[float, Option("Megabytes of sound that may be part of the page.", metavar="MB", minimum=0)] = EMBEDDED_MB
    title: Annotated[str | None, Option("The page's title.", metavar="TEXT")] = None
