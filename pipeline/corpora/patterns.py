"""Corpora that are a declaration each: how their files are named, what the codes mean, who made them, how many there are.

Names, counts and licences are those of the pages given; what a `FileNames` is, and how it is read, stands in
`filenames`. Copies that hold everything twice (TESS in itself, CaFE in 48 and 192 kHz, JL in two spellings) give each
utterance once; the second is listed. Licences are the makers' own: copies elsewhere often state others.
"""

from __future__ import annotations

from tfser.pipeline.corpora.base import Expected
from tfser.pipeline.corpora.filenames import Blocks, FileNames, Transcripts

_EKMAN = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")

TESS = FileNames(
    name="tess",
    summary="Toronto emotional speech set: English, acted by 2 women, 7 emotions, 200 words in one sentence, 2,800 utterances",
    source="Pichora-Fuller and Dupuis, Toronto emotional speech set (TESS), 2010, doi:10.5683/SP2/E8H2MF",
    page="https://tspace.library.utoronto.ca/handle/1807/24487",
    licence="CC BY-NC-ND 4.0 (TSpace), CC BY-NC 4.0 (Borealis)",
    scheme="speaker, word and emotion",
    example="OAF_angry/OAF_back_angry.wav",
    pattern=r"(?P<speaker>OAF?|YAF)_(?P<sentence>[a-z]+)_(?P<emotion>[a-z]+)",
    utterance_id="{speaker}_{sentence}_{emotion}",
    emotions={
        "angry": ("angry", "anger"),
        "disgust": ("disgust", "disgust"),
        "fear": ("fear", "fear"),
        "happy": ("happy", "happiness"),
        "neutral": ("neutral", "neutral"),
        "ps": ("pleasant surprise", "surprise"),
        "sad": ("sad", "sadness"),
    },
    codes={"speaker": {"OAF": "OAF", "OA": "OAF", "YAF": "YAF"}},  # one file is misnamed: OA_bite_neutral.wav
    derived={"gender": ("speaker", {"OAF": "F", "YAF": "F"})},
    columns={"transcript": "Say the word {sentence}"},
    lower=("sentence",),
    default_protocol="loso-speaker",
    expected=Expected(utterances=2800, speakers=2, labels=dict.fromkeys(_EKMAN, 400)),
)

SAVEE = FileNames(
    name="savee",
    summary="Surrey Audio-Visual Expressed Emotion: British English, acted by 4 men, 7 emotions, 480 utterances",
    source="Haq and Jackson, Speaker-dependent audio-visual emotion recognition, AVSP 2009",
    page="http://kahlan.eps.surrey.ac.uk/savee",
    licence="research only, after registration",
    scheme="speaker, emotion and sentence",
    example="AudioData/DC/a01.wav",
    pattern=r"(?P<speaker>DC|JE|JK|KL)[/_]?(?P<emotion>[a-z]+?)(?P<_number>\d\d)",
    utterance_id="{speaker}_{emotion}{_number}",
    emotions={
        "a": ("anger", "anger"),
        "d": ("disgust", "disgust"),
        "f": ("fear", "fear"),
        "h": ("happiness", "happiness"),
        "n": ("neutral", "neutral"),
        "sa": ("sadness", "sadness"),
        "su": ("surprise", "surprise"),
    },
    derived={"gender": ("speaker", dict.fromkeys(("DC", "JE", "JK", "KL"), "M"))},
    columns={"sentence": "{emotion}{_number}"},  # numbers are of the emotion; three sentences recur under all of them
    upper=("speaker",),
    default_protocol="loso-speaker",
    expected=Expected(utterances=480, speakers=4, labels={**dict.fromkeys(_EKMAN, 60), "neutral": 120}),
)

