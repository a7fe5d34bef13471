"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database (Busso et al., LREJ 2008; licensed by USC SAIL).

About 12 hours of English dialogue in 5 sessions, each with one woman and one man, improvised and scripted; 10,039 utterances.

    Session{1..5}/sentences/wav/<dialogue>/<utterance>.wav
    Session{1..5}/dialog/EmoEvaluation/<dialogue>.txt       the consensus: [start - end] TAB utterance TAB label TAB [V, A, D]
        below each turn the single ratings: C-E2: TAB Neutral; TAB (comment), A-E3: TAB val 3; act 2; dom 2; TAB (comment)
    Session{1..5}/dialog/EmoEvaluation/Categorical/<dialogue>_e1_cat.txt   the same again, read for turns that have none above:
    Session{1..5}/dialog/EmoEvaluation/Attribute/<dialogue>_e1_atr.txt     utterance :Neutral state; (), :act 2; :val 3; :dom 2;
    Session{1..5}/dialog/transcriptions/<dialogue>.txt      utterance [start-end]: words

What others fell over:

* **The speaker.** `Ses01F_impro01_M003` is spoken by the *man* of session 1. The letter before the last number is the speaker;
  the prefix `Ses01F` only names who wears the markers. So speaker `Ses01M`, session `Ses01`.
* Copies of the corpus hold `._*` files of macOS beside the real ones, in the label folders too.
* The sub-folders of EmoEvaluation (Attribute, Categorical, Self-evaluation) are single ratings, not the consensus.
* The consensus does not count what the actors said of themselves (raters C-F1, C-M1, A-F1, A-M1): neither do distributions here.
* All labels are rows here, `xxx` (no agreement, "undecided") too. Which of them count is a protocol's matter.

The times in the label files are the turn's place in the dialogue, not a segment of the utterance's own file: they are the
columns `turn_start_s` and `turn_end_s`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading, audio_files, is_junk, read_lines, relative

