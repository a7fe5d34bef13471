"""Corpora that are declared by their file names: every one on a generated tree as large as the published corpus."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json
from tfser.manifests.labels import LABELS, normalise
from tfser.pipeline.corpora import CORPORA, filenames, locate
from tfser.pipeline.corpora.base import Expected
from tfser.pipeline.corpora.patterns import PATTERNS
from tfser.pipeline.scanning.scan import ScanOptions, scan

OWN_WORDS = {"apologetic", "assertive", "concerned", "encouraging"}  # of JL; the field has none for them
GENDERS = {  # women's and men's utterances
    "tess": (2800, 0),
    "savee": (0, 480),
    "esd": (17_500, 17_500),
    "emovo": (294, 294),
    "subesco": (3500, 3500),
    "mesd": (288, 288),
    "cafe": (468, 468),
    "jl_corpus": (1200, 1200),
    "aesdd": (0, 0),
}


def only_sound(paths: list[Path]) -> Callable[..., list[Path]]:
    """A stand-in for the walk through a folder: these files, all of them sound, so that no transcripts are found."""
    return lambda root, wanted, *_: paths if ".wav" in wanted else []


def tess() -> Iterator[str]:
    words = ["".join(w) for w in itertools.islice(itertools.product("abcdef", repeat=3), 200)]
    emotions = ["angry", "disgust", "fear", "happy", "neutral", "ps", "sad"]
    for who, word, emotion in itertools.product(("OAF", "YAF"), words, emotions):
        misnamed = (who, word, emotion) == ("OAF", words[7], "neutral")
        yield f"TESS/{who}_{emotion.title()}/{'OA' if misnamed else who}_{word}_{emotion}.wav"


def savee() -> Iterator[str]:
    for who, emotion in itertools.product(("DC", "JE", "JK", "KL"), ("a", "d", "f", "h", "n", "sa", "su")):
        yield from (f"AudioData/{who}/{emotion}{i:02d}.wav" for i in range(1, 31 if emotion == "n" else 16))


def esd() -> Iterator[str]:
    for who, (i, emotion) in itertools.product(range(1, 21), enumerate(["Neutral", "Angry", "Happy", "Sad", "Surprise"])):
        for n in range(1, 351):
            side = "evaluation" if n <= 20 else "test" if n <= 50 else "train"
            yield f"ESD/{who:04d}/{emotion}/{side}/{who:04d}_{350 * i + n:06d}.wav"


def emovo() -> Iterator[str]:
    sentences = ["b1", "b2", "b3", "l1", "l2", "l3", "l4", "n1", "n2", "n3", "n4", "n5", "d1", "d2"]
    for who, emotion, sentence in itertools.product(
        ["f1", "f2", "f3", "m1", "m2", "m3"], ["dis", "gio", "neu", "pau", "rab", "sor", "tri"], sentences
    ):
        yield f"EMOVO/{who}/{emotion}-{who}-{sentence}.wav"


def shemo() -> Iterator[str]:
    speakers = [f"F{i:02d}" for i in range(1, 32)] + [f"M{i:02d}" for i in range(1, 57)]
    letters = {"anger": "A", "neutral": "N", "sadness": "S", "surprise": "W", "happiness": "H", "fear": "F"}
    for label, count in PATTERNS["shemo"].expected.labels.items():
        for i in range(count):
            who = speakers[i % len(speakers)]
            folder = "female" if who[0] == "F" else "male"
            yield f"{folder}/{who}{letters[label]}{i // len(speakers) + 1:02d}.wav"


def subesco() -> Iterator[str]:
    emotions = ["ANGRY", "DISGUST", "FEAR", "HAPPY", "NEUTRAL", "SAD", "SURPRISE"]
    for who, i, n, emotion, take in itertools.product("FM", range(1, 11), range(1, 11), emotions, range(1, 6)):
        yield f"{who}_{i:02d}_{'NAME'}_S_{n}_{emotion}_{take}.wav"


def urdu() -> Iterator[str]:
    speakers = [f"SM{i}" for i in range(1, 28)] + [f"SF{i}" for i in range(1, 12)]
    for emotion, i in itertools.product(["Angry", "Happy", "Neutral", "Sad"], range(100)):
        yield f"{emotion}/{speakers[i % 38]}_F{i // 38 + 1}_{emotion[0]}0{i + 1}.wav"


def mesd() -> Iterator[str]:
    words = ["".join(w) for w in itertools.islice(itertools.product("abcdñ", repeat=2), 23)] + ["basta_ya"]
    emotions = ["Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness"]
    for emotion, voice, word_list, word in itertools.product(emotions, "FMC", "AB", words):
        yield f"Mexican Emotional Speech Database (MESD)/{emotion}_{voice}_{word_list}_{word}.wav"


def cafe() -> Iterator[str]:
    folders = {"C": "Colère", "D": "Dégoût", "J": "Joie", "N": "Neutre", "P": "Peur", "S": "Surprise", "T": "Tristesse"}
    for who, (letter, folder), level, sentence in itertools.product(range(1, 13), folders.items(), (1, 2), range(1, 7)):
        if letter != "N" or level == 1:
            where = folder if letter == "N" else f"{folder}/{'Faible' if level == 1 else 'Fort'}"
            yield f"{where}/{who:02d}-{letter}-{level}-{sentence}.wav"


def jl_corpus() -> Iterator[str]:
    emotions = list(PATTERNS["jl_corpus"].emotions)
    for who, emotion, i, part, take in itertools.product(
        ("female1", "female2", "male1", "male2"), emotions, range(1, 16), "ab", (1, 2)
    ):
        yield f"Raw JL corpus (unchecked and unannotated)/JL(wav+txt)/{who}_{emotion}_{i}{part}_{take}.wav"


def aesdd() -> Iterator[str]:
    for emotion, i, who in itertools.product(["anger", "disgust", "fear", "happiness", "sadness"], range(1, 21), range(1, 7)):
        yield f"{emotion}/{emotion[0]}{i:02d} ({who}).wav"


TREES = {f.__name__: f for f in (tess, savee, esd, emovo, shemo, subesco, urdu, mesd, cafe, jl_corpus, aesdd)}


def lay(root: Path, *names: str) -> Path:
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def read(name: str, root: Path):
    return CORPORA[name].read(root, {})


def test_every_declaration_has_a_tree_and_a_reader():
    # The others have a tiny tree each, in test_corpora_labelled.
    assert list(TREES) == list(PATTERNS)[: len(TREES)] and set(PATTERNS) <= set(CORPORA)


LARGE = ("esd", "subesco")
"""Whose trees take seconds; the others go the same way, and a few names of these two are read below."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in TREES])
def test_a_tree_as_large_as_the_published_corpus(name, tmp_path, cache, put_corpus, monkeypatch):
    names = list(TREES[name]())
    if name == "esd":  # 35,000 files would take their time
        monkeypatch.setattr(filenames, "audio_files", only_sound([tmp_path / "corpus" / n for n in sorted(names)]))
    else:
        lay(tmp_path / "corpus", *names)
    corpus, reader = PATTERNS[name], CORPORA[name]
    reading = read(name, tmp_path / "corpus")
    utterances = reading.utterances
    assert not reading.skipped and len(utterances) == len(names)
    assert len({u.utterance_id for u in utterances}) == len(names)
    assert sorted(u.path for u in utterances) == sorted(names)
    if corpus.expected is not None:
        assert corpus.expected.differences(utterances) is None
        assert Counter(u.label for u in utterances) == corpus.expected.labels
    for u in utterances:
        assert u.label == normalise(u.label) and u.label in {*LABELS, *OWN_WORDS}
        assert u.raw_label and u.speaker and u.gender in {"F", "M", None}
    if name in GENDERS:
        genders = Counter(u.gender for u in utterances)
        assert (genders["F"], genders["M"]) == GENDERS[name]
    if name not in ("shemo", "urdu"):  # the others have sentences that recur
        assert len({u.speaker for u in utterances}) < 10 or max(Counter(u.sentence for u in utterances).values()) > 10
    few = [u for u in utterances if name != "esd" or int(u.sentence[-3:]) % 50 == 1]
    put_corpus(cache, few, corpus=name, adapter=name, default_protocol=reader.default_protocol)
    with open_catalogue(cache) as connection:
        sides = rows(
            connection,
            "SELECT fold, list(DISTINCT speaker) FILTER (role = 'train') AS train, list(DISTINCT speaker) FILTER (role = 'test')"
            " AS test, count(DISTINCT label) FILTER (role = 'train') AS classes FROM fold_utterances WHERE protocol = ?"
            " GROUP BY fold",
            [reader.default_protocol],
        )
    assert len(sides) == (5 if "kfold" in reader.default_protocol else len({u.speaker for u in utterances}))
    for side in sides:
        assert side["train"] and side["test"] and not set(side["train"]) & set(side["test"])
        assert side["classes"] == len(corpus.emotions)


