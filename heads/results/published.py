"""What the papers print: the tables that `tfser reproduce` sets ours beside, with the conditions under which they were made.

Numbers are percent, by corpus and metric (`iemocap UA`), as printed; a corpus is by its name here. Rows of a paper's own
ablation stand beside its head (`HeadSpec.ablation`) and are taken from there. Rows of other methods are the paper's own
measurements or quotations; those that have a head here are trained by it, the others are not.

* TF-Mamba: Zhao et al., Temporal-Frequency State Space Duality, arXiv:2412.16904, 2024; Tables I to III.
* TF-Transformer: Wang et al., Time-Frequency Transformer: A Novel Time Frequency Joint Learning Method for Speech Emotion
  Recognition, ICONIP 2023; Tables 4 and 5. Its WAR and UAR are WA and UA; its IEMOCAP is the improvised part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfser.heads import head
from tfser.heads.results.written import score_text
from tfser.manifests.errors import unknown


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row: what the paper calls it, what it prints, and, where it can be trained here, how."""

    name: str
    printed: Mapping[str, float]
    preset: str | None = None
    """None: another method, which is not trained here."""
    head: str | None = None
    """None: the paper's."""
    recipe: str | None = None
    """None: the paper's."""
    settings: Mapping[str, str] = field(default_factory=dict)
    features: str | None = None
    """Where they differ from the paper's."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table."""

    number: str
    title: str
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper: its head, and what its tables share."""

    name: str
    source: str
    head: str
    recipe: str
    features: str
    protocols: Mapping[str, str]
    """By corpus."""
    tables: Callable[[], tuple[PublishedTable, ...]]


FIG_3 = {"parameters": 1.81, "latency": 1.87}
"""ShiftFormer's over TF-Mamba's, as the text on TF-Mamba's Fig. 3 has them; the figure itself is a picture. The first is no
ratio of the models that the paper names: see docs/methods.md."""

_MAMBA = ("iemocap WA", "iemocap UA", "meld WF1")
_TRANSFORMER = ("iemocap WA", "iemocap UA")


def _others(columns: tuple[str, ...], *rows: tuple[str, *tuple[float, ...]]) -> tuple[PublishedRow, ...]:
    return tuple(PublishedRow(name=name, printed=dict(zip(columns, of, strict=True))) for name, *of in rows)


def _compared(name: str, of: str, *printed: float, features: str | None = None) -> PublishedRow:
    """Return a row of TF-Mamba's Table I that a head here stands for, trained as that paper trains all of them."""
    values = dict(zip(_MAMBA, printed, strict=True))
    return PublishedRow(name=name, printed=values, preset="full", head=of, recipe="table_one", features=features)


def _ablation(name: str) -> tuple[PublishedRow, ...]:
    """Return the rows of a head's ablation that its paper prints."""
    return tuple(
        PublishedRow(name=row.name, preset=row.preset, settings=row.settings, printed=row.printed)
        for row in head(name).ablation
        if row.printed
    )


def _own(name: str, of: str, title: str) -> PublishedRow:
    """Return a row of the ablation under the name that another table gives it."""
    row = next(row for row in _ablation(name) if row.name == of)
    return PublishedRow(name=title, preset=row.preset, settings=row.settings, printed=row.printed)


