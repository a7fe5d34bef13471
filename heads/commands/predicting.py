"""`tfser predict`: audio in, classes with probabilities and ratings out, by a run, an experiment or an exported folder.

In: which trained heads, which audio, and how it is asked for. Out: a table, csv, JSON or RTTM on standard output or in a
file; what could not be heard, with its reason, and the rate on standard error. What is computed is in
`tfser.heads.prediction`.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfser.heads.prediction.companies import Familiar
from tfser.heads.prediction.inputs import Speech, Unusable, corpus_inputs, measured, named_inputs, standard_input
from tfser.heads.results.written import number_text, score_text
from tfser.manifests.cache import Cache
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import Begin, Output, bar, print_json, print_rows, say, show, utterance_bar
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.options import Option
from tfser.manifests.outputs import check_output, format_of, output_to
from tfser.manifests.wording import count, visible
from tfser.pipeline.derived.joint_front_end import FrontEnds
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.resources.devices import choose_device

if TYPE_CHECKING:
    from tfser.heads.prediction.answers import SpokenAnswer
    from tfser.heads.prediction.fused import Voice
    from tfser.heads.prediction.outputs import Outputs
    from tfser.heads.prediction.timeline import Window


class PredictionOutput(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    csv = "csv"
    rttm = "rttm"


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """What is to be heard, and as what."""

    corpus: Annotated[str | None, Option("Predict the utterances of a scanned corpus.", metavar="NAME")] = None
    timeline: Annotated[bool, Option("Predict window by window, with start and end; recordings may be of any length.")] = False
    window: Annotated[float, Option("With --timeline: length of a window.", metavar="SECONDS", minimum=0.01)] = 4.0
    step: Annotated[
        float | None, Option("With --timeline: from one window to the next; half a window if left out.", metavar="SECONDS")
    ] = None
    speaker: Annotated[str | None, Option("Who speaks in all inputs: for heads that normalise by speaker.", metavar="NAME")] = (
        None
    )
    raw_rate: Annotated[
        int | None,
        Option("Standard input holds raw 16-bit mono samples at this rate.", metavar="HZ", minimum=1_000, maximum=192_000),
    ] = None
    max_duration: Annotated[float, Option("Longest input without --timeline.", metavar="SECONDS", minimum=0.1)] = 1800.0


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Which trained heads answer, and where they compute."""

    ensemble: Annotated[bool, Option("The mean over all folds and seeds of an experiment, and how far they agree.")] = False
    selection: Annotated[str, Option("Whose weights: last, or val (the validated epoch).")] = "last"
    weights: Annotated[str | None, Option("Where the encoder's weights are, if not where they were.", metavar="ID|DIR")] = None
    calibrated: Annotated[
        bool, Option("Probabilities at the temperature that the training fitted (train --set temperature=true).")
    ] = False
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 ...")] = "cpu"
    threads: Annotated[int | None, Option("CPU threads; torch's choice if left out.", minimum=1)] = None


@dataclass(frozen=True, kw_only=True)
class Predictions(InCache):
    """How the answer is written."""

    format: Annotated[
        PredictionOutput | None, Option("table, json, csv, or rttm (with --timeline); by the output's suffix if left out.")
    ] = None
    output: Annotated[Path | None, Option("Write there instead of standard output.", metavar="FILE")] = None
    strict: Annotated[bool, Option("Exit with 1 if an input could not be used.")] = False

    def kind(self) -> PredictionOutput:
        """Return how to write: as asked, else by the output's suffix, else a table; and look at the output."""
        check_output(self.output)
        if self.format is not None:
            return self.format
        suffix = None if self.output is None else format_of(self.output, ("csv", "json", "rttm", "txt"))
        return PredictionOutput.table if suffix in (None, "txt") else PredictionOutput(suffix)