@pytest.mark.parametrize("name", TREES)
def test_what_is_no_utterance_is_listed(name, tmp_path):
    corpus = PATTERNS[name]
    example = Path(corpus.example)
    lay(tmp_path, corpus.example, f"copy/{corpus.example}", "notes.wav", f"._{example.name}", ".DS_Store", "readme.md")
    reading = read(name, tmp_path)
    (only,) = reading.utterances
    assert only.path in (corpus.example, f"copy/{corpus.example}")
    listed = {path: (utterance_id, reason) for utterance_id, path, reason in reading.skipped}
    (twice,) = {corpus.example, f"copy/{corpus.example}"} - {only.path}
    assert listed == {
        twice: (only.utterance_id, f"the same utterance as {only.path}"),
        "notes.wav": (None, f"the name is not {corpus.scheme}, as in {example.name}"),
    }
    with pytest.raises(TfserError, match=re.escape(f"no audio file is named like {example.name}. Expected: ROOT/")):
        read(name, lay(tmp_path / "empty", "hello.wav"))


@pytest.mark.parametrize("name", TREES)
def test_the_case_of_names_does_not_matter(name, tmp_path):
    example = PATTERNS[name].example
    (plain,) = read(name, lay(tmp_path / "plain", example)).utterances
    for i, other in enumerate((example.upper(), example.lower(), Path(example).with_suffix(".flac").as_posix())):
        (u,) = read(name, lay(tmp_path / str(i), other)).utterances
        assert dataclasses.replace(u, path=plain.path) == plain


