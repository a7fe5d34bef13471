"""Corpora that are declared by their tables of labels: MSP-Podcast, BIIC-Podcast, MSP-IMPROV, AIBO, EMNS, nEMO, Dusha ...

Column names are those that published code reads (MSP-Podcast, MSP-IMPROV, AIBO, Dusha, Emozionalmente) or the data card states;
where neither was seen, the declaration says "not verified". Counts are given where they could be verified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.annotations import Annotation
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import normalise
from tfser.pipeline.corpora.base import Expected, Passed, read_lines, read_text
from tfser.pipeline.corpora.delimited import load
from tfser.pipeline.corpora.labelled import Cells, LabelTable

_LETTERS = {
    **{"n": "neutral", "h": "happiness", "s": "sadness", "a": "anger", "c": "contempt", "u": "surprise", "d": "disgust"},
    **{"f": "fear", "o": "other", "x": "undecided"},
}
"""The MSP lab's letters; X is no agreement."""

_CONSENSUS = {
    "file": ("filename",),
    "label": ("emoclass",),
    "arousal": ("emoact",),
    "valence": ("emoval",),
    "dominance": ("emodom",),
    "speaker": ("spkrid",),
    "gender": ("gender",),
    "split": ("split_set",),
}
_SIDES = {"train": "train", "development": "val", "validation": "val", "dev": "val", "test1": "test", "test": "test"}
"""Test2 and Test3 are none of these: they stay in the column `partition`, and a protocol of one's own can test on them."""
_RELEASES = {264_705: "release 2.0", 116_221: "the training and development part that the challenge of 2025 was given"}
"""Rows of labels_consensus.csv by release, of those whose number could be verified."""

_OF_NAMES = {"a": "arousal", "v": "valence", "d": "dominance"}


def _release(rows: int) -> str:
    known = _RELEASES.get(rows)
    if known is not None:
        return f"{rows:,} rows of labels: as many as {known} has"
    return f"{rows:,} rows of labels, a number of no release that is known here; say which one it is beside your scores"


def _rating(name: str, parts: Sequence[str]) -> Iterator[Annotation]:
    """Yield what one worker said: `worker; primary; secondary; A:4; V:3; D:5;`, the secondary emotions and values optional.

    Only the primary emotion is a vote; secondary ones are shades of it, which raters tick at will.
    """
    values: dict[str, Any] = {}
    for part in parts[1:]:
        letter, _, number = part.partition(":")
        if letter.strip().lower() in _OF_NAMES and re.fullmatch(r"\s*\d+(\.\d+)?\s*", number):
            values[_OF_NAMES[letter.strip().lower()]] = float(number)
    word = parts[1].partition("-")[0] if ":" not in parts[1] else ""  # Other-Curious and the like are other
    label = normalise(word) if word else None
    if label is not None or values:
        yield Annotation(utterance_id=name, rater=parts[0], label=label, **values)


def _detailed(files: Sequence[Path], passed: list[Passed]) -> Iterator[Annotation]:
    """Yield the single ratings of labels_detailed.csv: a file's name, and what a worker said of it."""
    for path in (file for file in files if file.name.casefold() == "labels_detailed.csv"):
        table = load(path, ",", ())
        cells = [table.column(i).to_pylist() for i in range(min(2, table.num_columns))]
        for number, row in enumerate(zip(*cells, strict=True), 1):
            parts = [part.strip() for part in str(row[-1] or "").split(";") if part.strip()]
            found = list(_rating(Path(str(row[0])).stem, parts)) if len(parts) > 1 and row[0] else []
            if not found:
                passed.append((str(row[0]), path.name, f"row {number}: no worker with an emotion or a value"))
            yield from found


MSP_PODCAST = LabelTable(
    name="msp_podcast",
    summary="MSP-Podcast: English podcasts, natural, 8 emotions and three dimensions (1 to 7), rated by a crowd",
    source="Lotfian and Busso, Building naturalistic emotionally balanced speech corpus, IEEE TAC 10(4), 2019",
    page="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
    licence="research only, under a licence to be signed (not verified)",
    layout=(
        "  ROOT/Labels/labels_consensus.csv   (FileName, EmoClass, EmoAct, EmoVal, EmoDom, SpkrID, Gender, Split_Set)\n"
        "  ROOT/Labels/labels_detailed.csv    (optional: every worker's answer)\n"
        "  ROOT/Audios/MSP-PODCAST_0001_0008.wav"
    ),
    tables=("labels_consensus.csv",),
    columns=_CONSENSUS,
    words=_LETTERS,
    splits=_SIDES,
    ratings=_detailed,
    about=_release,
    default_protocol="official-split",
)

