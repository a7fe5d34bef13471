"""From the stored description of a feature set back to what computes it, so that new audio becomes the very same kind of
frames.

What comes in: what `feature_set.json` says of a feature set (name, configuration, dtype, fingerprint, where its weights
were).
What goes out: a `FrontEnd`, which is refused unless it has the fingerprint that was asked for. An encoder's weights are
looked for where they were, then wherever this cache has hashed such content before; only their content counts, never
their name. Nothing here trains, and nothing is written but the memo of hashes. Feature sets side by side are put together
in `tfser.pipeline.derived.joint_front_end`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tfser.manifests.errors import DamagedError, TfserError, UnreadableError, UsageError
from tfser.manifests.feature_name import FeatureName
from tfser.manifests.files import read_json
from tfser.manifests.options import pairs
from tfser.pipeline.extraction.feature_writer import narrowed, why_not_stored
from tfser.pipeline.features.encoder_engine import encoder_engine, keep_loaded
from tfser.pipeline.features.encoders.known import ENCODERS
from tfser.pipeline.features.encoders.spec import EncoderSpec, encoder_spec
from tfser.pipeline.features.encoders.weights import CONFIG, is_folder
from tfser.pipeline.features.engine import AudioRow, Compute, Engine, Frames, Samples, one_by_one
from tfser.pipeline.features.feature_set import IMPORTED, fingerprint_of
from tfser.pipeline.features.logmel import LogMel, LogMelConfig
from tfser.pipeline.features.registry import UPSTREAMS, feature_set
from tfser.pipeline.features.stacks import layer_cut
from tfser.pipeline.features.stored_set import StoredSet
from tfser.pipeline.shards.writer import storage_dtype


class MissingEncoderError(TfserError):
    """The encoder of a feature set is not on this machine, or what lies there holds other weights."""


LoadAt = Callable[[AudioRow, int], Samples]
"""Returns a row's (n,) mono samples at a rate in Hz; raises a TfserError whose text is the reason to list."""


