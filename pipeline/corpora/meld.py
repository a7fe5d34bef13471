"""MELD, the Multimodal EmotionLines Dataset (Poria et al., ACL 2019; labels under GPL-3, clips cut from the series Friends).

13,708 utterances of 1,432 dialogues in seven emotions, with an official split: 9,989 train, 1,109 dev, 2,610 test.

    train_sent_emo.csv   dev_sent_emo.csv   test_sent_emo.csv            one row an utterance
    train_splits/dia0_utt0.mp4   dev_splits_complete/   output_repeated_splits_test/

Copies of it nest these folders in MELD.Raw, train/ or data/MELD/, lay the tables beside the clips or elsewhere, or hold wav or
flac conversions beside or instead of the mp4s. So the tables are found by name wherever they lie; a clip's split is said by the
nearest folder above it whose name does. Where a clip is there twice, the conversion is read, since that needs no video
library. In test, some clips are there a second time under the prefix `final_videos_test`. Users disagree about which of the two
is cut right: the plain name is read, and the other one where there is no plain one.

What others fell over:

* **Ids recur.** dia0_utt0 is in all three splits: 675 ids recur in train and dev, 1,740 in train and test. So ids and dialogues
  carry the split here: `train_dia0_utt0`, `train_dia0`.
* **The official split shares speakers**: 69 of the 100 speakers of test are in train. Guests are grouped as MELD groups them
  ("The Waiter", "All"), so one name may be several people.
* Published copies have no usable video for train_dia125_utt3 and dev_dia110_utt7 (declare-lab/MELD#39, #22). Clips that are
  missing are rows that the scan lists as skipped; clips without a row are listed by the reader. Silent clips, and clips that
  were cut wrong and last minutes (test_dia38_utt4 and test_dia220_utt0: #20), are flagged `silent` and `long`, and stay.
* The times in the tables are places in the episode, not in the clip: `episode_start_s`, `episode_end_s`. Their difference says
  how long a clip ought to be.
* Quotes and dashes went through Windows-1252 and back in some copies: see `tfser.pipeline.corpora.repair`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading, audio_files, relative
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.corpora.repair import repair
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES, VIDEO_SUFFIXES

SPLITS = {"train": "train", "dev": "val", "test": "test"}
"""MELD's word for a split, which ids carry, and the column `split`'s."""

FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
GENDERS = {**dict.fromkeys(("Monica", "Phoebe", "Rachel"), "F"), **dict.fromkeys(("Chandler", "Joey", "Ross"), "M")}
"""Of the six main characters; guests' are not stated."""

_TABLE = re.compile(r"(train|dev|test)_sent_emo\.csv", re.IGNORECASE)
_CLIP = re.compile(
    r"(?P<prefix>final_videos_test_?)?(?:(?P<split>train|dev|val|test)_)?dia(?P<dialogue>\d+)_utt(?P<utterance>\d+)",
    re.IGNORECASE,
)
_COLUMNS = ("sr no.", "utterance", "speaker", "emotion", "sentiment", "dialogue_id", "utterance_id", "season", "episode")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:[.,]\d+)?)")
_PREFERRED = (".wav", ".flac")

_Key = tuple[str, int, int]
"""Split, dialogue and utterance."""