@pytest.mark.few(4)
@pytest.mark.parametrize("name", TREES)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_fits_the_pattern_is_read_or_listed(name, data, monkeypatch, tmp_path):
    fitting = st.from_regex(PATTERNS[name].pattern, fullmatch=True, alphabet=st.characters(max_codepoint=127))
    stems = data.draw(st.lists(fitting, min_size=1, max_size=5, unique=True))
    paths = [tmp_path / f"{stem}.wav" for stem in stems]
    good = [tmp_path / PATTERNS[name].example]
    monkeypatch.setattr(filenames, "audio_files", only_sound(good + paths))
    reading = read(name, tmp_path)
    assert len(reading.utterances) + len(reading.skipped) == len(paths) + 1
    assert len({u.utterance_id for u in reading.utterances}) == len(reading.utterances)
    assert all(u.label == normalise(u.label) for u in reading.utterances)
    assert all(reason for *_, reason in reading.skipped)


@pytest.mark.parametrize(
    ("name", "path", "facts"),
    [
        ("tess", "OAF_neutral/OA_bite_neutral.wav", {"utterance_id": "OAF_bite_neutral", "speaker": "OAF", "label": "neutral"}),
        ("tess", "YAF_date_ps.wav", {"label": "surprise", "gender": "F", "transcript": "Say the word date"}),
        ("savee", "ALL/JE_sa15.wav", {"utterance_id": "JE_sa15", "speaker": "JE", "label": "sadness", "sentence": "sa15"}),
        ("savee", "KLn30.wav", {"utterance_id": "KL_n30", "label": "neutral"}),
        ("esd", "0004/Sad/0004_001057.wav", {"label": "sadness", "split": None, "gender": "M", "sentence": "zh-007"}),
        ("esd", "ESD/surprise/0011/0011_001750.wav", {"label": "surprise", "gender": "M", "sentence": "en-350"}),
        ("esd", "0019_000701.wav", {"label": "happiness", "gender": "F", "sentence": "en-001"}),
        ("esd", "0001/Angry/evaluation/0001_000351.wav", {"label": "anger", "split": "val", "sentence": "zh-001"}),
        ("emovo", "m3/gio-m3-n5.wav", {"label": "happiness", "raw_label": "gioia", "speaker": "m3", "sentence": "n5"}),
        ("shemo", "F24F01.wav", {"speaker": "F24", "gender": "F", "label": "fear"}),
        ("shemo", "M21W01.wav", {"speaker": "M21", "gender": "M", "label": "surprise"}),
        ("subesco", "M_01_RASHED_S_10_SAD_5.wav", {"speaker": "M_01_RASHED", "sentence": "10", "label": "sadness"}),
        ("urdu", "Neutral/SF9/SF9_F4_N04.wav", {"speaker": "SF9", "gender": "F", "label": "neutral"}),
        ("mesd", "Fear_M_A_basta_ya.wav", {"speaker": "men", "gender": "M", "sentence": "basta_ya", "label": "fear"}),
        ("cafe", "CaFE_48k/Peur/Fort/12-P-2-5.wav", {"speaker": "12", "gender": "F", "sentence": "5", "label": "fear"}),
        ("jl_corpus", "male1_excited_10a_2.wav", {"speaker": "male1", "sentence": "10", "label": "excitement"}),
        ("jl_corpus", "female2_anxious_1b_1.wav", {"gender": "F", "label": "fear", "raw_label": "anxious"}),
        ("aesdd", "sadness/s05(3).wav", {"utterance_id": "s05 (3)", "speaker": "3", "label": "sadness"}),
        ("aesdd", "fear/f20 (1)b.wav", {"scenario": "improvised", "sentence": "20"}),
    ],
)
def test_real_names(name, path, facts, tmp_path):
    (u,) = read(name, lay(tmp_path, path)).utterances
    assert {field: getattr(u, field) for field in facts} == facts


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("tess", "OAF_back_joy.wav", "the emotion 'joy' is none of angry, disgust, fear, happy, neutral, ps, sad"),
        ("esd", "0003/Happy/0003_000001.wav", "the folder says happy, the number 000001 says neutral"),
        ("esd", "0003_001751.wav", "the number 001751 is none of the corpus's"),
        ("esd", "0003_000000.wav", "the number 000000 is none of the corpus's"),
        ("esd", "0021_000001.wav", "the name is not speaker and number, as in 0011_000401.wav"),
        ("cafe", "01-C-3-1.wav", "the intensity '3' is none of 1, 2"),
        ("shemo", "M01X02.wav", "the emotion 'X' is none of A, F, H, N, S, W"),
    ],
)
def test_wrong_names_say_what_is_wrong(name, wrong, reason, tmp_path):
    assert read(name, lay(tmp_path, PATTERNS[name].example, wrong)).skipped == [(None, wrong, reason)]