ESD = FileNames(
    name="esd",
    summary="Emotional Speech Dataset: Mandarin (0001-0010) and English (0011-0020), acted, 5 emotions, 35,000 utterances",
    source="Zhou et al., Emotional voice conversion: Theory, databases and ESD, Speech Communication 137, 2022",
    page="https://github.com/HLTSingapore/Emotional-Speech-Data",
    licence="research only, under a licence to be signed",
    scheme="speaker and number",
    example="0011/Angry/train/0011_000401.wav",
    pattern=(
        r"(?:(?P<emotion>angry|happy|neutral|sad|surprise)/)?(?:(?P<split>train|test|evaluation)/)?(?:\d{4}/)?"
        r"(?P<speaker>00(?:0[1-9]|1\d|20))_(?P<_number>\d{6})"
    ),
    utterance_id="{speaker}_{_number}",
    emotions={
        "neutral": ("Neutral", "neutral"),
        "angry": ("Angry", "anger"),
        "happy": ("Happy", "happiness"),
        "sad": ("Sad", "sadness"),
        "surprise": ("Surprise", "surprise"),
    },
    blocks=Blocks(group="_number", size=350, emotions=("neutral", "angry", "happy", "sad", "surprise")),
    codes={"split": {"train": "train", "evaluation": "val", "test": "test"}},
    derived={
        "language": (
            "speaker",
            {**{f"{i:04d}": "zh" for i in range(1, 11)}, **{f"{i:04d}": "en" for i in range(11, 21)}},
        ),
        "gender": (
            "speaker",
            {f"{i:04d}": "M" if i in {4, 5, 6, 8, 10, 11, 12, 13, 14, 20} else "F" for i in range(1, 21)},
        ),
    },
    columns={"sentence": "{language}-{place:03d}"},  # parallel within a language
    transcripts=Transcripts(
        name="{speaker}.txt",
        line=(
            # Behind the words the emotion again, in either language; a few lines have blanks for tabs.
            r"(?P<id>\d{4}_\d{6})\s+(?P<words>[^\t]*?)"
            r"(?:\s*\t.*|\s+(?i:angry|happy|neutral|sad|surprise|中立|中性|生气|愤怒|快乐|开心|高兴|伤心|悲伤|难过|惊喜|惊讶|惊奇))?"
        ),
        encodings={"zh": "gb18030"},
    ),
    default_protocol="group-kfold:5",  # its own split is by sentence: all speakers are on all sides
    expected=Expected(
        utterances=35_000, speakers=20, labels=dict.fromkeys(("neutral", "anger", "happiness", "sadness", "surprise"), 7000)
    ),
)

EMOVO = FileNames(
    name="emovo",
    summary="EMOVO: Italian, acted, 6 speakers, 7 emotions, 14 sentences, 588 utterances",
    source="Costantini et al., EMOVO Corpus: an Italian Emotional Speech Database, LREC 2014",
    page="http://voice.fub.it/activities/corpora/emovo/index.html",
    licence="non-commercial, with acknowledgement",
    scheme="emotion, speaker and sentence",
    example="f1/dis-f1-b1.wav",
    pattern=r"(?P<emotion>[a-z]{3})-(?P<speaker>(?P<gender>[fm])[1-3])-(?P<sentence>[a-z]\d)",
    utterance_id="{emotion}-{speaker}-{sentence}",
    emotions={
        "dis": ("disgusto", "disgust"),
        "gio": ("gioia", "happiness"),
        "neu": ("neutro", "neutral"),
        "pau": ("paura", "fear"),
        "rab": ("rabbia", "anger"),
        "sor": ("sorpresa", "surprise"),
        "tri": ("tristezza", "sadness"),
    },
    upper=("gender",),
    lower=("speaker", "sentence"),
    default_protocol="loso-speaker",
    expected=Expected(utterances=588, speakers=6, labels=dict.fromkeys(_EKMAN, 84)),
)

SHEMO = FileNames(
    name="shemo",
    summary="Sharif Emotional Speech Database: Persian radio plays, 87 speakers, 6 emotions, 3,000 utterances",
    source="Mohamad Nezami, Jamshid Lou and Karami, ShEMO, Language Resources and Evaluation 53, 2019",
    page="https://github.com/pariajm/sharif-emotional-speech-database",
    licence="free of charge for academic purposes",
    scheme="speaker, emotion letter and number",
    example="female/F03S02.wav",
    pattern=r"(?P<speaker>(?P<gender>[FM])\d\d)(?P<emotion>[A-Z])(?P<_number>\d\d+)",
    utterance_id="{speaker}{emotion}{_number}",
    emotions={
        "A": ("anger", "anger"),
        "F": ("fear", "fear"),
        "H": ("happiness", "happiness"),
        "N": ("neutral", "neutral"),
        "S": ("sadness", "sadness"),
        "W": ("surprise", "surprise"),
    },
    upper=("speaker", "gender"),
    default_protocol="group-kfold:5",
    expected=Expected(
        utterances=3000,
        speakers=87,
        labels={"anger": 1059, "neutral": 1028, "sadness": 449, "surprise": 225, "happiness": 201, "fear": 38},
    ),
)