@dataclass(frozen=True, kw_only=True)
class _Clip:
    """One file of an utterance."""

    path: Path
    prefixed: bool

    @property
    def order(self) -> tuple[bool, bool, int, str]:
        """Sort key: the file to read comes first."""
        suffix = self.path.suffix.lower()
        rank = _PREFERRED.index(suffix) if suffix in _PREFERRED else len(_PREFERRED)
        return self.prefixed, suffix in VIDEO_SUFFIXES, rank, str(self.path)


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """Read MELD from a folder that holds its tables and clips, at whatever depth.

    Raises:
        TfserError: if there is no table or no clip in it, or a table cannot be read.
    """
    reading = Reading()
    # Copies differ in their folders' names and depths, so tables and clips are found by what they are called;
    # the splits of clips follow from their folders.
    files = list(audio_files(root, {".csv", *KNOWN_SUFFIXES, *VIDEO_SUFFIXES}, reading.skipped))
    tables = _tables(root, files, reading)
    if not tables:
        raise READER.fail(root, "there is no train_sent_emo.csv, dev_sent_emo.csv or test_sent_emo.csv in it")
    clips = _clips(root, files, list(tables), reading)
    if not clips:
        raise READER.fail(root, "no clip in it is named like dia0_utt0.mp4 or dia0_utt0.wav")
    labelled: set[_Key] = set()
    missing = []
    for split, table in tables.items():
        folder, suffix = _usual_place(root, split, clips)
        for number, row in enumerate(_rows(table), 1):
            key = _key(split, row)
            if key is None or key in labelled:
                reason = "labelled a second time; the first row stands" if key else "no number for dialogue or utterance"
                reading.skipped.append((_name(key) if key else None, relative(table, root), f"row {number}: {reason}"))
                continue
            labelled.add(key)
            if key in clips:
                path = clips[key][0].path
            else:  # the scan will say so
                path = folder / f"dia{key[1]}_utt{key[2]}{suffix}"
                missing.append(_name(key))
            reading.utterances.append(_utterance(root, key, row, path))
    # Clips that no table labels are listed, and so is a row without a clip: counts in are counts used and
    # counts listed.
    _account(root, clips, labelled, tables, reading)
    if missing:
        reading.notes.append(
            f"{len(missing):,} of {len(labelled):,} utterances have no clip ({', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}); published copies lack train_dia125_utt3 and dev_dia110_utt7"
        )
    return reading


def _utterance(root: Path, key: _Key, row: Mapping[str, str | None], path: Path) -> Utterance:
    speaker = repair(row.get("speaker") or "") or None
    raw = row.get("emotion")
    return Utterance(
        utterance_id=_name(key),
        path=relative(path, root),
        speaker=speaker,
        gender=GENDERS.get(speaker or ""),
        dialogue=f"{key[0]}_dia{key[1]}",
        transcript=repair(row.get("utterance") or "") or None,
        label=normalise(raw),
        raw_label=raw,
        split=SPLITS[key[0]],
        extra={
            "sentiment": row.get("sentiment"),
            "season": _integer(row.get("season")),
            "episode": _integer(row.get("episode")),
            "episode_start_s": _seconds(row.get("starttime")),
            "episode_end_s": _seconds(row.get("endtime")),
        },
    )


def _tables(root: Path, files: Sequence[Path], reading: Reading) -> dict[str, Path]:
    """Return the table of each split: the one nearest to the root, where there are several."""
    by_name: dict[str, list[Path]] = {}
    for path in files:
        if match := _TABLE.fullmatch(path.name):
            by_name.setdefault(match[1].lower(), []).append(path)
    tables = {}
    for split in SPLITS:
        candidates = sorted(by_name.get(split, ()), key=lambda path: (len(path.parts), str(path)))
        if not candidates:
            reading.notes.append(f"there is no {split}_sent_emo.csv, so the split {split} is left out")
            continue
        tables[split] = first = candidates[0]
        different = [path for path in candidates[1:] if path.read_bytes() != first.read_bytes()]
        if different:
            names = " and ".join(relative(path, root) for path in (first, different[0]))
            reading.notes.append(f"{names} differ; the first is read")
    return tables


def _rows(table: Path) -> Iterator[dict[str, str | None]]:
    """Yield the rows of a table by the plain name of the column: small letters alone."""
    data = load(table, None, _COLUMNS)
    names = [re.sub(r"[^a-z]", "", name.casefold()) for name in data.column_names]
    columns = [column.to_pylist() for column in data.columns]
    for values in zip(*columns, strict=True):
        yield {name: None if value is None else str(value) for name, value in zip(names, values, strict=True)}


def _clips(root: Path, files: Sequence[Path], splits: Sequence[str], reading: Reading) -> dict[_Key, list[_Clip]]:
    """Return the files of each utterance, the one to read first; other media files are listed."""
    clips: dict[_Key, list[_Clip]] = {}
    for path in files:
        if path.suffix.lower() == ".csv":
            continue
        match = _CLIP.fullmatch(path.stem)
        if match is None:
            reading.skipped.append((None, relative(path, root), "the name is not dialogue and utterance, as in dia0_utt0"))
            continue
        said = "test" if match["prefix"] else _split([match["split"] or ""])
        split = said or _split(path.parent.relative_to(root).parts) or (splits[0] if len(splits) == 1 else None)
        if split is None:
            reason = "no folder above it says whether it is of train, dev or test"
            reading.skipped.append((None, relative(path, root), reason))
            continue
        key = (split, int(match["dialogue"]), int(match["utterance"]))
        clips.setdefault(key, []).append(_Clip(path=path, prefixed=match["prefix"] is not None))
    for members in clips.values():
        members.sort(key=lambda clip: clip.order)
    return clips


