"""More corpora that are a declaration each, as in `patterns`: EmoV-DB, MEAD, ASVP-ESD, RESD and Oréau.

File names are those that EmoBox's lists of these corpora show (emo-box/EmoBox, data/), but for MEAD's, which were not verified.
Counts that are not given could not be verified; where the page of a licence was not seen, the licence says so.
"""

from __future__ import annotations

from tfser.pipeline.corpora.base import Expected
from tfser.pipeline.corpora.filenames import FileNames
from tfser.pipeline.sound.audio import KNOWN_SUFFIXES

EMOV_DB = FileNames(
    name="emov_db",
    summary="EmoV-DB: English, acted, 4 speakers, 5 emotions, sentences of CMU Arctic, about 6,900 utterances",
    source="Adigwe, Tits, El Haddad, Ostadabbas and Dutoit, The Emotional Voices Database, arXiv 1806.09514, 2018",
    page="https://www.openslr.org/115",
    licence="see its page (not verified)",
    scheme="speaker and emotion in the folder, range and number of the sentence in the file",
    example="bea_Amused/amused_1-15_0003.wav",
    pattern=r"(?P<speaker>bea|jenie|josh|sam)_(?P<emotion>[a-z]+)/[a-z]+_\d+[-_]\d+_(?P<sentence>\d+)",
    utterance_id="{speaker}_{emotion}_{sentence}",
    emotions={
        "Amused": ("Amused", "amusement"),
        "Angry": ("Angry", "anger"),
        "Disgust": ("Disgust", "disgust"),
        "Disgusted": ("Disgusted", "disgust"),
        "Neutral": ("Neutral", "neutral"),
        "Sleepy": ("Sleepy", "sleepiness"),
    },
    derived={"gender": ("speaker", {"bea": "F", "jenie": "F", "josh": "M", "sam": "M"})},
    lower=("speaker",),
    default_protocol="loso-speaker",
    expected=Expected(speakers=4),
)

MEAD = FileNames(
    name="mead",
    summary="MEAD: English, acted in front of cameras, 8 emotions, three levels; the public part has 48 speakers",
    source="Wang et al., MEAD: A Large-scale Audio-visual Dataset for Emotional Talking-face Generation, ECCV 2020",
    page="https://wywu.github.io/projects/MEAD/MEAD.html",
    licence="see its page (not verified)",
    scheme="speaker, emotion, level and number in folders",
    example="M003/audio/angry/level_1/001.m4a",
    pattern=(
        r"(?P<speaker>(?P<gender>[MW])\d{3})/(?:audio/)?(?P<emotion>[a-z]+)/(?P<level>level_[123])/(?P<_number>\d{3})"
    ),
    utterance_id="{speaker}_{emotion}_{level}_{_number}",
    emotions={
        "angry": ("angry", "anger"),
        "contempt": ("contempt", "contempt"),
        "disgusted": ("disgusted", "disgust"),
        "fear": ("fear", "fear"),
        "happy": ("happy", "happiness"),
        "neutral": ("neutral", "neutral"),
        "sad": ("sad", "sadness"),
        "surprised": ("surprised", "surprise"),
    },
    codes={"gender": {"M": "M", "W": "F"}},
    upper=("speaker",),
    lower=("level",),
    suffixes=KNOWN_SUFFIXES | {".m4a"},
    default_protocol="group-kfold:5",
)

