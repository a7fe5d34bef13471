"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset (Cao et al., IEEE TAC 2014; Open Database License 1.0).

7,442 clips: 91 actors (48 male, 43 female) speak 12 English sentences in six emotions. The file's name says what was intended:

    AudioWAV/1087_IWL_ANG_XX.wav      actor 1087, sentence IWL, anger, level not specified (LO, MD, HI, XX)
    VideoDemographics.csv                             age, sex, race and ethnicity of the actors   (optional)
    processedResults/summaryTable.csv                 what the crowd heard and saw                 (optional)
    processedResults/tabulatedVotes.csv               the votes, counted                           (optional)
    finishedResponses.csv                             every vote and who gave it                   (optional)

`label` is the intended emotion, as nearly all published work has it. Where a vote table is present, wherever below the root,
what the crowd perceived in the voice, the face and both becomes the columns `crowd_voice`, `crowd_face` and `crowd_multimodal`;
a tie is written like `anger:disgust`. The summary gives their mean levels (0 to 100), the votes their number and the share of the
raters who agreed.

The votes themselves are single ratings (the table `annotations`): from finishedResponses.csv with their raters, and from the
counts, as votes of nobody in particular, where that is not there. Those of the voice alone count, as a head hears no more; what
was said of faces and videos is kept beside them.