@dataclass(kw_only=True)
class _Heard:
    """What came of the inputs: in = predicted + unusable."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rttm: list[str] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    predicted: int = 0
    audio_s: float = 0.0


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run, an experiment (or a piece of its id), or a folder of `tfser export`.")
    ],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT", help="Files, folders, globs, or - for standard input.")
    ] = None,
    *,
    hearing: Hearing,
    heads: Heads,
    predictions: Predictions,
) -> None:
    """Predict the emotion in audio: a class with probabilities, ratings, or both, for each input or window.

    Audio goes through exactly the front-end or encoder that the head was trained on. What cannot be read is listed with
    the reason, and the rest goes on; exits with 1 if nothing could be read.

    Example:
        tfser predict tf_mamba-full recordings/ --ensemble --format csv
    """
    words, kind = inputs or [], predictions.kind()
    if bool(words) == (hearing.corpus is not None):
        raise UsageError("say what to predict: files, folders, globs or -, or else --corpus NAME")
    if kind is PredictionOutput.rttm and not hearing.timeline:
        raise UsageError("--format rttm is of windows: add --timeline")
    heard = _Heard()
    with standard_input(words, hearing.raw_rate) as stdin:
        if hearing.corpus is not None:
            speech, heard.unusable = corpus_inputs(predictions.store, hearing.corpus)
        else:
            speech = named_inputs(words, speaker=hearing.speaker, stdin=stdin)
        named = len(speech) + len(heard.unusable)
        trained, fronts, known, compute = _ready(model, heads, predictions.store)
        if not trained[0].classes and kind is PredictionOutput.rttm:
            raise UsageError(f"--format rttm names a class, and {trained[0].name} rates {', '.join(trained[0].targets)} alone")
        begun = time.monotonic()  # what it takes to load a library says nothing about the head
        if hearing.timeline:
            _hear_windows(trained, fronts, speech, hearing, compute, heard)
        else:
            _hear(trained, fronts, speech, hearing, known, compute, heard)
    with output_to(predictions.output):
        _write(kind, heard, trained, named, hearing.timeline)
    _tell(heard, named, time.monotonic() - begun, trained)
    if predictions.output is not None:
        say(f"{count(len(heard.rows), 'row')} written to {predictions.output}")
    if not heard.predicted:
        raise TfserError(f"none of {count(named, 'input')} could be predicted")
    if predictions.strict and heard.unusable:
        raise typer.Exit(1)


def _ready(model: str, heads: Heads, cache: Cache) -> tuple[list[Voice], FrontEnds, Familiar, Compute]:
    """Return the heads, what makes their frames, what the first one knows, and where to compute."""
    if heads.threads is not None:
        import torch

        torch.set_num_threads(heads.threads)
    from tfser.heads.prediction.answers import check_together
    from tfser.heads.prediction.loading import load_model

    loaded = load_model(
        model,
        cache,
        ensemble=heads.ensemble,
        selection=heads.selection,
        weights=heads.weights,
        calibrated=heads.calibrated,
    )
    check_together(loaded.heads)
    return list(loaded.heads), loaded.fronts, loaded.known, Compute(devices=(choose_device(heads.device),), tell=say)


def _hear(
    trained: Sequence[Voice],
    fronts: FrontEnds,
    speech: Sequence[Speech],
    hearing: Hearing,
    known: Familiar,
    compute: Compute,
    heard: _Heard,
) -> None:
    """Predict each input as a whole."""
    from tfser.heads.prediction.answers import answers
    from tfser.heads.prediction.fused import told_apart

    apart = told_apart(trained)
    with _begin("reading") as begin:
        usable, lost = measured(
            speech,
            minimum_s=fronts.minimum_s,
            max_duration_s=hearing.max_duration,
            begin=lambda files: begin(files, 0.0),
            workers=compute.workers,
        )
    heard.unusable += lost
    found: dict[str, SpokenAnswer] = {}
    with _begin("predicting") as begin:
        advance = begin(len(usable), sum(piece.duration_s for piece in usable)) if usable else None
        for answer in answers(trained, fronts, usable, known=known, compute=compute, advance=advance):
            if isinstance(answer, Unusable):
                heard.unusable.append(answer)
            else:
                found[answer.speech.name] = answer
    for piece in usable:  # in the order in which they were named, whatever order they were computed in
        if piece.name in found:
            answer = found[piece.name]
            heard.rows.append(answer.to_dict() | answer.outputs.by_member([of.name for of in apart], answer.members))
            heard.predicted += 1
            heard.damaged += [piece.name] if piece.is_damaged else []
            heard.audio_s += piece.duration_s


def _hear_windows(
    trained: Sequence[Voice],
    fronts: FrontEnds,
    speech: Sequence[Speech],
    hearing: Hearing,
    compute: Compute,
    heard: _Heard,
) -> None:
    """Predict each input window by window."""
    from tfser.heads.prediction.timeline import check_windows, recording_names, windows

    names = recording_names([piece.name for piece in speech])
    step = hearing.window / 2 if hearing.step is None else hearing.step
    check_windows(hearing.window, step, fronts)
    with bar("predicting", len(speech)) as update:
        for piece in speech:
            found: list[Window] = []
            seconds = 0.0

            def advance(_: int, more: float) -> None:
                nonlocal seconds
                seconds += more
                update(state=f"{seconds:,.0f} s of {piece.name}")  # noqa: B023 - called before the next piece

            try:
                # One by one: where a file breaks, what came before is kept.
                for window in windows(
                    trained, fronts, piece, window_s=hearing.window, step_s=step, compute=compute, advance=advance
                ):
                    found += [window]
            except UsageError:
                raise
            except TfserError as error:
                heard.unusable.append(Unusable(name=piece.name, reason=str(error).removeprefix(f"{piece.path}: ")))
            answered = [window for window in found if window.reason is None]
            if found and not answered:
                heard.unusable.append(Unusable(name=piece.name, reason=found[0].reason or "no window could be heard"))
            heard.rows += [window.to_dict() for window in found] if answered else []
            heard.rttm += [window.rttm(names[piece.name]) for window in answered]
            heard.predicted += bool(answered) and all(piece.name != lost.name for lost in heard.unusable)
            heard.audio_s += found[-1].end_s if found else 0.0
            heard.damaged += [piece.name] if answered and found[-1].speech.is_damaged else []
            update(advance=1)


@contextmanager
def _begin(what: str) -> Iterator[Begin]:
    with utterance_bar(what) as begin:
        yield begin


def _write(kind: PredictionOutput, heard: _Heard, trained: Sequence[Voice], named: int, timeline: bool) -> None:
    """Write the rows to standard output."""
    first = trained[0]
    if kind is PredictionOutput.json:
        print_json(
            {
                "model": [of.name for of in trained],
                "selection": first.selection,
                "features": first.about["feature_set"],
                "fingerprint": first.about["fingerprint"],
                **_named(first.outputs),
                **_temperatures(trained),
                "inputs": named,
                "predicted": heard.predicted,
                "predictions": heard.rows,
                "unusable": [lost.to_dict() for lost in heard.unusable],
                "damaged": heard.damaged,
            }
        )
    elif kind is PredictionOutput.rttm:
        show(*heard.rttm)
    elif kind is PredictionOutput.csv:
        _write_csv(heard.rows, first.outputs)
    else:
        shown = [_for_people(row, first.outputs, timeline) for row in heard.rows]
        if shown:
            print_rows(shown, Output.table)


def _named(outputs: Outputs) -> dict[str, Any]:
    """Return what the heads give: classes, dimensions and their scale, or all of these."""
    found: dict[str, Any] = {"classes": list(outputs.classes)} if outputs.classes else {}
    return found | ({"targets": list(outputs.targets), "scale": list(outputs.scale)} if outputs.targets else {})


def _temperatures(trained: Sequence[Voice]) -> dict[str, Any]:
    """Return the temperatures at which probabilities are, by head; nothing where they are as they were stored."""
    from tfser.heads.prediction.fused import trained_in

    used = {head.name: head.temperature for of in trained for head in trained_in(of) if head.is_calibrated}
    return {"temperature": used} if used else {}


_NESTED = ("probabilities", "ratings", "rating_spread", "members", "member_ratings")


def _flat(row: dict[str, Any], outputs: Outputs) -> dict[str, Any]:
    """Return a row with a column for each class's probability, called p_<class>, and each dimension's rating, by its name."""
    shares, rated, spread = row.get("probabilities") or {}, row.get("ratings") or {}, row.get("rating_spread", {})
    plain = {key: value for key, value in row.items() if key not in _NESTED}
    # Of dimensions alone, what is said of the input as a whole comes last.
    last = {} if outputs.classes else {key: plain.pop(key) for key in ("seen", "reason") if key in plain}
    plain |= {f"p_{name}": shares.get(name) for name in outputs.classes}
    plain |= {name: rated.get(name) for name in outputs.targets} | {f"spread_{name}": value for name, value in spread.items()}
    return plain | last


def _write_csv(rows: Sequence[dict[str, Any]], outputs: Outputs) -> None:
    flat = [_flat(row, outputs) for row in rows]
    if flat:
        print_rows(flat, Output.csv)
    else:  # a table without rows still says what it would hold
        given = ["predicted", *(f"p_{name}" for name in outputs.classes)] if outputs.classes else []
        csv.writer(sys.stdout, lineterminator="\n").writerow(["input", "seconds", *given, *outputs.targets])


def _for_people(row: dict[str, Any], outputs: Outputs, timeline: bool) -> dict[str, Any]:
    """Return a row with probabilities in percent and ratings with two decimals; what is empty everywhere has no column."""
    found: dict[str, Any] = {"input": row["input"]}
    if timeline:
        found |= {"start": f"{row['start_s']:.2f}", "end": f"{row['end_s']:.2f}"}
    elif "label" in row and outputs.classes:
        found["label"] = row["label"]
    if outputs.classes:
        shares = row["probabilities"] or dict.fromkeys(outputs.classes)
        found["predicted"] = row["predicted"] or visible(f"- ({row['reason']})")
        found |= {name: score_text(shares[name]) for name in outputs.classes}
    if "agreement" in row:
        found |= {"agree": f"{100 * row['agreement']:.0f} %", "spread": f"{100 * row['spread']:.1f}"}
    if outputs.targets:
        rated = row["ratings"] or {}
        found |= {name: number_text(rated.get(name), empty="-", digits=2) for name in outputs.targets}
        found |= {f"spread {name}": number_text(value, digits=2) for name, value in row.get("rating_spread", {}).items()}
    if timeline and not outputs.classes:
        found["why"] = visible(row["reason"] or "")
    return found


def _tell(heard: _Heard, named: int, seconds: float, trained: Sequence[Voice]) -> None:
    """Say what could not be used, what a head has seen before, and how fast it went."""
    for lost in heard.unusable[:20]:
        say(f"not predicted: {lost.name}: {lost.reason}")
    if len(heard.unusable) > 20:
        say(f"and {len(heard.unusable) - 20:,} more that were not predicted (--format json lists all)")
    if heard.damaged:
        rest = f" and {len(heard.damaged) - 3:,} more" if len(heard.damaged) > 3 else ""
        say(f"damaged, and heard as far as they go: {', '.join(heard.damaged[:3])}{rest}")
    seen = sum(row.get("seen") in ("train", "val") for row in heard.rows)
    if seen:
        whose = "its training" if len(trained) == 1 else "at least one head's training"
        say(
            f"{count(seen, 'input')} of {len(heard.rows):,} stood on the training or validation side of {whose}: "
            "these are no test predictions (seen)"
        )
    rate = f", {heard.audio_s / seconds:,.1f} x real time" if seconds > 0 and heard.audio_s else ""
    whose = trained[0].name if len(trained) == 1 else f"{len(trained)} heads of {trained[0].about['experiment']}"
    if targets := trained[0].outputs.targets:
        low, high = trained[0].outputs.scale
        say(f"{', '.join(targets)}: ratings from {low:g} to {high:g}")
    say(f"{heard.predicted:,} of {count(named, 'input')} predicted by {whose} ({heard.audio_s:,.1f} s of audio{rate})")