ASVP_ESD = FileNames(
    name="asvp_esd",
    summary="ASVP-ESD: speech and other sounds from films, television and the web, in several languages, 13 emotions",
    source="Landry, He, Yan and Li, ASVP-ESD: a dataset and its benchmark for emotion recognition, 2020",
    page="https://zenodo.org/records/5573185",
    licence="see its page (not verified)",
    scheme="as RAVDESS: channel, speech or not, emotion, intensity, number, actor, age, source, language",
    example="Audio/actor_106/03-01-01-01-01-106-02-02-04-11.wav",
    pattern=(
        r"(?P<_channel>\d\d)-(?P<kind>\d\d)-(?P<emotion>\d\d)-(?P<intensity>\d+)-(?P<_number>\d+)-(?P<speaker>\d+)"
        r"(?P<_rest>(?:-\d+)*)"
    ),
    utterance_id="{_channel}-{_kind}-{emotion}-{intensity}-{_number}-{speaker}{_rest}",
    emotions={
        "01": ("boredom", "boredom"),
        "02": ("neutral", "neutral"),
        "03": ("happy", "happiness"),
        "04": ("sad", "sadness"),
        "05": ("angry", "anger"),
        "06": ("fearful", "fear"),
        "07": ("disgust", "disgust"),
        "08": ("surprised", "surprise"),
        "09": ("excited", "excitement"),
        "10": ("pleasure", "pleasure"),
        "11": ("pain", "pain"),
        "12": ("disappointed", "disappointment"),
        "13": ("breath", "breath"),
    },
    codes={"kind": {"01": "speech", "02": "no speech"}},
    default_protocol="group-kfold:5",
    notes=(
        "the meaning of the numbers is RAVDESS's and was not verified against the corpus's own read-me; "
        "the actors' numbers are those in the file names, whatever the folder is called",
    ),
)

RESD = FileNames(
    name="resd",
    summary="RESD: Russian dialogues of actors, 7 emotions, with a split of its own; file names do not say who speaks",
    source="Aniemore: Russian Emotional Speech Dialogs (RESD), 2022",
    page="https://huggingface.co/datasets/Aniemore/resd",
    licence="see its page (not verified)",
    scheme="dialogue, the emotions of its two sides, first letter of the one that is heard, place",
    example="train/12_sadness_disgust/12_sadness_disgust_d_070.wav",
    pattern=(
        r"(?:(?P<split>train|test)/)?(?:[^/]+/)?(?P<dialogue>\d+)_(?P<_one>[a-z]+)_(?P<_other>[a-z]+)[ _]"
        r"(?P<emotion>[a-z])_(?P<_place>\d+)"
    ),
    utterance_id="{dialogue}_{_one}_{_other}_{emotion}_{_place}",
    emotions={
        "a": ("anger", "anger"),
        "d": ("disgust", "disgust"),
        "e": ("enthusiasm", "enthusiasm"),
        "f": ("fear", "fear"),
        "h": ("happiness", "happiness"),
        "n": ("neutral", "neutral"),
        "s": ("sadness", "sadness"),
    },
    codes={"split": {"train": "train", "test": "test"}},
    default_protocol="official-split",
    expected=Expected(
        utterances=1396,
        labels={
            **{"fear": 223, "anger": 219, "happiness": 218, "enthusiasm": 198, "neutral": 191, "disgust": 185, "sadness": 162}
        },
    ),
    notes=(
        "file names do not say who speaks: no protocol can keep speakers apart here; dialogues can be (group-kfold:K:dialogue)",
    ),
)

OREAU = FileNames(
    name="oreau",
    summary="Oréau: French, acted, 7 emotions, sentences of everyday life and of fiction",
    source="Kerkeni et al., French emotional speech database - Oréau, Zenodo, 2020, doi:10.5281/zenodo.4405783",
    page="https://zenodo.org/records/4405783",
    licence="see its page (not verified)",
    scheme="speaker, letter and number of the sentence, emotion letter and take",
    example="OréauFR_02/m/sessp/07a01Pa.wav",
    pattern=r"(?:(?P<gender>[mf])/)?(?:[^/]+/)?(?P<speaker>\d\d)(?P<sentence>[a-z]\d\d)(?P<emotion>[A-Z])(?P<take>[a-z])",
    utterance_id="{speaker}{sentence}{emotion}{take}",
    emotions={
        "C": ("colère", "anger"),
        "D": ("dégoût", "disgust"),
        "J": ("joie", "happiness"),
        "N": ("neutre", "neutral"),
        "P": ("peur", "fear"),
        "S": ("surprise", "surprise"),
        "T": ("tristesse", "sadness"),
    },
    upper=("gender",),
    lower=("sentence", "take"),
    default_protocol="group-kfold:5",
)

MORE_PATTERNS = {corpus.name: corpus for corpus in (EMOV_DB, MEAD, ASVP_ESD, RESD, OREAU)}
"""The corpora that are declared here, by name."""