1076_MTI_SAD_XX is without sound: it is flagged `silent`, and stays. Older copies write 1040_ITH_SAD_X for 1040_ITH_SAD_XX
(CREMA-D#6): it gets the id of the others. A clone made without Git LFS holds pointers in the files' place, and the scan says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading, audio_files, number_in, relative
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, VIDEO_SUFFIXES

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
WAYS = ("voice", "face", "multimodal")
"""What the crowd was given: in the votes' table, the first digit of a row's name, from 1."""

_NAME = re.compile(
    rf"(?P<actor>1\d{{3}})_(?P<sentence>{'|'.join(SENTENCES)})_(?P<emotion>{'|'.join(EMOTIONS)})_(?P<level>LO|MD|HI|XX?)",
    re.IGNORECASE,
)
_VOTES = dict(zip("ADFHNS", EMOTIONS.values(), strict=True))
_PREFERRED = (".wav", ".flac", ".mp3")

Row = dict[str, str]


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read CREMA-D from the folder that holds `AudioWAV/`, from one above it, or from that folder itself.

    Raises:
        TfserError: if no file is named like CREMA-D's, or a side table cannot be read.
    """
    reading = Reading()
    # One walk for clips and side tables: which of the published folders are there differs from copy to copy.
    files = list(audio_files(root, {".csv", *KNOWN_SUFFIXES, *VIDEO_SUFFIXES}, reading.skipped))
    actors = {row["actorid"]: row for row in _rows(files, "VideoDemographics.csv") if "actorid" in row}
    crowd = _crowd(files)
    clips: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() == ".csv":
            continue
        if _NAME.fullmatch(path.stem) is None:
            reason = "the name is not actor, sentence, emotion and level, as in 1087_IWL_ANG_XX"
            reading.skipped.append((None, relative(path, root), reason))
            continue
        clips.setdefault(_id(path.stem), []).append(path)
    again: Counter[str] = Counter()
    # The corpus is published as wav, mp3 and video of the same clips: one of them is the utterance, and the
    # others are counted, or listed where they are of the same kind.
    for utterance_id, paths in sorted(clips.items()):
        first, *others = sorted(paths, key=_order)
        reading.utterances.append(_utterance(root, utterance_id, first, actors, crowd))
        for path in others:
            if path.suffix.lower() == first.suffix.lower():
                reading.skipped.append((utterance_id, relative(path, root), f"the same utterance as {relative(first, root)}"))
            else:
                again[path.suffix.lower()] += 1
    reading.annotations = list(_responses(files, reading)) or list(_votes(files))
    if not reading.utterances:
        raise READER.fail(root, "no audio file is named like 1087_IWL_ANG_XX.wav")
    if again:
        left = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(again.items()))
        reading.notes.append(f"clips are there in more than one kind of file; these are not read: {left}")
    return reading


def _utterance(
    root: Path, utterance_id: str, path: Path, actors: Mapping[str, Row], crowd: Mapping[str, Mapping[str, Any]]
) -> Utterance:
    actor, sentence, emotion, level = utterance_id.split("_")
    about = actors.get(actor, {})
    sex = about.get("sex", "")[:1].upper()
    own: dict[str, Any] = {"level": LEVELS[level]}
    if actors:
        age = about.get("age", "")
        own |= {"age": int(age) if age.isdecimal() else None, "race": about.get("race"), "ethnicity": about.get("ethnicity")}
    return Utterance(
        utterance_id=utterance_id,
        path=relative(path, root),
        speaker=actor,
        gender=sex if sex in ("F", "M") else None,
        sentence=sentence,
        transcript=SENTENCES[sentence],
        label=normalise(EMOTIONS[emotion]),
        raw_label=emotion,
        extra={**own, **crowd.get(utterance_id, {})},
    )


def _crowd(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the crowd's columns by utterance: from the votes, and from the summary, which stands where both are."""
    result: dict[str, dict[str, Any]] = {}
    for row in _rows(files, "tabulatedVotes.csv"):
        number = row.get("column1", "")
        if number[:1] in ("1", "2", "3") and len(number) == 6 and "filename" in row:
            way = WAYS[int(number[0]) - 1]
            own = result.setdefault(_id(row["filename"]), {})
            own[f"crowd_{way}"] = _perceived(row.get("emovote"))
            own[f"crowd_{way}_votes"] = number_in(row.get("numresponses"))
            own[f"crowd_{way}_agreement"] = number_in(row.get("agreement"))
    for row in _rows(files, "summaryTable.csv"):
        if "filename" in row:
            own = result.setdefault(_id(row["filename"]), {})
            for way in WAYS:
                own[f"crowd_{way}"] = _perceived(row.get(f"{way}vote"))
                own[f"crowd_{way}_level"] = number_in(row.get(f"{way}level"))
    return result


def _responses(files: Sequence[Path], reading: Reading) -> Iterator[Annotation]:
    """Yield every answer with its rater: `respEmo`, or the letter in front of `ans`; list those that say nothing known."""
    for place, row in enumerate(_rows(files, "finishedResponses.csv"), 1):
        way, answer = row.get("querytype", ""), (row.get("respemo") or row.get("ans", "").partition("_")[0]).upper()
        label = _VOTES.get(answer) or EMOTIONS.get(answer[:3])
        if way in ("1", "2", "3") and "clipname" in row and label is not None:
            yield _vote(_id(row["clipname"]), WAYS[int(way) - 1], label, row.get("localid"))
        else:
            reason = f"row {place}: the emotion {answer!r} or the kind of query {way!r} is none of the corpus's"
            reading.unused_ratings.append((row.get("clipname"), "finishedResponses.csv", reason))


def _votes(files: Sequence[Path]) -> Iterator[Annotation]:
    """Yield the votes that are counted by clip, without raters."""
    for row in _rows(files, "tabulatedVotes.csv"):
        number = row.get("column1", "")
        if number[:1] in ("1", "2", "3") and len(number) == 6 and "filename" in row:
            for letter, label in _VOTES.items():
                for _ in range(int(number_in(row.get(letter.lower())) or 0)):
                    yield _vote(_id(row["filename"]), WAYS[int(number[0]) - 1], label, None)


def _vote(utterance_id: str, way: str, label: str, rater: str | None) -> Annotation:
    return Annotation(utterance_id=utterance_id, rater=rater, label=label, setting=way, counts=way == "voice")


def _rows(files: Sequence[Path], name: str) -> Iterator[Row]:
    """Yield the rows of the side table of a name, the one nearest to the root; keys are small letters and digits alone."""
    found = [path for path in files if path.name.casefold() == name.casefold()]
    if found:
        data = load(min(found, key=lambda path: (len(path.parts), str(path))), None, ())
        keys = [re.sub("[^a-z0-9]", "", column.casefold()) for column in data.column_names]
        for values in zip(*(column.to_pylist() for column in data.columns), strict=True):
            yield {key: str(value) for key, value in zip(keys, values, strict=True) if value is not None}


def _perceived(vote: str | None) -> str | None:
    """Return the labels of a vote, ties as `anger:disgust`; nothing for what is no vote."""
    labels = [_VOTES.get(letter.strip().upper()) for letter in (vote or "").split(":")]
    return None if None in labels else ":".join(label for label in labels if label)


def _id(stem: str) -> str:
    """Return the id of a clip as the corpus spells it today."""
    stem = re.sub(r"\.(FLV|MP3|WAV)$", "", stem.upper())
    return f"{stem}X" if stem.endswith("_X") else stem


def _order(path: Path) -> tuple[int, bool, int, str]:
    """Sort key: the file to read comes first."""
    suffix = path.suffix.lower()
    rank = _PREFERRED.index(suffix) if suffix in _PREFERRED else len(_PREFERRED)
    return rank, suffix in VIDEO_SUFFIXES, len(path.parts), str(path)


READER = CorpusReader(
    name="crema_d",
    summary="CREMA-D: English, acted, 91 actors, 6 emotions, 12 sentences, rated by a crowd, 7,442 utterances",
    source="Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE Trans. Affective Computing 5(4), 2014",
    layout=(
        "  ROOT/AudioWAV/1087_IWL_ANG_XX.wav         (actor, sentence, emotion, level)\n"
        "  ROOT/VideoDemographics.csv                (optional)\n"
        "  ROOT/processedResults/summaryTable.csv    (optional, as is tabulatedVotes.csv)"
    ),
    read=read,
    default_protocol="crema_d6-group5",
    page="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="Open Database License 1.0",
    expected=Expected(
        utterances=7442,
        speakers=91,
        labels={**dict.fromkeys(("anger", "disgust", "fear", "happiness", "sadness"), 1271), "neutral": 1087},
    ),
)
