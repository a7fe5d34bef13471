"""EmoDB, the Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005; CC0).

535 utterances: 10 actors (5 female, 5 male) read 10 German sentences in 7 emotions, 16 kHz mono. Everything is in the name of
the file, `wav/03a01Fa.wav`: speaker 03, sentence a01, emotion F, take a. The letters abbreviate the German words. Counts:
anger 127, boredom 81, neutral 79, happiness 71, fear 69, sadness 62, disgust 46. Speaker 08 has no disgust.

The side file `erkennung.txt`, where it is present, gives the share of 20 listeners who recognised the emotion and who found it
natural; they become the columns `recognised_percent` and `natural_percent`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading, audio_files, read_lines, relative

LETTERS = {
    "W": ("Wut", "anger"),
    "L": ("Langeweile", "boredom"),
    "E": ("Ekel", "disgust"),
    "A": ("Angst", "fear"),
    "F": ("Freude", "happiness"),
    "T": ("Trauer", "sadness"),
    "N": ("neutral", "neutral"),
}
GENDERS = {speaker: gender for gender, of in (("M", "03 10 11 12 15"), ("F", "08 09 13 14 16")) for speaker in of.split()}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_NAME = re.compile(r"(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<letter>[A-Z])(?P<take>[a-z]?)")


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read EmoDB from the folder that holds `wav/`, or from that folder itself.

    Raises:
        TfserError: if no file is named like EmoDB's.
    """
    folder = root / "wav" if (root / "wav").is_dir() else root
    listeners = _listeners(root)
    reading = Reading()
    seen: dict[str, str] = {}
    # Everything that the corpus says of a recording is in its name; only what listeners said comes from a
    # table, where there is one.
    for path in audio_files(folder, skipped=reading.skipped):
        name = relative(path, root)
        match = _NAME.fullmatch(path.stem)
        if match is None or match["letter"] not in LETTERS:
            reading.skipped.append((None, name, "the name is not speaker, sentence, emotion letter and take, as in 03a01Fa"))
            continue
        if path.stem in seen:
            reading.skipped.append((path.stem, name, f"the same utterance as {seen[path.stem]}"))
            continue
        seen[path.stem] = name
        raw, label = LETTERS[match["letter"]]
        recognised, natural = listeners.get(path.stem, (None, None))
        reading.utterances.append(
            Utterance(
                utterance_id=path.stem,
                path=name,
                speaker=match["speaker"],
                gender=GENDERS.get(match["speaker"]),
                sentence=match["sentence"],
                transcript=SENTENCES.get(match["sentence"]),
                label=label,
                raw_label=raw,
                extra={"recognised_percent": recognised, "natural_percent": natural} if listeners else {},
            )
        )
    if not reading.utterances:
        raise READER.fail(root, "no audio file is named like 03a01Fa.wav")
    return reading


def _listeners(root: Path) -> dict[str, tuple[float | None, float | None]]:
    """Return recognition and naturalness, in percent, by utterance: tab-separated, decimal commas, padded with odd blanks."""
    path = root / "erkennung.txt"
    if not path.is_file():
        return {}
    result = {}
    for line in read_lines(path):
        cells = [re.sub(r"[^\w.,]", "", cell) for cell in line.split("\t")]
        if len(cells) >= 4 and cells[1].lower().endswith(".wav"):
            result[cells[1][:-4]] = (_percent(cells[2]), _percent(cells[3]))
    return result


def _percent(cell: str) -> float | None:
    match = re.match(r"\d+(?:[.,]\d+)?", cell)
    return float(match[0].replace(",", ".")) if match else None


READER = CorpusReader(
    name="emodb",
    summary="Berlin Database of Emotional Speech: German, acted, 10 speakers, 7 emotions, 535 utterances",
    source="Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
    layout=(
        "  ROOT/wav/03a01Fa.wav   (speaker 03, sentence a01, emotion F, take a; wav or flac)\n  ROOT/erkennung.txt     (optional)"
    ),
    read=read,
    default_protocol="emodb7-speaker",
    page="http://emodb.bilderbar.info",
    licence="CC0 1.0",
    expected=Expected(
        utterances=535,
        speakers=10,
        labels={"anger": 127, "boredom": 81, "neutral": 79, "happiness": 71, "fear": 69, "sadness": 62, "disgust": 46},
    ),
)
