"""The field's words for emotions, and maps from what corpora write to them.

`normalise` turns a corpus's own spelling into one of `LABELS` where it is a known synonym, and otherwise keeps the word as the
corpus wrote it, lower-cased and stripped: an unknown emotion is data, not an error. The label as written stays in `raw_label`.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping

from tfser.manifests.errors import UsageError

LABELS = (
    "anger",
    "happiness",
    "sadness",
    "neutral",
    "fear",
    "disgust",
    "surprise",
    "boredom",
    "calm",
    "contempt",
    "excitement",
    "frustration",
    "other",
    "undecided",
)

NO_EMOTION = frozenset({"undecided"})
"""Labels that say that the raters did not agree; generic protocols leave them out."""

_SYNONYMS = {
    "anger": "ang angry rage wut ärger",
    "happiness": "hap happy joy joyful freude",
    "sadness": "sad sorrow traurigkeit trauer",
    "neutral": "neu neutrality normal",
    "fear": "fea fearful fear/anxiety anxiety anxious angst scared",
    "disgust": "dis disgusted ekel",
    "surprise": "sur surprised pleasant_surprise pleasant_surprised ps überraschung",
    "boredom": "bored bore langeweile",
    "calm": "calmness",
    "contempt": "contemptuous",
    "excitement": "exc excited",
    "frustration": "fru frustrated",
    "other": "oth others",
    "undecided": "xxx no_agreement no-agreement",
}
_KNOWN = {word: label for label, words in _SYNONYMS.items() for word in (label, *words.split())}


@functools.lru_cache(maxsize=4096)
def normalise(raw: str | None) -> str | None:
    """Return the field's word for a raw label; unknown words are kept, lower-cased and stripped.

    >>> normalise(" Happy "), normalise("exc"), normalise("Pleasant Surprise"), normalise("nostalgia"), normalise(" ")
    ('happiness', 'excitement', 'surprise', 'nostalgia', None)
    """
    if raw is None:
        return None
    folded = unicodedata.normalize("NFD", raw).casefold()  # composed and decomposed letters are the same word
    word = " ".join(unicodedata.normalize("NFC", folded).split())
    return _KNOWN.get(word.replace(" ", "_"), word) or None


def _classes(**members: str) -> dict[str, str]:
    """Return the map of classes given with the labels of each."""
    return {label: name for name, labels in members.items() for label in labels.split()}


_HIGH = "anger fear happiness surprise excitement frustration"
_LOW = "boredom disgust neutral sadness calm"
_POSITIVE = "happiness neutral surprise excitement calm"
_NEGATIVE = "anger boredom disgust fear sadness contempt frustration"

LABEL_MAPS: dict[str, dict[str, str]] = {
    "common4": _classes(anger="anger", happiness="happiness excitement", neutral="neutral", sadness="sadness"),
    "arousal2": _classes(high=_HIGH, low=_LOW),
    "valence2": _classes(negative=_NEGATIVE, positive=_POSITIVE),
    "quadrants4": {
        label: f"{arousal}-{valence}"
        for arousal, labels in (("high", _HIGH), ("low", _LOW))
        for valence, signed in (("negative", _NEGATIVE), ("positive", _POSITIVE))
        for label in labels.split()
        if label in signed.split()
    },
}
"""Label maps to sets that corpora have in common, by name.

common4: the four classes of most IEMOCAP work, excitement counted as happiness.

arousal2, valence2: the two halves of each axis as Schuller, Vlasenko, Eyben, Rigoll and Wendemuth set them for cross-corpus work
(Acoustic emotion recognition: a benchmark comparison of performances, ASRU 2009): anger, fear, happiness and surprise are of
high arousal, boredom, disgust, neutral and sadness of low; happiness, neutral and surprise are positive, the others negative.
Labels that their corpora did not have stand where Russell's circumplex has them (A circumplex model of affect, JPSP 39, 1980):
excitement high and positive, frustration high and negative, calm low and positive; contempt is negative, and of neither arousal.

quadrants4: both axes together, so without contempt.
"""


def parse_label_map(text: str) -> dict[str, str]:
    """Parse `CLASS[:LABEL+LABEL...],...`, or the name of one of `LABEL_MAPS`, into a map from label to class.

    >>> parse_label_map("anger,happiness:happiness+excitement,neutral")
    {'anger': 'anger', 'happiness': 'happiness', 'excitement': 'happiness', 'neutral': 'neutral'}
    >>> parse_label_map("common4") == parse_label_map("anger,happiness:happiness+excitement,neutral,sadness")
    True

    Raises:
        UsageError: if the text is empty, or a label is given to two classes, or fewer than two classes come out.
    """
    if text.strip() in LABEL_MAPS:
        return dict(LABEL_MAPS[text.strip()])
    result: dict[str, str] = {}
    for part in text.split(","):
        name, _, members = part.strip().partition(":")
        for member in (members or name).split("+"):
            label = normalise(member)
            if not name.strip() or label is None:
                raise UsageError(f"label map {text!r}: {part!r} is not CLASS or CLASS:LABEL+LABEL")
            if result.setdefault(label, name.strip()) != name.strip():
                raise UsageError(f"label map {text!r}: {label!r} stands in two classes")
    if len(set(result.values())) < 2:
        hint = f" ({_known_maps()})" if ":" not in text else ""
        raise UsageError(f"label map {text!r} makes fewer than two classes{hint}")
    return result


def _known_maps() -> str:
    return f"maps with a name: {', '.join(LABEL_MAPS)}"


def format_label_map(labels: Mapping[str, str]) -> str:
    """Write a label map in the notation of `parse_label_map`; one that has a name, by its name.

    >>> format_label_map({"anger": "anger", "happiness": "happiness", "excitement": "happiness"})
    'anger,happiness:happiness+excitement'
    """
    for name_of_map, labels_of_map in LABEL_MAPS.items():
        if list(labels_of_map.items()) == list(labels.items()):
            return name_of_map
    members: dict[str, list[str]] = {}
    for label, name in labels.items():
        members.setdefault(name, []).append(label)
    return ",".join(name if raw == [name] else f"{name}:{'+'.join(raw)}" for name, raw in members.items())