def test_transcripts_of_esd_in_the_encodings_that_they_come_in(tmp_path):
    audio = ("0001_000401", "0003_000401", "0011_000401", "0015_000137", "0015_000138", "0012_000001", "0020_000002")
    lay(tmp_path, *(f"{stem[:4]}/{stem}.wav" for stem in audio), "0001/._0001.txt")
    chinese = "0001_000401\t打远一看，它们的确很是吓人。\t中立\n"
    (tmp_path / "0001" / "0001.txt").write_bytes(chinese.encode("gb2312"))
    (tmp_path / "0003" / "0003.txt").write_bytes(chinese.replace("0001", "0003").encode("utf-16"))
    (tmp_path / "transcription").mkdir()
    english = "\n\n0011_000401\tI am sad\tAngry\r\nno line of it\n"
    (tmp_path / "transcription" / "0011.txt").write_text(english, encoding="utf-8-sig")
    (tmp_path / "0015" / "0015.txt").write_bytes(b"0015_000137 Let the globe  be.  Neutral\n0015_000138\tCaf\xe9 sad\tNeutral \n")
    words = {u.utterance_id: u.transcript for u in read("esd", tmp_path).utterances}
    assert words == {
        "0001_000401": "打远一看，它们的确很是吓人。",
        "0003_000401": "打远一看，它们的确很是吓人。",
        "0011_000401": "I am sad",
        "0015_000137": "Let the globe be.",
        "0015_000138": "Café sad",
        "0012_000001": None,
        "0020_000002": None,
    }


