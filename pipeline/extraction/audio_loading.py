"""Loading samples for features: decoded, found to be what was scanned, resampled.

What comes in: rows of a corpus below a root. What goes out: mono samples at the rate that is asked for, or the reason why there
are none. A file that is no longer what was scanned gives none. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError
from tfser.pipeline.scanning.measure import audio_path
from tfser.pipeline.sound.audio import content_hash, decode, resample
from tfser.pipeline.sound.recording import AudioError, TooLongError
from tfser.pipeline.sound.video import MissingExtraError

if TYPE_CHECKING:
    from tfser.pipeline.features.engine import AudioRow, Samples

CHANGED = "the file changed between scan and extraction, or its row did; run the extraction again, which decodes it anew"
"""Why a file that is no longer what was scanned has no features."""


def audio_loader(root: Path, sample_rate_hz: int) -> Callable[[AudioRow], Samples]:
    """Return what loads the samples (n,) of rows below a root, at a rate; it raises a TfserError that says why it cannot."""

    def load(row: AudioRow) -> Samples:
        path = audio_path(root, row.path)
        try:
            # A file that was replaced by a much longer one is not decoded to its end only to find that.
            audio = decode(path, row.start_s, row.end_s, max_duration_s=row.duration_s + 1.0)
        except MissingExtraError:
            raise
        except TooLongError:
            raise TfserError(CHANGED) from None
        except AudioError as error:
            raise TfserError(error.reason) from error
        if content_hash(audio) != row.content_hash:
            raise TfserError(CHANGED)
        return resample(audio.samples, audio.sample_rate, sample_rate_hz)

    return load
