"""CASIA, the Chinese emotional speech corpus of the Institute of Automation, Chinese Academy of Sciences.

Four speakers act six emotions. The part that circulates holds 50 sentences, which all speakers read in all emotions:
1,200 = 4 x 6 x 50 utterances, 200 of each emotion.

    <speaker>/<emotion>/<number>.wav        liuchanhg/angry/201.wav

The whole corpus has 9,600: 300 parallel sentences, the same words in every emotion, and 100 whose words themselves say the
emotion. Copies keep these in folders of their own (相同文本300 and 不同文本100, the latter with speakers written Chang.Liu and
the like, and `normal` for neutral), and number both from 1. So ids and sentences tell them apart: `liuchanhg_angry_001`
with sentence 001 against `liuchanhg_angry_own001` with sentence angry001; the column `parallel` says it, too.

Other copies put the emotion first (`angry/201-angry-liuchanhg.wav`), or everything in one name. So each part is looked for in
all of the path, in the file's name first, whatever the case; the spelling liuchanhg is the corpus's own. Two speakers are
female and two male; which, is known from users' lists only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading, audio_files, relative

GENDERS = {"liuchanhg": "F", "wangzhe": "M", "zhaoquanyin": "F", "zhaozuoxiang": "M"}
EMOTIONS = {
    "anger": "angry",
    "fear": "fear",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprise",
}
"""The corpus's own word for each label, which ids carry."""

PARALLEL = 300
"""The highest number of a parallel sentence."""

_SPEAKERS = {
    **{name: name for name in GENDERS},
    **{"liuchang": "liuchanhg", "changliu": "liuchanhg", "zhewang": "wangzhe"},
    **{"quanyinzhao": "zhaoquanyin", "zuoxiangzhao": "zhaozuoxiang"},
}
_OWN_TEXT = re.compile(r"不同文本|non[\s_-]?parallel|different[\s_-]?text", re.IGNORECASE)


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read CASIA from a folder that holds the speakers' folders, at whatever depth, or from the folder of one speaker.

    Raises:
        TfserError: if the path of no file says speaker, emotion and number.
    """
    reading = Reading()
    seen: dict[str, str] = {}
    for path in audio_files(root, skipped=reading.skipped):
        name = relative(path, root)
        # The root may be the folder of a speaker, or of an emotion in one.
        parts = [path.stem, *reversed(path.parent.relative_to(root).parts), root.name]
        speaker = _first([*parts, root.parent.name], _speaker)
        emotion, number = _first(parts, _emotion), _number(path.stem)
        if speaker is None or emotion is None or number is None:
            said = (("speaker", speaker), ("emotion", emotion), ("number", number))
            lacks = " and ".join(which for which, value in said if value is None)
            reading.skipped.append((None, name, f"neither the name nor a folder says its {lacks}, as in liuchanhg/angry/201.wav"))
            continue
        # Numbers up to 300 are the same sentences in every emotion; whatever is above, or lies in a folder that says
        # so, is of its own.
        own = number > PARALLEL or any(_OWN_TEXT.search(part) for part in parts)
        utterance_id = f"{speaker}_{EMOTIONS[emotion]}_{'own' if own else ''}{number:03d}"
        if utterance_id in seen:
            reading.skipped.append((utterance_id, name, f"the same utterance as {seen[utterance_id]}"))
            continue
        seen[utterance_id] = name
        reading.utterances.append(
            Utterance(
                utterance_id=utterance_id,
                path=name,
                speaker=speaker,
                gender=GENDERS[speaker],
                sentence=f"{EMOTIONS[emotion]}{number:03d}" if own else f"{number:03d}",
                label=emotion,
                raw_label=EMOTIONS[emotion],
                extra={"parallel": not own},
            )
        )
    if not reading.utterances:
        raise READER.fail(root, "no path of a file says speaker, emotion and number")
    # Most copies hold the parallel part alone; the counts of the whole corpus are expected of those that hold more.
    if any(not u.extra["parallel"] for u in reading.utterances):
        reading.expected = WHOLE
    return reading


def _first(parts: Sequence[str], find: Callable[[str], str | None]) -> str | None:
    """Return what the first part says that says anything."""
    return next((found for part in parts if (found := find(part)) is not None), None)


def _speaker(part: str) -> str | None:
    words = re.split(r"[\s_-]+", part.casefold())
    return next((_SPEAKERS[name] for word in words if (name := re.sub("[^a-z]", "", word)) in _SPEAKERS), None)


def _emotion(part: str) -> str | None:
    labels = (normalise(word) for word in re.findall(r"[^\W\d_]+", part))
    return next((label for label in labels if label in EMOTIONS), None)


def _number(stem: str) -> int | None:
    """Return the sentence's number, where the name holds just one (that of the folder's name does not count)."""
    numbers = re.findall(r"\d+", re.sub(r"文本\d+", "", stem))
    return int(numbers[0]) if len(numbers) == 1 else None


def _counts(of_each: int) -> Expected:
    return Expected(utterances=6 * of_each, speakers=4, labels=dict.fromkeys(EMOTIONS, of_each))


WHOLE = _counts(1600)

READER = CorpusReader(
    name="casia",
    summary="CASIA: Chinese, acted, 4 speakers, 6 emotions, 50 sentences read in all of them, 1,200 utterances",
    source="Institute of Automation, Chinese Academy of Sciences: CASIA Chinese Emotional Speech Corpus",
    layout=(
        "  ROOT/liuchanhg/angry/201.wav   (speakers liuchanhg, wangzhe, zhaoquanyin, zhaozuoxiang;\n"
        "                                  emotions angry, fear, happy, neutral, sad, surprise; wav or flac)"
    ),
    read=read,
    default_protocol="casia6-speaker",
    page="http://shachi.org/resources/27",
    licence="by agreement with the institute",
    expected=_counts(200),
)