def test_transcripts_of_jl_stand_beside_the_audio(tmp_path):
    lay(tmp_path, "a/male1_sad_1a_1.wav", "b/male1_sad_1a_2.wav", "b/male1_sad_2a_2.wav")
    (tmp_path / "a" / "male1_sad_1a_1.txt").write_text(" Jack views\n an art piece\n")
    (tmp_path / "b" / "male1_sad_1a_1.txt").write_text("another")
    (tmp_path / "b" / "male1_sad_1a_2.txt").write_text("\n")
    words = {u.utterance_id: u.transcript for u in read("jl_corpus", tmp_path).utterances}
    assert words == {"male1_sad_1a_1": "Jack views an art piece", "male1_sad_1a_2": None, "male1_sad_2a_2": None}


def test_scan_says_what_differs_and_keeps_the_published_counts(tmp_path, cache, write_wav):
    for who, emotion in itertools.product(("f1", "m1"), ("dis", "gio")):
        write_wav(tmp_path / "EMOVO" / f"{emotion}-{who}-b1.wav", 0.1, seed=len(who + emotion))
    found = locate(cache, "emovo", root=tmp_path / "EMOVO")
    report = scan(cache, found.reader, corpus="emovo", root=found.root, options=found.options, how=ScanOptions(workers=1))
    assert report.notes == ("the counts differ from the published ones: 4 of 588 utterances, 2 of 6 speakers",)
    assert not scan(
        cache, found.reader, corpus="emovo", root=found.root, options=found.options, how=ScanOptions(workers=1)
    ).changed
    about = read_json(cache.corpus("emovo") / "corpus.json")
    assert about["expected"] == {"utterances": 588, "speakers": 6, "labels": dict(PATTERNS["emovo"].expected.labels)}
    refresh(cache)
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT corpus, expected_utterances FROM corpora") == [
            {"corpus": "emovo", "expected_utterances": 588}
        ]
        assert rows(connection, "SELECT count(*) AS n FROM folds WHERE protocol = 'loso-speaker'") == [{"n": 8}]


def test_differences_name_the_labels_where_the_total_is_right():
    expected = Expected(utterances=2, labels={"anger": 1, "fear": 1})
    (u,) = [dataclasses.replace(u) for u in CORPORA["synthetic"].read(Path(), {}).utterances if u.label == "anger"][:1]
    assert expected.differences([u, u]) == "the counts differ from the published ones: 2 of 1 anger, 0 of 1 fear"
    assert expected.differences([u]) == "the counts differ from the published ones: 1 of 2 utterances"
    assert Expected().differences([u]) is None


def test_every_reader_says_whose_corpus_it_is():
    for name, reader in CORPORA.items():
        assert reader.source and reader.licence and reader.page, name
        if reader.expected is not None:
            assert sum(reader.expected.labels.values()) in (0, reader.expected.utterances), name
    assert CORPORA["emodb"].expected.utterances == 535
    assert CORPORA["iemocap"].expected.utterances == 10_039
    assert CORPORA["synthetic"].expected.differences(CORPORA["synthetic"].read(Path(), {}).utterances) is None