@dataclass(frozen=True, kw_only=True)
class FrontEnd(ABC):
    """What makes the frames of a feature set of new audio.

    Attributes:
        stored: the feature set that it is.
        sample_rate_hz: of the samples that `frames` counts.
        minimum_s: the shortest audio that makes a frame.
        frames: maps a number of samples at that rate to one of frames.
    """

    stored: StoredSet
    sample_rate_hz: int
    minimum_s: float
    frames: Callable[[int], int]

    @abstractmethod
    def hear(self, rows: Sequence[AudioRow], load: LoadAt, compute: Compute) -> Iterator[tuple[AudioRow, Frames | str]]:
        """Yield each row with its frames as the cache would hold them, or with the reason why there are none, in any
        order.

        Raises:
            TfserError: what stops all of them, such as weights that do not load.
        """

    def as_stored(self, frames: Frames) -> Frames:
        """Return frames in the dtype of storage.

        Raises:
            TfserError: if a value does not fit; an extraction would have listed the utterance, too.
        """
        narrow = narrowed(frames, storage_dtype(self.stored.dtype))
        if narrow is None:
            raise TfserError(why_not_stored(frames, self.stored.dtype, self.stored.config))
        return narrow

    def bytes_for(self, duration_s: float) -> int:
        """Return about how many bytes the frames of so many seconds take."""
        count = self.frames(round(duration_s * self.sample_rate_hz))
        return count * self.stored.dim * np.dtype(self.stored.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class EngineFrontEnd(FrontEnd):
    """A front-end of one engine.

    Attributes:
        engine: computes frames; an encoder stays loaded between its calls.
        combine: what becomes of the engine's frames before they are stored: a layer of them, a mix.
    """

    engine: Engine
    combine: Callable[[Frames], Frames] = lambda frames: frames

    def hear(self, rows: Sequence[AudioRow], load: LoadAt, compute: Compute) -> Iterator[tuple[AudioRow, Frames | str]]:
        """Yield each row with its frames, or the reason why there are none."""
        for result in self.engine(rows, lambda row: load(row, self.sample_rate_hz), compute):
            if result.frames is None:
                yield result.row, result.reason or "unreadable"
                continue
            try:
                yield result.row, self.stored_frames(result.frames[0])
            except TfserError as error:
                yield result.row, str(error)

    def stored_frames(self, frames: Frames) -> Frames:
        """Return the engine's frames as the cache holds them: combined, and in the dtype of storage.

        Raises:
            TfserError: if a value does not fit.
        """
        return self.as_stored(self.combine(frames))


def front_end(stored: StoredSet, *, weights: str | None = None, memo: Path | None = None) -> EngineFrontEnd:
    """Return what computes a feature set, with exactly its fingerprint.

    Args:
        stored: the feature set, which is no joined one and no mix.
        weights: hub id or folder of the encoder; None: where it was, or wherever the memo knows such content.
        memo: file that remembers the hashes of weights.

    Raises:
        MissingEncoderError: if the encoder is not on this machine, or its weights are others.
        UsageError: if weights are named for a front-end that has none.
        TfserError: if this version computes other numbers under this configuration, or nothing but a file is known of
            how they were computed.
    """
    if stored.kind == IMPORTED:
        raise TfserError(
            f"{stored.name}: these features were computed elsewhere and imported, so no front end for new audio is known; train "
            "on features that `tfser extract` makes"
        )
    if stored.is_encoder:
        return _encoder(stored, weights, memo)
    if weights is not None:
        raise UsageError(f"--weights {weights}: {stored.name} is computed without any")
    if stored.config.get("kind") != "logmel":
        return front_end_by_name(stored)
    names = {of.name for of in fields(LogMelConfig)}
    config = LogMelConfig(**{key: value for key, value in stored.config.items() if key in names})
    check_same(stored, config.describe())
    return EngineFrontEnd(
        stored=stored,
        sample_rate_hz=config.sample_rate_hz,
        minimum_s=config.window_s,
        frames=config.frames,
        engine=one_by_one(lambda: LogMel(config).extract),
    )


def front_end_by_name(stored: StoredSet) -> EngineFrontEnd:
    """Return any other front-end that is registered, those of other packages (entry points `tfser.upstreams`) among
    them, asked for what the set's name says.

    Raises:
        TfserError: it is not installed here, computes other numbers now, or is an encoder's, of which a name says too
            little.
    """
    name = FeatureName.parse(stored.name)
    if name.encoder not in UPSTREAMS:
        raise TfserError(
            f"{stored.name}: features of the kind {stored.kind!r} cannot be computed here; install the plug-in that made them"
        )
    if UPSTREAMS[name.encoder].is_encoder:
        raise TfserError(
            f"{stored.name} ({stored.fingerprint}) is no longer described in the cache, so nothing says which weights it is "
            "computed with; extract it again"
        )
    made = feature_set(name.encoder, pairs("--set", name.options), stored.dtype)
    check_same(stored, made.config)
    return EngineFrontEnd(
        stored=stored,
        sample_rate_hz=made.sample_rate_hz,
        minimum_s=made.minimum_s,
        frames=made.frames,
        engine=made.engine,
    )


def _encoder(stored: StoredSet, weights: str | None, memo: Path | None) -> EngineFrontEnd:
    """Return the front-end of an encoder's feature set, or of a layer that was cut out of a stored stack of layers."""
    # A layer that was cut out of a stack has no pass of its own: the stack is computed, and cut as it was then.
    of_stack = stored.config.get("of")
    layer = "all" if of_stack else str(stored.config["layer"])
    _, spec = _found(stored, layer, weights, memo)
    (output,) = spec.outputs
    config, combine = spec.config(output), _as_it_is
    if of_stack:
        # The stored layer was rounded with its stack before it was cut out: so are these frames.
        row = {
            "feature_set": str(FeatureName.parse(stored.name).with_layer("all", of_stack["dtype"])),
            "fingerprint": fingerprint_of(config, of_stack["dtype"]),
            "config": json.dumps(config),
            "kind": stored.kind,
            "dim": output.dim,
            "dtype": of_stack["dtype"],
            "hop_s": stored.hop_s,
        }
        cut = layer_cut(row, str(stored.config["layer"]), dtype=stored.dtype, name=stored.name)
        config = dict(cut.config)
        rounded = storage_dtype(of_stack["dtype"])

        def combine(frames: Frames) -> Frames:
            narrow = narrowed(frames, rounded)
            if narrow is None:
                raise TfserError(why_not_stored(frames, rounded, spec.config(output)))
            return cut.combine(narrow)

    # Weights, versions and settings of today must give the stored fingerprint, or these would be other features.
    check_same(stored, config)
    return EngineFrontEnd(
        stored=stored,
        sample_rate_hz=spec.sample_rate_hz,
        minimum_s=spec.minimum_samples / spec.sample_rate_hz,
        frames=spec.frames,
        engine=encoder_engine(spec, on=keep_loaded(spec)),
        combine=combine,
    )


def _as_it_is(frames: Frames) -> Frames:
    return frames


def encoder_place(stored: StoredSet, *, weights: str | None = None, memo: Path | None = None) -> tuple[str, str | None]:
    """Return where the weights of an encoder's feature set are on this machine, a folder or a hub id, and their revision.

    Args:
        stored: the feature set.
        weights: where to look; None: where they were, or wherever the memo knows such content.
        memo: file that remembers the hashes of weights.

    Raises:
        MissingEncoderError: if they are not there, or others are.
    """
    place, _ = _found(stored, "last", weights, memo)
    return place


def _found(stored: StoredSet, layer: str, weights: str | None, memo: Path | None) -> tuple[tuple[str, str | None], EncoderSpec]:
    """Return the encoder whose weights have the content that a feature set was made with, and the place where it is.

    Raises:
        MissingEncoderError: saying which weights are wanted, where they were, and why what is there will not do.
    """
    wanted, reasons = str(stored.config["weights"]), []
    for place, revision in _places(stored, weights, memo):
        try:
            spec = _spec(stored, layer, place, revision, memo)
        except TfserError as error:
            reasons.append(str(error))
            continue
        if spec.weights == wanted:
            return (place, revision), spec
        reasons.append(f"{place} holds other weights ({spec.weights})")
    was = stored.source.get("weights", "an unknown place")
    raise MissingEncoderError(
        f"{stored.name} wants the encoder whose weights have the content hash {wanted}, which was at {was}: "
        f"{'; '.join(dict.fromkeys(reasons)) or 'nothing is known of it here'}; give its folder or hub id with --weights"
    )


def _places(stored: StoredSet, weights: str | None, memo: Path | None) -> Iterator[tuple[str, str | None]]:
    """Yield where the weights of a feature set may be, each with a revision of the hub: what was named, and nothing
    else."""
    if weights is not None:
        yield weights, None
        return
    yield from ((str(folder), None) for folder in _remembered(str(stored.config["weights"]), memo))
    was = stored.source.get("weights")
    if was:
        commit = stored.source.get("commit")
        yield str(was), None if is_folder(str(was)) else commit


def _remembered(wanted: str, memo: Path | None) -> Iterable[Path]:
    """Return the folders in which this cache has seen weights of a content before."""
    if memo is None:
        return []
    try:
        known = read_json(memo, place=memo.name)
    except (DamagedError, UnreadableError):  # it only saves a question
        return []
    hashed = known.items() if isinstance(known, dict) else ()
    found = [Path(path).parent for path, of in hashed if isinstance(of, dict) and str(of.get("sha256"))[:32] == wanted]
    return [folder for folder in found if (folder / CONFIG).is_file()]


def _spec(stored: StoredSet, layer: str, place: str, revision: str | None, memo: Path | None) -> EncoderSpec:
    """Return the encoder at a place, asked for what a feature set's configuration says."""
    config = stored.config
    settings = {}
    if "chunk_samples" in config["chunking"]:  # an encoder of raw samples; Whisper's window and input are fixed
        rate = config["sample_rate_hz"]
        settings = {
            "chunk_s": repr(config["chunking"]["chunk_samples"] / rate),
            "overlap_s": repr(config["chunking"]["overlap_samples"] / rate),
        }
        if "mel" not in config:  # the input of a filter bank is fixed, too
            settings["do_normalize"] = str(config["input"] != "raw").lower()
    name = FeatureName.parse(stored.name).encoder
    is_named = name in ENCODERS and ENCODERS[name].family == config["family"]
    return encoder_spec(
        name if is_named else place,
        weights=place if is_named else None,
        revision=revision,
        layer=layer,
        precision=config["precision"],
        settings=settings,
        memo=memo,
    )


def check_same(stored: StoredSet, config: Mapping[str, Any]) -> None:
    """Refuse to compute anything but what is asked for.

    Raises:
        TfserError: naming what differs.
    """
    if fingerprint_of(config, stored.dtype) == stored.fingerprint:
        return
    keys: Sequence[str] = sorted({*config, *stored.config})
    differ = [key for key in keys if config.get(key) != stored.config.get(key)]
    words = ", ".join(f"{key} {stored.config.get(key)!r}, here {config.get(key)!r}"[:120] for key in differ[:2])
    raise TfserError(
        f"{stored.name} has the fingerprint {stored.fingerprint}, which cannot be computed here: "
        f"{words or 'its description was changed'}; extract the features again and train on them"
    )
