"""The sound of utterances for a page: embedded while it is small, else files beside the page.

In goes which utterances are to be heard and the corpora's folders, as the catalogue knows them; out comes, for each, the text of
an address that a player takes (`data:` or a relative name), and the files to be written. Sound that cannot be had (no folder, no
file, unreadable) is counted with its reason, and the page does without. Nothing is read outside of a corpus's own rows, and names
of files that are written are made of numbers, whatever an utterance is called.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfser.heads.reports.wishes import EMBEDDED_MB
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError
from tfser.pipeline.sound.audio import MAX_DURATION_S, decode, resample

_RATE_HZ = 16000
_EMBEDDED = "data:audio/flac;base64,"


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was found of the utterances to be heard.

    Attributes:
        addresses: by corpus and id, what a player takes.
        files: by name, relative to the page, the content of each file beside it; empty where all is embedded.
        missing: by corpus and id, why there is no sound.
        megabytes: of sound, as FLAC.
    """

    addresses: Mapping[tuple[str, str], str]
    files: Mapping[str, bytes]
    missing: Mapping[tuple[str, str], str]
    megabytes: float


class Players:
    """The players of one page: sound that is part of it stands there once, wherever it is heard.

    Of an utterance that several experiments take for something else, the first has the player; the others lead to it, and the
    page's script puts a player there, which takes the sound of the first. What is an address costs nothing to name again.
    """

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._placed: dict[tuple[str, str], str] = {}

    def cell(self, corpus: str, utterance_id: str) -> dict[str, str]:
        """Return a cell (`templates.cell`) to hear an utterance by: a player, a link to the one there is, or why not."""
        key = (corpus, utterance_id)
        address = self._heard.addresses.get(key)
        if address is None:
            return {"text": self._heard.missing.get(key, "no sound")}
        if key in self._placed:
            return {"player": self._placed[key], "text": utterance_id}
        if not address.startswith(_EMBEDDED):
            return {"audio": address, "text": utterance_id}
        self._placed[key] = f"sound-{len(self._placed) + 1}"
        return {"audio": address, "id": self._placed[key], "text": utterance_id}


def listen(connection: Connection, wanted: Sequence[tuple[str, str]], beside: str, embedded_mb: float = EMBEDDED_MB) -> Heard:
    """Return the sound of utterances as FLAC, one channel, at 16 kHz at most.

    Args:
        connection: the catalogue.
        wanted: corpus and id of each.
        beside: the folder beside the page for files, if all of them are more than `embedded_mb`.
        embedded_mb: how many megabytes may be part of the page.
    """
    roots = {row["corpus"]: row["root"] for row in rows(connection, "SELECT corpus, root FROM corpora")}
    sounds: dict[tuple[str, str], bytes] = {}
    missing: dict[tuple[str, str], str] = {}
    for key in dict.fromkeys(wanted):
        found = rows(connection, "SELECT path, start_s, end_s FROM utterances WHERE corpus = ? AND utterance_id = ?", list(key))
        if not found or key[0] not in roots:
            missing[key] = "is no longer in the catalogue"
            continue
        try:
            sounds[key] = as_flac(Path(roots[key[0]]) / found[0]["path"], found[0]["start_s"], found[0]["end_s"])
        except (TfserError, OSError) as error:
            missing[key] = " ".join(str(error).split())
    size = sum(map(len, sounds.values()))
    if size <= embedded_mb * 1e6:
        addresses = {key: f"{_EMBEDDED}{base64.b64encode(of).decode()}" for key, of in sounds.items()}
        return Heard(addresses=addresses, files={}, missing=missing, megabytes=size / 1e6)
    names = {key: f"{beside}/{i + 1:04d}.flac" for i, key in enumerate(sounds)}
    files = {names[key]: of for key, of in sounds.items()}
    return Heard(addresses=names, files=files, missing=missing, megabytes=size / 1e6)


def as_flac(path: Path, start_s: float | None, end_s: float | None) -> bytes:
    """Return the sound of a file, or of a segment of it in seconds, as FLAC: one channel, at 16 kHz at most.

    Raises:
        TfserError: if it cannot be decoded.
    """
    import soundfile

    audio = decode(path, start_s=start_s, end_s=end_s, max_duration_s=MAX_DURATION_S)
    samples, rate = audio.samples, audio.sample_rate
    if rate > _RATE_HZ:
        samples, rate = resample(samples, rate, _RATE_HZ), _RATE_HZ
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