BIIC_PODCAST = LabelTable(
    name="biic_podcast",
    summary="BIIC-Podcast: Mandarin podcasts of Taiwan, natural, labelled as MSP-Podcast is",
    source="Upadhyay et al., An Intelligent Infrastructure Toward Large Scale Naturalistic Affective Speech Corpora, ACII 2023",
    page="https://biic.ee.nthu.edu.tw",
    licence="on request (not verified)",
    layout="  ROOT/labels_consensus.csv   (as of MSP-Podcast; not verified)\n  ROOT/.../*.wav",
    tables=("labels_consensus*.csv",),
    columns=_CONSENSUS,
    words=_LETTERS,
    splits=_SIDES,
    ratings=_detailed,
    default_protocol="official-split",
)

_IMPROV = re.compile(
    r"(?:MSP|UTD)-IMPROV-(?P<sentence>S\d\d[A-Z])-(?P<speaker>(?P<gender>[FM])(?P<number>\d\d))-(?P<kind>[PRST])-\w+",
    re.IGNORECASE,
)
_SCENARIOS = {"R": "scripted", "S": "improvised", "T": "improvised", "P": "natural"}
"""R: the target sentence read; S and T: sentences of the improvised scenes; P: between the recordings."""


def _improv_name(stem: str) -> Mapping[str, str]:
    match = _IMPROV.fullmatch(stem)
    if match is None:
        return {}
    sentence = {"sentence": match["sentence"][:3].upper()} if match["kind"].upper() in "RT" else {}
    return sentence | {
        "speaker": match["speaker"].upper(),
        "gender": match["gender"].upper(),
        "session": f"session{int(match['number'])}",
        "scenario": _SCENARIOS[match["kind"].upper()],
        "recording": match["kind"].upper(),
    }


