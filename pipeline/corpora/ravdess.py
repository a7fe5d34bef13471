"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song (Livingstone & Russo, PLOS ONE 2018; CC BY-NC-SA 4.0).

24 actors speak two English sentences in eight emotions (1,440 utterances) and sing them in six (1,012; actor 18 does not sing,
and there is no sung disgust or surprise). Everything is in the name of the file, two digits a field:

    Actor_01/03-01-05-01-02-01-01.wav
    modality 03 (01 sound and picture, 02 picture alone, 03 sound alone), vocal channel 01 (01 speech, 02 song), emotion 05,
    intensity 01 (01 normal, 02 strong), statement 02, repetition 01, actor 01 (odd: male, even: female)

Speech and song are told apart by the column `vocal_channel`; protocols say which they take.

The archives with pictures hold each performance again: with its sound (01) and without (02). A performance is one utterance, from
the file of its sound alone where there is one, else from the one with sound and picture, which needs the extra `[video]`.
Some copies hold every folder a second time inside `audio_speech_actors_01-24`: the second file of a name is listed as skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading, audio_files, relative
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, VIDEO_SUFFIXES

MODALITIES = {"01": "audio-video", "02": "video-only", "03": "audio-only"}
CHANNELS = {"01": "speech", "02": "song"}
EMOTIONS = {
    **{"01": "neutral", "02": "calm", "03": "happy", "04": "sad"},
    **{"05": "angry", "06": "fearful", "07": "disgust", "08": "surprised"},
}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}

_SUNG = ("calm", "happiness", "sadness", "anger", "fear")
SPEECH = Expected(utterances=1440, speakers=24, labels={"neutral": 96, **dict.fromkeys((*_SUNG, "disgust", "surprise"), 192)})
SONG = Expected(utterances=1012, speakers=23, labels={"neutral": 92, **dict.fromkeys(_SUNG, 184)})
BOTH = Expected(
    utterances=2452,
    speakers=24,
    labels={"neutral": 188, **dict.fromkeys(_SUNG, 376), **dict.fromkeys(("disgust", "surprise"), 192)},
)

_NAME = re.compile(
    r"(?P<modality>0[123])-(?P<performance>(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<statement>0[12])-"
    r"(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4]))"
)
_ORDER = ("03", "01", "02")
"""Modalities, the one to read first."""


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read RAVDESS from a folder that holds its archives, unpacked at whatever depth.

    Raises:
        TfserError: if no file is named like RAVDESS's.
    """
    reading = Reading()
    # The same performance comes as sound, as video and as video without sound: one of them is the utterance, since to
    # read all would count it three times.
    takes: dict[str, list[tuple[int, bool, str, re.Match[str]]]] = {}
    for path in audio_files(root, KNOWN_SUFFIXES | VIDEO_SUFFIXES, reading.skipped):
        name = relative(path, root)
        match = _NAME.fullmatch(path.stem)
        if match is None:
            reading.skipped.append((None, name, "the name is not seven fields of two digits, as in 03-01-05-01-02-01-01"))
            continue
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        takes.setdefault(match["performance"], []).append((_ORDER.index(match["modality"]), is_video, name, match))
    again: Counter[str] = Counter()
    for members in takes.values():
        # Audio before video, the shorter path before the longer one: which file is taken does not depend on the
        # order of a disk.
        members.sort(key=lambda take: (*take[:2], take[2].count("/"), take[2]))
        (_, _, name, match), *others = members
        if match["modality"] == "02":
            reading.skipped += [(m.string, other, "it has no sound: modality 02") for _, _, other, m in members]
            continue
        reading.utterances.append(_utterance(name, match))
        for _, _, other, of in others:
            if of["modality"] == match["modality"]:
                reading.skipped.append((match.string, other, f"the same utterance as {name}"))
            else:
                again[MODALITIES[of["modality"]]] += 1
    if not reading.utterances:
        raise READER.fail(root, "no audio file is named like 03-01-05-01-02-01-01.wav")
    if again:
        counts = " and ".join(f"{n:,} {kind}" for kind, n in sorted(again.items()))
        reading.notes.append(f"{counts} files are of performances that are read from another file; each is counted once")
    channels = {u.extra["vocal_channel"] for u in reading.utterances}
    reading.expected = BOTH if len(channels) > 1 else SPEECH if channels == {"speech"} else SONG
    reading.utterances.sort(key=lambda u: u.path)
    return reading


def _utterance(name: str, match: re.Match[str]) -> Utterance:
    raw = EMOTIONS[match["emotion"]]
    return Utterance(
        utterance_id=match.string,
        path=name,
        speaker=match["actor"],
        gender="M" if int(match["actor"]) % 2 else "F",
        sentence=match["statement"],
        transcript=STATEMENTS[match["statement"]],
        label=normalise(raw),
        raw_label=raw,
        extra={
            "vocal_channel": CHANNELS[match["channel"]],
            "modality": MODALITIES[match["modality"]],
            "intensity": INTENSITIES[match["intensity"]],
            "repetition": int(match["repetition"]),
        },
    )


READER = CorpusReader(
    name="ravdess",
    summary="RAVDESS: English, acted, 24 actors, 8 emotions; 1,440 utterances of speech and 1,012 of song",
    source="Livingstone & Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLOS ONE 13(5), 2018",
    layout=(
        "  ROOT/Actor_01/03-01-05-01-02-01-01.wav   (modality, speech or song, emotion, intensity, statement,\n"
        "  ... up to ROOT/Actor_24                    repetition, actor; wav or flac, or mp4 with the extra [video])"
    ),
    read=read,
    default_protocol="ravdess8-speaker",
    page="https://zenodo.org/records/1188976",
    licence="CC BY-NC-SA 4.0",
    expected=BOTH,
)
