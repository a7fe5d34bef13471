"""One utterance: its row, a player, its wave and spectrogram, what each experiment took it for, copies of it, its place in folds.

In goes an open catalogue and the utterance's row; out come values for the template. The spectrogram is that of the sound that is
played, whatever the cache holds; frames of a stored feature set are drawn if they are asked for. Sound or frames that cannot be
had are one line each, and the rest of the page is there all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tfser.heads.reports import paper_drawing
from tfser.heads.reports.one_experiment import PAGE_INCHES
from tfser.heads.reports.paper_data import FeatureView, features_of
from tfser.heads.reports.report_tables import ReportTable, table_of
from tfser.heads.reports.style import house_style, inline_svg
from tfser.heads.reports.templates import Safe
from tfser.heads.reports.trust_data import highest
from tfser.heads.reports.ui.library import Library
from tfser.heads.reports.ui.sounds import audio_file, has_changed
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.wording import cell, visible
from tfser.pipeline.features.logmel import LogMel
from tfser.pipeline.sound.audio import MAX_DURATION_S, decode, resample

_MOST = 200
"""Predictions that are listed."""

_INTERNAL = ("root", "size", "mtime_ns", "ctime_ns")
_CALLED = {"rms_db": "level", "duration_s": "duration", "start_s": "start", "end_s": "end"}


def utterance_part(library: Library, connection: Connection, row: Mapping[str, Any], feature_set: str) -> dict[str, Any]:
    """Return everything that the page of one utterance shows.

    Args:
        library: what the pages read from.
        connection: its catalogue.
        row: of `tfser.heads.reports.ui.sounds.find_utterance`.
        feature_set: whose frames are drawn; empty: the spectrogram of its sound.
    """
    key = {"corpus": row["corpus"], "id": row["utterance_id"]}
    troubles: list[str] = []
    sound: str | None = None
    try:
        file = audio_file(row, library.folders)
        if has_changed(row, file):
            troubles.append(f"The file was changed since the scan: `tfser scan --corpus {row['corpus']}` looks again.")
        sound = f"sound?{urlencode(key)}"
    except (TfserError, OSError) as error:
        troubles.append(f"No sound: {error}.")
    # Sound and figure fail each for itself: the rest of the page is worth having where a file has gone.
    figure: dict[str, Any] | None = None
    try:
        figure = _figure(library, connection, row, feature_set, has_sound=sound is not None)
    except (TfserError, OSError) as error:
        troubles.append(f"No figure: {' '.join(str(error).split())}.")
    stored = rows(
        connection,
        "SELECT DISTINCT feature_set FROM features WHERE corpus = ? AND utterance_id = ? ORDER BY 1",
        [row["corpus"], row["utterance_id"]],
    )
    # What the catalogue says, without what only the program needs, under the names that people know.
    before, after = _neighbours(connection, row)
    told = {name: _fact(name, value) for name, value in row.items() if name not in _INTERNAL}
    facts = {_CALLED.get(name, name.replace("_", " ")): text for name, text in told.items()}
    return {
        "row": row,
        "facts": [(name, text) for name, text in facts.items() if text],
        "sound": sound,
        "figure": figure,
        "troubles": troubles,
        "feature_sets": [str(of["feature_set"]) for of in stored],
        "feature_set": feature_set,
        "before": before,
        "after": after,
        "predictions": _predictions(connection, row),
        "copies": _copies(connection, row),
        "folds": _folds(connection, row),
    }


def _fact(name: str, value: Any) -> str:
    if name == "rms_db" and value is not None:
        return f"{value:.1f} dB re full scale"
    return f"{value:.2f} s" if name.endswith("_s") and isinstance(value, float) else cell(value)


def _figure(
    library: Library, connection: Connection, row: Mapping[str, Any], feature_set: str, *, has_sound: bool
) -> dict[str, Any] | None:
    """Return the drawn wave with its spectrogram or stored frames; None where there is neither.

    Raises:
        TfserError: if the sound or the frames cannot be read.
    """
    if feature_set:
        view = features_of(
            library.cache, connection, row["utterance_id"], corpus=row["corpus"], feature_sets=(feature_set,), has_sound=has_sound
        )
        words = f"Wave, and frames of {feature_set} as they are stored."
    elif has_sound:
        view = _spectrogram(audio_row=row, library=library)
        words = "Wave, and log-Mel spectrogram of the sound that is played."
    else:
        return None
    with library.drawing, house_style():
        svg = inline_svg(paper_drawing.features(view, PAGE_INCHES), "view", visible(str(row["utterance_id"])), visible(words))
    return {"svg": Safe(svg), "reading": words, "notes": view.notes}


def _spectrogram(audio_row: Mapping[str, Any], library: Library) -> FeatureView:
    """Return the wave of an utterance and its log-Mel frames, computed here and now."""
    file = audio_file(audio_row, library.folders)
    audio = decode(file, start_s=audio_row["start_s"], end_s=audio_row["end_s"], max_duration_s=MAX_DURATION_S)
    front_end = LogMel()
    rate = front_end.config.sample_rate_hz
    samples = audio.samples if audio.sample_rate == rate else resample(audio.samples, audio.sample_rate, rate)
    frames = front_end.extract(samples)
    return FeatureView(
        utterance=audio_row,
        samples=audio.samples,
        sample_rate=audio.sample_rate,
        frames={"logmel": (frames, front_end.config.hop_s)},
        notes=("The file is damaged: this is what could be read of it.",) if audio.damaged else (),
    )


def _neighbours(connection: Connection, row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the addresses of the utterances before and after, in the order of their ids."""
    addresses = []
    for sign, order in (("<", "DESC"), (">", "ASC")):
        near = rows(
            connection,
            f"SELECT utterance_id FROM utterances WHERE corpus = ? AND utterance_id {sign} ? "
            f"ORDER BY utterance_id {order} LIMIT 1",
            [row["corpus"], row["utterance_id"]],
        )
        addresses.append(address_of(row["corpus"], near[0]["utterance_id"]) if near else None)
    return addresses[0], addresses[1]