def _improv_lines(table: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of the evaluation's file with the utterance that they are about, the consensus first."""
    name = ""
    for line in read_lines(table):
        parts = [part.strip() for part in line.split(";") if part.strip()]
        if parts and _IMPROV.fullmatch(Path(parts[0]).stem):
            name = "MSP" + Path(parts[0]).stem[3:]
            yield name, parts
        elif name and len(parts) > 1:
            yield name, parts


def _improv_rows(table: Path) -> Iterator[Cells]:
    for name, parts in _improv_lines(table):
        if Path(parts[0]).stem[3:] == name[3:] and len(parts) > 1:
            values = {key.strip().lower(): number for key, _, number in (part.partition(":") for part in parts[2:])}
            yield {"file": name, "label": parts[1], **{key: values[key] for key in ("a", "v", "d") if key in values}}


def _improv_ratings(files: Sequence[Path], passed: list[Passed]) -> Iterator[Annotation]:
    for path in (file for file in files if file.name.casefold() in ("evalution.txt", "evaluation.txt")):
        for name, parts in _improv_lines(path):
            if Path(parts[0]).stem[3:] != name[3:]:
                found = list(_rating(name, parts))
                if not found:
                    passed.append((name, path.name, f"{parts[0]}: neither an emotion nor a value"))
                yield from found


MSP_IMPROV = LabelTable(
    name="msp_improv",
    summary="MSP-IMPROV: English, improvised, read and between takes, 12 speakers in 6 sessions, 4 emotions, 8,438 turns",
    source="Busso et al., MSP-IMPROV: An acted corpus of dyadic interactions, IEEE TAC 8(1), 2017",
    page="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
    licence="research only, under a licence to be signed (not verified)",
    layout=(
        "  ROOT/Evalution.txt   (so spelled; UTD-IMPROV-S01A-F01-S-FM01.avi; N; A:3.0; V:3.5; D:3.0; and, below, each worker's)\n"
        "  ROOT/Audio/session1/S01A/S/MSP-IMPROV-S01A-F01-S-FM01.wav"
    ),
    tables=("Evalution.txt", "Evaluation.txt"),
    columns={"file": ("file",), "label": ("label",), "arousal": ("a",), "valence": ("v",), "dominance": ("d",)},
    words=_LETTERS,
    rows=_improv_rows,
    from_name=_improv_name,
    ratings=_improv_ratings,
    default_protocol="loso-session",
    expected=Expected(utterances=8438, speakers=12),
)


def _aibo_name(stem: str) -> Mapping[str, str]:
    school, number, *_ = (*stem.split("_"), "", "")
    split = {"ohm": "train", "mont": "test"}.get(school.lower())
    return {"speaker": f"{school}_{number}", "school": school, **({"split": split} if split else {})}


def _aibo_rows(table: Path) -> Iterator[Cells]:
    for line in read_lines(table):
        parts = line.split()
        if len(parts) > 1:
            yield {"file": parts[0], "label": parts[1], **({"confidence": parts[2]} if len(parts) > 2 else {})}


AIBO = LabelTable(
    name="aibo",
    summary="FAU Aibo: German children and a robot dog, natural, 51 speakers of two schools, 5 classes (counts not verified)",
    source="Steidl, Automatic Classification of Emotion-Related User States in Spontaneous Children's Speech, 2009",
    page="https://www5.cs.fau.de/en/our-team/steidl-stefan/fau-aibo-emotion-corpus",
    licence="research only, under a licence to be signed (not verified)",
    layout=(
        "  ROOT/labels/IS2009EmotionChallenge/chunk_labels_5cl_corpus.txt   (Ohm_01_000_00 N 0.63)\n"
        "  ROOT/wav/Ohm_01_000_00.wav   (school Ohm trains, school Mont tests)"
    ),
    tables=("chunk_labels_5cl_corpus.txt",),
    columns={"file": ("file",), "label": ("label",)},
    words={"a": "anger", "e": "emphatic", "n": "neutral", "p": "positive", "r": "rest"},
    rows=_aibo_rows,
    from_name=_aibo_name,
    default_protocol="official-split",
)

EMNS = LabelTable(
    name="emns",
    summary="EMNS: one British speaker, acted, 8 emotions, for speech synthesis; nothing here can keep speakers apart",
    source="Noriy, Yang and Zhang, EMNS/Imz/Corpus: an emotive single-speaker dataset, arXiv 2305.13137, 2023",
    page="https://www.openslr.org/136",
    licence="see its page (not verified)",
    layout=(
        "  ROOT/metadata.csv   (parted by |: emotion, audio_recording, utterance, gender, user_id; not verified)\n"
        "  ROOT/.../*.wav or webm"
    ),
    tables=("metadata.csv",),
    columns={
        "file": ("audio_recording", "file", "filename"),
        "label": ("emotion",),
        "transcript": ("utterance",),
        "gender": ("gender",),
        "speaker": ("user_id",),
    },
    delimiter="|",
    default_protocol=None,
)

NEMO = LabelTable(
    name="nemo",
    summary="nEMO: Polish, acted, 9 speakers, 6 emotions, 90 sentences, over 3 hours",
    source="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING 2024, arXiv 2404.06292",
    page="https://github.com/amu-cai/nEMO",
    licence="CC BY-NC-SA 4.0",
    layout="  ROOT/data.tsv   (file_id, emotion, raw_text, speaker_id, gender; not verified)\n  ROOT/samples/*.wav",
    tables=("data.tsv",),
    columns={
        "file": ("file_id", "file", "path"),
        "label": ("emotion",),
        "speaker": ("speaker_id", "speaker"),
        "gender": ("gender", "sex"),
        "transcript": ("raw_text",),
        "sentence": ("sentence_id",),
    },
    default_protocol="loso-speaker",
    expected=Expected(speakers=9),
)


def _dusha_ratings(files: Sequence[Path], passed: list[Passed]) -> Iterator[Annotation]:
    """Yield the annotators' answers: the raw tables have one in each row."""
    for path in (file for file in files if re.fullmatch(r"raw_(crowd|podcast)_(train|test)\.tsv", file.name, re.IGNORECASE)):
        table = load(path, "\t", ())
        names = {name.casefold(): name for name in table.column_names}
        who = table[names["annotator_id"]].to_pylist() if "annotator_id" in names else [None] * table.num_rows
        said = table[names["annotator_emo"]].to_pylist() if "annotator_emo" in names else [None] * table.num_rows
        for number, (name, rater, word) in enumerate(zip(table[names["audio_path"]].to_pylist(), who, said, strict=True), 1):
            label = normalise(str(word)) if word is not None else None
            if name is None or label is None:
                passed.append((None, path.name, f"row {number}: no file or no answer"))
            else:
                yield Annotation(utterance_id=Path(str(name)).stem, rater=None if rater is None else str(rater), label=label)


DUSHA = LabelTable(
    name="dusha",
    summary="Dusha: Russian, read by a crowd and from podcasts, 4 emotions, over 300,000 recordings, about 350 hours",
    source="Kondratenko et al., Large Raw Emotional Dataset with Aggregation Mechanism, arXiv 2212.12266, 2022",
    page="https://github.com/salute-developers/golos/tree/master/dusha",
    licence="see its page (not verified)",
    layout=(
        "  ROOT/crowd_train/raw_crowd_train.tsv   (audio_path, annotator_emo, speaker_emo, source_id)\n"
        "  ROOT/crowd_train/wavs/*.wav"
    ),
    tables=("raw_crowd_*.tsv", "raw_podcast_*.tsv"),
    columns={
        "file": ("audio_path",),
        "label": ("speaker_emo", "golden_emo"),
        "speaker": ("source_id",),
        "transcript": ("speaker_text",),
    },
    words={"positive": "happiness", "angry": "anger", "sad": "sadness", "neutral": "neutral", "other": "other"},
    delimiter="\t",
    ratings=_dusha_ratings,
    one_row_each=False,
    default_protocol="group-kfold:5",
)

EMOZIONALMENTE = LabelTable(
    name="emozionalmente",
    summary="Emozionalmente: Italian, acted by a crowd, 431 speakers, 7 emotions, 6,902 utterances (not verified)",
    source="Catania, Wilke and Garzotto, Emozionalmente: a crowdsourced corpus of simulated emotional speech in Italian, 2025",
    page="https://zenodo.org/records/6569824",
    licence="see its page (not verified)",
    layout="  ROOT/metadata/samples.csv   (file_name, actor, emotion_expressed)\n  ROOT/audio/*.wav",
    tables=("samples.csv",),
    columns={
        "file": ("file_name",),
        "label": ("emotion_expressed",),
        "speaker": ("actor",),
        "gender": ("gender",),
        "transcript": ("sentence",),
    },
    words={"joy": "happiness"},
    default_protocol="group-kfold:5",
)


def _thai_rows(table: Path) -> Iterator[Cells]:
    """Yield what the JSON of labels says: a file's name, and an object, or a list of one, with `majority_emo` or `assigned_emo`.

    Raises:
        TfserError: if it is no such JSON.
    """
    try:
        told: Any = json.loads(read_text(table))
    except ValueError as error:
        raise TfserError(f"{table}: cannot be read as JSON ({error})") from error
    if not isinstance(told, dict):
        raise TfserError(f"{table}: holds no JSON object of files and their labels")
    for name, value in told.items():
        about = value[0] if isinstance(value, list) and value else value
        about = about if isinstance(about, dict) else {}
        yield {"file": name, **{key.casefold(): str(about[key]) for key in about if not isinstance(about[key], (list, dict))}}


def _thai_name(stem: str) -> Mapping[str, str]:
    match = re.search(r"actor(\d+)_(impro|script)", stem, re.IGNORECASE)
    if match is None:
        return {}
    return {"speaker": f"actor{match[1]}", "scenario": {"impro": "improvised", "script": "scripted"}[match[2].lower()]}


THAI_SER = LabelTable(
    name="thai_ser",
    summary="THAI-SER: Thai, improvised and scripted, 200 speakers, 5 emotions, 27,854 utterances (counts not verified)",
    source="VISTEC-depa AI Research Institute, THAI-SER, 2021",
    page="https://github.com/vistec-AI/dataset-releases",
    licence="see its page (not verified)",
    layout=(
        "  ROOT/emotion_label.json   (file: [{majority_emo, assigned_emo}])\n"
        "  ROOT/.../s001_clip_actor001_impro1_1.flac"
    ),
    tables=("emotion_label.json",),
    columns={"file": ("file",), "label": ("majority_emo", "assigned_emo")},
    words={"none": "undecided"},
    rows=_thai_rows,
    from_name=_thai_name,
    default_protocol="group-kfold:5",
)

LABEL_TABLES = {
    corpus.name: corpus
    for corpus in (MSP_PODCAST, MSP_IMPROV, BIIC_PODCAST, AIBO, EMNS, NEMO, DUSHA, EMOZIONALMENTE, THAI_SER)
}
"""The corpora that are declared here, by name."""
