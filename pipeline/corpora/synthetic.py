"""The built-in corpus: speech-like sounds of eight made-up speakers in four emotions, for demonstrations and tests.

It is generated on first use (see `tfser.pipeline.corpora.synthesis`), into the folder given with --root, else into the cache.
Scores on it say that the machinery works, nothing about speech.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.dimensions import DIMENSIONS
from tfser.manifests.labels import normalise
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora.base import CorpusReader, Expected, Reading
from tfser.pipeline.corpora.synthesis import SynthesisConfig, SyntheticUtterance, generate, ratings, utterances


def prepare(root: Path, progress: Callable[[int, int], None] | None) -> None:
    """Generate the audio where it is not complete yet."""
    generate(root, SynthesisConfig(), progress)


def read(root: Path, options: Mapping[str, Any]) -> Reading:
    """List the utterances of the generated corpus."""
    config = SynthesisConfig()

    def rated(u: SyntheticUtterance) -> dict[str, Any]:
        return dict(zip(DIMENSIONS, ratings(config, u), strict=True))

    return Reading(
        utterances=[
            Utterance(
                utterance_id=u.utterance_id,
                path=u.relative_path,
                speaker=u.speaker,
                gender=u.gender,
                session=u.session,
                sentence=u.sentence,
                label=normalise(u.label),
                raw_label=u.label,
                **rated(u),
            )
            for u in utterances(config)
        ]
    )


READER = CorpusReader(
    name="synthetic",
    summary="built in: speech-like sounds by a source-filter model, 8 speakers in 2 sessions, 4 emotions",
    source="tfser.pipeline.corpora.synthesis",
    layout="  ROOT/   (any folder: the corpus is generated there)",
    read=read,
    default_protocol="loso-session",
    page="built in",
    licence="MIT, as tfser",
    expected=Expected(utterances=384, speakers=8, labels=dict.fromkeys(("anger", "happiness", "neutral", "sadness"), 96)),
    prepare=prepare,
)