def address_of(corpus: str, utterance: str) -> str:
    """Return the address of an utterance's page, seen from any other page."""
    return f"utterance?{urlencode({'corpus': corpus, 'id': utterance})}"


def _predictions(connection: Connection, row: Mapping[str, Any]) -> ReportTable:
    """Return what each experiment took the utterance for, those that were right first."""
    predictions = rows(
        connection,
        "SELECT r.experiment, r.seed, r.fold, r.predicted, r.hit, q.probabilities FROM result_predictions r "
        "JOIN predictions q ON q.run_id = r.run_id AND q.corpus = r.corpus AND q.utterance_id = r.utterance_id "
        "AND q.selection = 'last' AND q.level = 'utterance' WHERE r.corpus = ? AND r.utterance_id = ? "
        f"ORDER BY r.hit DESC, r.experiment, r.seed LIMIT {_MOST}",
        [row["corpus"], row["utterance_id"]],
    )
    return ReportTable(
        title=f"what experiments take it for ({sum(row['hit'] for row in predictions)} of {len(predictions)} right)",
        columns=("experiment", "seed", "fold", "taken for", "right", "probabilities"),
        rows=tuple(
            (
                {"href": f"experiment?{urlencode({'id': prediction['experiment']})}", "text": prediction["experiment"]},
                str(prediction["seed"]),
                str(prediction["fold"]),
                prediction["predicted"],
                "yes" if prediction["hit"] else "no",
                highest(prediction["probabilities"]),
            )
            for prediction in predictions
        ),
        right=frozenset({"seed", "fold"}),
        notes=(f"The first {_MOST} only.",) if len(predictions) == _MOST else (),
    )


def _copies(connection: Connection, row: Mapping[str, Any]) -> ReportTable:
    """Return utterances with the same samples, and those that sound like a copy."""
    copies = rows(
        connection,
        "SELECT corpus, utterance_id, label, speaker, 'the same samples' AS how FROM utterances "
        "WHERE content_hash = ? AND (corpus, utterance_id) <> (?, ?) UNION ALL "
        "SELECT n.other_corpus, n.other_id, u.label, u.speaker, n.evidence || ', similarity ' || round(n.similarity, 3) "
        "FROM near_duplicates n LEFT JOIN utterances u ON u.corpus = n.other_corpus AND u.utterance_id = n.other_id "
        "WHERE n.corpus = ? AND n.utterance_id = ? ORDER BY 1, 2, 5 LIMIT 50",
        [row["content_hash"], *([row["corpus"], row["utterance_id"]] * 2)],
    )
    lines = tuple(
        ({"href": address_of(of["corpus"], of["utterance_id"]), "text": of["utterance_id"]}, of["corpus"], of["speaker"] or "",
         of["label"] or "", of["how"]) for of in copies
    )  # fmt: skip
    return ReportTable(title="copies", columns=("utterance", "corpus", "speaker", "label", "how alike"), rows=lines)


def _folds(connection: Connection, row: Mapping[str, Any]) -> ReportTable:
    """Return in which role the utterance stands in the folds of each protocol."""
    folds = rows(
        connection,
        "SELECT protocol, role, array_to_string(list_sort(list(DISTINCT fold)), ', ') AS folds, any_value(label) AS label "
        "FROM folds WHERE corpus = ? AND utterance_id = ? GROUP BY protocol, role ORDER BY protocol, role DESC",
        [row["corpus"], row["utterance_id"]],
    )
    return table_of("its place in the protocols", folds)