SUBESCO = FileNames(
    name="subesco",
    summary="SUST Bangla Emotional Speech Corpus: acted, 20 speakers, 7 emotions, 10 sentences, 5 takes, 7,000 utterances",
    source="Sultana et al., SUST Bangla Emotional Speech Corpus (SUBESCO), PLoS ONE 16(4), 2021",
    page="https://zenodo.org/records/4526477",
    licence="CC BY 4.0",
    scheme="gender, speaker's number and name, sentence, emotion and take",
    example="F_01_OISHI_S_10_ANGRY_1.wav",
    pattern=(
        r"(?P<gender>[FM])_(?P<_number>\d+)_(?P<_name>[A-Z]+)_S_(?P<sentence>\d+)_(?P<emotion>[A-Z]+)_(?P<take>\d+)"
    ),
    utterance_id="{gender}_{_number}_{_name}_S_{sentence}_{emotion}_{take}",
    emotions={
        "ANGRY": ("ANGRY", "anger"),
        "DISGUST": ("DISGUST", "disgust"),
        "FEAR": ("FEAR", "fear"),
        "HAPPY": ("HAPPY", "happiness"),
        "NEUTRAL": ("NEUTRAL", "neutral"),
        "SAD": ("SAD", "sadness"),
        "SURPRISE": ("SURPRISE", "surprise"),
    },
    columns={"speaker": "{gender}_{_number}_{_name}"},  # men and women are both counted from 01
    upper=("gender", "_name"),
    default_protocol="group-kfold:5",
    expected=Expected(utterances=7000, speakers=20, labels=dict.fromkeys(_EKMAN, 1000)),
)

URDU = FileNames(
    name="urdu",
    summary="URDU dataset: Urdu talk shows, 38 speakers (copies name fewer), 4 emotions, 400 utterances",
    source="Latif et al., Cross Lingual Speech Emotion Recognition: Urdu vs. Western Languages, FIT 2018",
    page="https://github.com/siddiquelatif/URDU-Dataset",
    licence="research only",
    scheme="speaker, file and emotion letter with a number",
    example="Angry/SM1_F10_A010.wav",
    pattern=r"(?P<speaker>S(?P<gender>[FM])\d+)_F(?P<_file>\d+)_(?P<emotion>[A-Z])(?P<_number>\d+)",
    utterance_id="{speaker}_F{_file}_{emotion}{_number}",
    emotions={
        "A": ("Angry", "anger"),
        "H": ("Happy", "happiness"),
        "N": ("Neutral", "neutral"),
        "S": ("Sad", "sadness"),
    },
    upper=("speaker", "gender"),
    default_protocol="group-kfold:5",
    expected=Expected(
        utterances=400, speakers=38, labels=dict.fromkeys(("anger", "happiness", "neutral", "sadness"), 100)
    ),
)

MESD = FileNames(
    name="mesd",
    summary="Mexican Emotional Speech Database: single words, women, men and children, 6 emotions, 864 utterances",
    source="Duville, Alonso-Valerdi and Ibarra-Zarate, Mexican Emotional Speech Database, Data 6(12), 2021",
    page="https://data.mendeley.com/datasets/cy34mh68j9",
    licence="CC BY 4.0",
    scheme="emotion, voice (F, M or C), word list (A or B) and word",
    example="Anger_C_A_abajo.wav",
    pattern=r"(?P<emotion>[a-z]+)_(?P<speaker>[FMC])_(?P<word_list>[AB])_(?P<sentence>[^\W\d_]+(?:_[^\W\d_]+)*)",
    utterance_id="{emotion}_{_speaker}_{word_list}_{sentence}",
    emotions={
        "Anger": ("Anger", "anger"),
        "Disgust": ("Disgust", "disgust"),
        "Fear": ("Fear", "fear"),
        "Happiness": ("Happiness", "happiness"),
        "Neutral": ("Neutral", "neutral"),
        "Sadness": ("Sadness", "sadness"),
    },
    codes={"speaker": {"F": "women", "M": "men", "C": "children"}},
    derived={"gender": ("speaker", {"women": "F", "men": "M"})},
    lower=("sentence",),
    upper=("word_list",),
    default_protocol="loso-speaker",
    expected=Expected(
        utterances=864, labels=dict.fromkeys(("anger", "disgust", "fear", "happiness", "neutral", "sadness"), 144)
    ),
    notes=(
        "file names do not say who speaks (3 women, 2 men, 6 children), so each of the three kinds of voice stands as one "
        "speaker: folds by speaker share no voice",
    ),
)