def _split(folders: Sequence[str]) -> str | None:
    """Return the split that the nearest folder names.

    >>> _split(("MELD.Raw", "train", "train_splits")), _split(("test", "dev_splits_complete")), _split(("clips",))
    ('train', 'dev', None)
    """
    for folder in reversed(folders):
        words = re.findall("[a-z]+", folder.lower())
        said = {split for word in words for split in SPLITS if word.startswith((split, "val" if split == "dev" else split))}
        if len(said) == 1:
            return said.pop()
    return None


def _account(
    root: Path, clips: Mapping[_Key, list[_Clip]], labelled: set[_Key], tables: Mapping[str, Path], reading: Reading
) -> None:
    """List the clips that are not used, and note which kind of file is read."""
    kinds: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    for key, (first, *others) in sorted(clips.items()):
        if key not in labelled:
            others = [first, *others]
        else:
            kinds[first.path.suffix.lower()] += 1
        for clip in others:
            suffix = clip.path.suffix.lower()
            if key not in labelled:
                reason = f"no row in {key[0]}_sent_emo.csv" if key[0] in tables else f"there is no {key[0]}_sent_emo.csv"
            elif suffix != first.path.suffix.lower() and not clip.prefixed:
                conversions[suffix] += 1
                continue
            else:
                reason = f"the same utterance as {relative(first.path, root)}"
            reading.skipped.append((_name(key), relative(clip.path, root), reason))
    if conversions:
        left = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(conversions.items()))
        reading.notes.append(f"some clips are there in more than one kind of file; wav and flac are read, these are not: {left}")
    if len(kinds) > 1:
        mixed = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(kinds.items()))
        reading.notes.append(f"not all clips are of one kind ({mixed}): a conversion may differ in level from the rest")


def _usual_place(root: Path, split: str, clips: Mapping[_Key, list[_Clip]]) -> tuple[Path, str]:
    """Return the folder and the suffix that the clips of a split mostly have."""
    found = Counter((members[0].path.parent, members[0].path.suffix) for key, members in clips.items() if key[0] == split)
    return found.most_common(1)[0][0] if found else (root / FOLDERS[split], ".mp4")


def _key(split: str, row: Mapping[str, str | None]) -> _Key | None:
    dialogue, utterance = _integer(row.get("dialogueid")), _integer(row.get("utteranceid"))
    return None if dialogue is None or utterance is None else (split, dialogue, utterance)


def _name(key: _Key) -> str:
    return f"{key[0]}_dia{key[1]}_utt{key[2]}"


def _integer(text: str | None) -> int | None:
    match = re.fullmatch(r"(\d+)(?:\.0*)?", text or "")
    return int(match[1]) if match else None


def _seconds(text: str | None) -> float | None:
    clock = _CLOCK.fullmatch(text or "")
    return round(int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3].replace(",", ".")), 3) if clock else None


READER = CorpusReader(
    name="meld",
    summary="MELD: English dialogues of the series Friends, 7 emotions and sentiment, official split, 13,708 utterances",
    source="Poria et al., MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations, ACL 2019",
    layout=(
        "  ROOT/train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv   (anywhere below ROOT)\n"
        "  ROOT/train_splits/dia0_utt0.mp4   (mp4, or wav or flac made of it)\n"
        "  ROOT/dev_splits_complete/dia0_utt0.mp4\n"
        "  ROOT/output_repeated_splits_test/dia0_utt0.mp4"
    ),
    read=read,
    default_protocol="meld7-official",
    page="https://affective-meld.github.io",
    licence="GPL-3.0 (the tables); the clips are excerpts of a television series",
    expected=Expected(
        utterances=13_708,
        labels={
            **{"neutral": 6436, "happiness": 2308, "surprise": 1636, "anger": 1607},
            **{"sadness": 1002, "disgust": 361, "fear": 358},
        },
    ),
)