_NUMBER = r"-?\d+(?:\.\d+)?"
_EVALUATION = re.compile(
    rf"^\[\s*(?P<start>{_NUMBER})\s*-\s*(?P<end>{_NUMBER})\s*\]\s+(?P<id>Ses\d\d[FM]_\S+)\s+(?P<label>[A-Za-z]+)\s*"
    rf"(?:\[\s*(?P<v>{_NUMBER})\s*,\s*(?P<a>{_NUMBER})\s*,\s*(?P<d>{_NUMBER})\s*\])?\s*$"
)
_TRANSCRIPT = re.compile(rf"^(?P<id>Ses\d\d[FM]_\S+)\s+\[\s*{_NUMBER}\s*-\s*{_NUMBER}\s*\]:\s*(?P<words>.*)$")
_RATING = re.compile(r"^(?P<rater>[CA]-[A-Z]+\d+)\s*:\s*(?P<said>[^()]*)")
_SINGLE = re.compile(r"^(?P<id>Ses\d\d[FM]_\S+)\s+(?P<said>:[^()]*)")
_VALUE = re.compile(rf"(?P<name>val|act|dom)\s*(?P<value>{_NUMBER})", re.IGNORECASE)
_FOLDERS = {"Categorical": ("C", "cat"), "Attribute": ("A", "atr")}
_DIMENSIONS = {"val": "valence", "act": "arousal", "dom": "dominance"}
_UTTERANCE = re.compile(r"(?P<session>Ses\d\d)[FM]_(?P<scene>(?P<kind>impro|script)\w*?)_(?P<speaker>[FM])(?:\d+|XX\d*)\w*")
_SCENARIOS = {"impro": "improvised", "script": "scripted"}


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read IEMOCAP from the folder that holds `Session1`, from one folder above it, or from the folder of one session.

    Raises:
        TfserError: if there is no session in it, or no labelled turn in the sessions.
    """
    sessions = _sessions(root)
    if not sessions:
        raise READER.fail(root, "there is no folder Session1 in it, nor in a folder of it")
    reading = Reading()
    for session in sessions:
        # By session, since audio, transcripts and labels of one lie in three trees. The labels decide what is
        # an utterance: a recording without a consensus label is listed, not dropped.
        wavs = session / "sentences" / "wav"
        audio = {path.stem: path for path in audio_files(wavs, skipped=reading.skipped)} if wavs.is_dir() else {}
        words = dict(_transcripts(session / "dialog" / "transcriptions"))
        labelled: set[str] = set()
        for match, source in _evaluations(session / "dialog" / "EmoEvaluation"):
            name = match["id"]
            parts = _UTTERANCE.fullmatch(name)
            if parts is None:
                reason = "the id is not session, dialogue and speaker with a number"
                reading.skipped.append((name, relative(source, root), reason))
                continue
            if name in labelled:
                reading.skipped.append((name, relative(source, root), "labelled a second time; the first label stands"))
                continue
            labelled.add(name)
            reading.utterances.append(_utterance(root, session, match, parts, audio.get(name), words.get(name)))
        reading.annotations += _ratings(session / "dialog" / "EmoEvaluation")
        for name, path in audio.items():
            if name not in labelled:
                reading.skipped.append((name, relative(path, root), "no consensus label in dialog/EmoEvaluation"))
    if not reading.utterances:
        raise READER.fail(root, "no Session*/dialog/EmoEvaluation/*.txt holds a labelled turn")
    return reading


def _utterance(
    root: Path,
    session: Path,
    line: re.Match[str],
    parts: re.Match[str],
    path: Path | None,
    words: str | None,
) -> Utterance:
    name, raw = line["id"], line["label"].lower()
    dialogue = name.rpartition("_")[0]
    if path is None:  # missing: the scan will say so
        path = session / "sentences" / "wav" / dialogue / f"{name}.wav"
    return Utterance(
        utterance_id=name,
        path=relative(path, root),
        speaker=parts["session"] + parts["speaker"],
        gender=parts["speaker"],
        session=parts["session"],
        dialogue=dialogue,
        scenario=_SCENARIOS[parts["kind"]],
        sentence=parts["scene"] if parts["kind"] == "script" else None,
        transcript=words,
        label=normalise(raw),
        raw_label=raw,
        valence=_number(line["v"]),
        arousal=_number(line["a"]),
        dominance=_number(line["d"]),
        extra={"turn_start_s": float(line["start"]), "turn_end_s": float(line["end"])},
    )


def _sessions(root: Path) -> list[Path]:
    inner = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_junk(path.name)]
    for folder in (root, *inner):
        found = sorted(path for path in folder.glob("Session[1-5]") if path.is_dir())
        if found:
            return found
    return [root] if (root / "dialog" / "EmoEvaluation").is_dir() else []


def _texts(folder: Path) -> Iterator[Path]:
    """Yield the text files directly in a folder; sub-folders and junk are left out."""
    if folder.is_dir():
        yield from (p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix == ".txt" and not is_junk(p.name))


def _evaluations(folder: Path) -> Iterator[tuple[re.Match[str], Path]]:
    for path in _texts(folder):
        for line in read_lines(path):
            if match := _EVALUATION.match(line.strip()):
                yield match, path


def _ratings(folder: Path) -> Iterator[Annotation]:
    """Yield the single ratings of a session: those below the turns, and from the sub-folders those of turns without any there."""
    rated: set[tuple[str, str]] = set()
    for path in _texts(folder):
        turn = None
        for line in read_lines(path):
            if match := _EVALUATION.match(line.strip()):
                turn = match["id"]
            elif turn is not None and (rating := _RATING.match(line.strip())) is not None:
                rated.add((turn, rating["rater"][0]))
                yield from _annotations(turn, rating["rater"], rating["said"])
    for name, (kind, ending) in _FOLDERS.items():
        for path in _texts(folder / name):
            who = re.fullmatch(rf"\w+?_(?P<rater>[a-z]\d+)_{ending}", path.stem, re.IGNORECASE)
            for line in read_lines(path) if who is not None else ():
                single = _SINGLE.match(line.strip())
                if who is not None and single is not None and (single["id"], kind) not in rated:
                    yield from _annotations(single["id"], f"{kind}-{who['rater'].upper()}", single["said"])


def _annotations(turn: str, rater: str, answers: str) -> Iterator[Annotation]:
    """Yield what one rater said of a turn: its labels (C), or its values (A); nothing where there are none."""
    is_own = rater[2] != "E"
    common: dict[str, Any] = {
        "utterance_id": turn,
        "rater": rater,
        "setting": "self" if is_own else "multimodal",
        "counts": not is_own,
    }
    if rater.startswith("A"):
        values: dict[str, Any] = {_DIMENSIONS[found["name"].lower()]: float(found["value"]) for found in _VALUE.finditer(answers)}
        if values:
            yield Annotation(**common, **values)
        return
    words = (word.strip(" \t:").removesuffix(" state") for word in answers.split(";"))
    yield from (Annotation(**common, label=label) for label in dict.fromkeys(map(normalise, words)) if label is not None)


def _transcripts(folder: Path) -> Iterator[tuple[str, str]]:
    for path in _texts(folder):
        for line in read_lines(path):
            if match := _TRANSCRIPT.match(line.strip()):
                yield match["id"], match["words"].strip()


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


READER = CorpusReader(
    name="iemocap",
    summary="IEMOCAP: English dialogues, improvised and scripted, 10 speakers in 5 sessions, 10,039 utterances",
    source="Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, LREJ 42, 2008",
    layout=(
        "  ROOT/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav\n"
        "  ROOT/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt\n"
        "  ROOT/Session1/dialog/transcriptions/Ses01F_impro01.txt   (optional)\n"
        "  ... up to ROOT/Session5"
    ),
    read=read,
    default_protocol="iemocap4-session",
    page="https://sail.usc.edu/iemocap",
    licence="research only, on request to USC SAIL",
    expected=Expected(
        utterances=10_039,
        speakers=10,
        labels={
            **{"anger": 1103, "happiness": 595, "excitement": 1041, "sadness": 1084, "neutral": 1708, "frustration": 1849},
            **{"fear": 40, "surprise": 107, "disgust": 2, "other": 3, "undecided": 2507},
        },
    ),
)