def _tf_mamba() -> tuple[PublishedTable, ...]:
    own = _own("tf_mamba", "+ CMDT Loss (Full model)", "TF-Mamba (ours)")
    encoders = (
        ("Wav2vec2-base", "wav2vec2-base", 54.4, 55.4, 31.9),
        ("Wav2vec2-large", "wav2vec2-large", 58.4, 59.4, 35.2),
        ("HuBERT-base", "hubert-base", 62.7, 62.9, 37.7),
        ("HuBERT-large", "hubert-large", 67.7, 68.7, 42.9),
        ("WavLM-base", "wavlm-base", 71.7, 70.3, 42.5),
        ("WavLM-large", "wavlm-large", 75.3, 75.7, 48.5),
        ("Whisper-base", "whisper-base", 62.8, 61.0, 34.3),
        ("Whisper-large", "whisper-large", 68.4, 66.7, 40.2),
    )
    return (
        PublishedTable(
            number="I",
            title="comparison with other methods",
            rows=(
                _compared("CA-MSER", "ca_mser", 68.9, 70.1, 42.2, features="logmel+mfcc+wav2vec2-base/12"),
                _compared("SpeechFormer", "speechformer", 62.9, 64.5, 41.9),
                _compared("SpeechFormer++", "speechformer_pp", 68.8, 69.1, 46.0),
                _compared("ShiftCNN", "shift_cnn", 71.9, 72.6, 43.1),
                _compared("ShiftLSTM", "shift_lstm", 71.4, 72.1, 45.0),
                _compared("ShiftFormer", "shiftformer", 72.1, 72.8, 45.6),
                _compared("DWFormer", "dwformer", 71.8, 72.8, 46.7),
                _compared("DST", "dst", 70.9, 72.3, 45.8),
                _compared("MSTR", "mstr", 70.6, 71.6, 46.2),
                _compared("ENT", "ent", 71.6, 72.4, 46.3),
                _compared("TENT", "tent", 71.4, 71.8, 45.1),
                own,
            ),
        ),
        PublishedTable(
            number="II",
            title="encoders",
            rows=tuple(
                PublishedRow(
                    name=name,
                    preset=own.preset,
                    settings=own.settings,
                    features=features,
                    printed=dict(zip(_MAMBA, of, strict=True)),
                )
                for name, features, *of in encoders
            ),
        ),
        PublishedTable(number="III", title="ablation", rows=_ablation("tf_mamba")),
    )


def _tf_transformer() -> tuple[PublishedTable, ...]:
    return (
        PublishedTable(
            number="4",
            title="comparison with other methods",
            rows=(
                *_others(
                    _TRANSFORMER,
                    ("MSA-AL", 72.34, 58.31),
                    ("CNN-LSTM", 68.80, 59.40),
                    ("STC-Attention", 61.32, 60.43),
                    ("DNN-SAli", 62.28, 58.02),
                    ("GRU-CNN-SeqCap", 72.73, 59.71),
                    ("DNN-BN", 59.7, 61.4),
                ),
                *_others(
                    ("casia WA", "casia UA"),
                    ("GA-BEL", 39.50, 39.50),
                    ("ELM-DNN", 41.17, 41.17),
                    ("LoHu", 43.50, 43.50),
                    ("DCNN-DTPM", 45.42, 45.42),
                    ("ATFNN", 48.75, 48.75),
                ),
                _own("tf_transformer", "T+F+TF", "TF-Transformer (ours)"),
            ),
        ),
        PublishedTable(number="5", title="ablation", rows=_ablation("tf_transformer")),
    )


PAPERS = {
    paper.name: paper
    for paper in (
        Paper(
            name="tf-mamba",
            source="Zhao et al. 2024, TF-Mamba",
            head="tf_mamba",
            recipe="paper",
            features="wavlm-large",
            protocols={"iemocap": "iemocap4-session", "meld": "meld7-official"},
            tables=_tf_mamba,
        ),
        Paper(
            name="tf-transformer",
            source="Wang et al. 2023, Time-Frequency Transformer",
            head="tf_transformer",
            recipe="paper",
            features="logmel",
            protocols={"iemocap": "iemocap4-improvised-speaker", "casia": "casia6-speaker"},
            tables=_tf_transformer,
        ),
    )
}
"""By name."""


def printed_numbers(of: Paper) -> dict[tuple[str, str, str], tuple[str, float]]:
    """Return what a paper prints by table, row and metric: the corpus and the number; where it prints several, the first."""
    numbers: dict[tuple[str, str, str], tuple[str, float]] = {}
    for table in of.tables():
        for row in table.rows:
            for column, value in row.printed.items():
                corpus, metric = column.split()
                numbers.setdefault((table.number, row.name, metric), (corpus, value))
    return numbers


def printed_text(row: Mapping[str, Any]) -> str:
    """Return the paper's number in a row of a reproduction, with its corpus where that is another than ours."""
    own = score_text(row["paper"], scale=1)
    return own or (f"{score_text(row['printed'], scale=1)} {row['printed_on']}" if row.get("printed_on") else "")


def paper(name: str) -> Paper:
    """Return a paper by its name.

    Raises:
        UsageError: there is no such paper.
    """
    if name not in PAPERS:
        raise unknown("paper", name, list(PAPERS))
    return PAPERS[name]