CAFE = FileNames(
    name="cafe",
    summary="Canadian French Emotional speech: acted, 12 speakers, 7 emotions, two intensities, 6 sentences, 936 utterances",
    source="Gournay, Lahaie and Lefebvre, A Canadian French Emotional Speech Dataset, ACM MMSys 2018",
    page="https://zenodo.org/records/1478765",
    licence="CC BY-NC-SA 4.0",
    scheme="speaker, emotion letter, intensity and sentence",
    example="Colère/Fort/01-C-2-1.wav",
    pattern=r"(?P<speaker>\d\d)-(?P<emotion>[A-Z])-(?P<intensity>\d)-(?P<sentence>\d)",
    utterance_id="{speaker}-{emotion}-{_intensity}-{sentence}",
    emotions={
        "C": ("colère", "anger"),
        "D": ("dégoût", "disgust"),
        "J": ("joie", "happiness"),
        "N": ("neutre", "neutral"),
        "P": ("peur", "fear"),
        "S": ("surprise", "surprise"),
        "T": ("tristesse", "sadness"),
    },
    codes={"intensity": {"1": "faible", "2": "fort"}},
    derived={"gender": ("speaker", {f"{i:02d}": "M" if i % 2 else "F" for i in range(1, 13)})},
    default_protocol="group-kfold:5",
    expected=Expected(utterances=936, speakers=12, labels={**dict.fromkeys(_EKMAN, 144), "neutral": 72}),
)

JL_CORPUS = FileNames(
    name="jl_corpus",
    summary="JL corpus: New Zealand English, acted, 4 speakers, 5 primary and 5 secondary emotions, 2,400 utterances",
    source="James, Tian and Watson, An Open Source Emotional Speech Corpus for Human Robot Interaction, Interspeech 2018",
    page="https://www.kaggle.com/datasets/tli725/jl-corpus",
    licence="CC0 1.0",
    scheme="speaker, emotion, sentence and take",
    example="JL(wav+txt)/male1_angry_10a_1.wav",
    pattern=(
        r"(?P<speaker>(?P<gender>female|male)[12])_(?P<emotion>[a-z]+)_(?P<sentence>\d+)(?P<recording>[ab])_(?P<take>\d)"
    ),
    utterance_id="{speaker}_{emotion}_{sentence}{recording}_{take}",
    emotions={
        "angry": ("angry", "anger"),
        "excited": ("excited", "excitement"),
        "happy": ("happy", "happiness"),
        "neutral": ("neutral", "neutral"),
        "sad": ("sad", "sadness"),
        "anxious": ("anxious", "fear"),  # as everywhere here: see labels
        "apologetic": ("apologetic", "apologetic"),
        "assertive": ("assertive", "assertive"),
        "concerned": ("concerned", "concerned"),
        "encouraging": ("encouraging", "encouraging"),
    },
    codes={"gender": {"female": "F", "male": "M"}},
    derived={
        "emotion_kind": (
            "emotion",
            {
                **dict.fromkeys(("angry", "excited", "happy", "neutral", "sad"), "primary"),
                **dict.fromkeys(("anxious", "apologetic", "assertive", "concerned", "encouraging"), "secondary"),
            },
        )
    },
    lower=("speaker", "recording"),
    transcripts=Transcripts(name="{stem}.txt"),
    default_protocol="loso-speaker",
    expected=Expected(
        utterances=2400,
        speakers=4,
        labels=dict.fromkeys(
            (
                *("anger", "excitement", "happiness", "neutral", "sadness"),
                *("fear", "apologetic", "assertive", "concerned", "encouraging"),
            ),
            240,
        ),
    ),
)

AESDD = FileNames(
    name="aesdd",
    summary="Acted Emotional Speech Dynamic Database: Greek, 5 emotions, 20 sentences; it grows (5 speakers at first, later 6)",
    source="Vryzas et al., Speech Emotion Recognition for Performance Interaction, JAES 66(6), 2018",
    page="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition",
    licence="see its page",
    scheme="emotion letter, sentence and speaker in brackets",
    example="anger/a03 (4).wav",
    pattern=r"(?P<emotion>[a-z])(?P<sentence>\d\d)[ _]*\((?P<speaker>\d+)\)(?P<take>[a-z]?)",
    utterance_id="{emotion}{sentence} ({speaker}){take}",
    emotions={
        "a": ("anger", "anger"),
        "d": ("disgust", "disgust"),
        "f": ("fear", "fear"),
        "h": ("happiness", "happiness"),
        "s": ("sadness", "sadness"),
    },
    derived={"scenario": ("sentence", {**{f"{i:02d}": "scripted" for i in range(1, 20)}, "20": "improvised"})},
    lower=("take",),
    default_protocol="loso-speaker",
)

PATTERNS = {
    corpus.name: corpus for corpus in (TESS, SAVEE, ESD, EMOVO, SHEMO, SUBESCO, URDU, MESD, CAFE, JL_CORPUS, AESDD)
}
"""The corpora that are declared here, by name. One declaration makes another."""
