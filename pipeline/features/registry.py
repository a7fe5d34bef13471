"""Front-ends and encoders: what turns samples into frames, by name, with the fingerprint of everything that changes the numbers.

`UPSTREAMS` is the registry. Each entry turns a `FeatureRequest` into a `Pass`: the feature sets that it makes, each with its
name, its fingerprint and its shape, and the engine that computes them, which loads nothing heavy before it is called. A front-end
is one file with a configuration and an extractor, and one line of `front_end` here.
Encoders that are not in the registry are named by their hub id or folder.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np

from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.feature_name import FeatureName
from tfser.manifests.options import Option
from tfser.manifests.plugins import UPSTREAMS as PLUGGED
from tfser.manifests.plugins import add_loaded
from tfser.pipeline.features.encoder_engine import encoder_engine, keep_loaded
from tfser.pipeline.features.encoders.families import FAMILIES
from tfser.pipeline.features.encoders.front import OPTIONS
from tfser.pipeline.features.encoders.known import ENCODERS, Known
from tfser.pipeline.features.encoders.spec import PRECISIONS, EncoderSpec, LayerOutput, encoder_spec
from tfser.pipeline.features.engine import Engine, one_by_one
from tfser.pipeline.features.feature_set import Described
from tfser.pipeline.features.functionals import LICENCE, ComParEConfig, EGeMAPSConfig, Functionals
from tfser.pipeline.features.logmel import LogMel, LogMelConfig
from tfser.pipeline.features.mfcc import MFCC, MFCCConfig
from tfser.pipeline.shards.writer import StorageDtype, storage_dtype

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")  # in the name of a folder: @ and + mean something in names of feature sets


@dataclass(frozen=True, kw_only=True)
class FeatureSet(Described):
    """One feature set: its description, what it takes of audio, and the engine that makes it alone.

    `minimum_s` is the shortest audio, in seconds, that makes a frame worth having. `frames` maps a number of samples at
    `sample_rate_hz` to the number of frames.
    """

    sample_rate_hz: int
    minimum_s: float
    frames: Callable[[int], int]
    engine: Engine

    def bytes_for(self, duration_s: float) -> int:
        """Return the size in bytes of the features of that many seconds."""
        return self.frames(round(duration_s * self.sample_rate_hz)) * self.dim * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Feature sets that are computed together, all from samples at the same rate, and what computes them.

    `notes` are sentences that people should read before it starts.
    """

    sets: tuple[FeatureSet, ...]
    engine: Engine
    is_encoder: bool = False
    notes: tuple[str, ...] = ()
    keeping: Callable[[], Engine] | None = None
    """Makes an engine of the same numbers that stays loaded between its calls; None: `engine` has nothing to load."""

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second that the engine wants."""
        return self.sets[0].sample_rate_hz


def alone(features: FeatureSet) -> Pass:
    """Return the pass that makes one feature set."""
    return Pass(sets=(features,), engine=features.engine)


@dataclass(frozen=True, kw_only=True)
class FeatureRequest:
    """What was asked of an upstream; None is its default.

    `memo` is a file that remembers the hashes of weights; with `rehash` they are read whatever it says.
    """

    panel: ClassVar[str] = "Features"
    layer: Annotated[
        str | None, Option("Of an encoder: 12, last, mean, all, or 6,12,24 (one pass, a set each).", metavar="K")
    ] = None
    weights: Annotated[str | None, Option("Encoder weights: hub id or folder, instead of its own.", metavar="ID|DIR")] = None
    revision: Annotated[str | None, Option("Branch, tag or commit of the weights on the hub.", metavar="REV")] = None
    settings: Annotated[
        Mapping[str, str], Option("A setting of the front-end or encoder.", flag="--set", metavar="KEY=VALUE")
    ] = field(default_factory=dict)
    dtype: Annotated[str, Option("Storage: float32 or float16.")] = "float32"
    precision: Annotated[str, Option("What an encoder computes in: float32, bfloat16 or float16.")] = "float32"
    memo: Path | None = None
    rehash: bool = False


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """An entry of the registry: one line about it, the settings that it takes, and what makes a pass of a request."""

    summary: str
    options: tuple[str, ...]
    configure: Callable[[str, FeatureRequest, StorageDtype], Pass]
    is_encoder: bool = False
    hub: str | None = None
    """Where an encoder's weights are, unless others are named."""
    licence: str | None = None
    """Of an encoder's weights."""


class FrontEndConfig(Protocol):
    """What a front-end's configuration has: a frozen dataclass, whose fields are what `--set` takes."""

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second that it wants."""
        ...

    @property
    def window_s(self) -> float:
        """The shortest audio that makes a frame worth having, in seconds."""
        ...

    @property
    def hop_s(self) -> float:
        """From one frame to the next, in seconds."""
        ...

    @property
    def dim(self) -> int:
        """Numbers in a frame."""
        ...

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of so many samples."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return everything that changes the numbers."""
        ...


def front_end(config: type[Any], extractor: Callable[[Any], Any], summary: str) -> Upstream:
    """Return the registry's entry of a front-end that lives in a file of its own.

    Args:
        config: the class of its configuration, a dataclass as `FrontEndConfig` has it, whose defaults are the front-end's.
        extractor: makes of a configuration what has ``extract(samples) -> (frames, dim)``.
        summary: one line for people.
    """

    def configure(name: str, request: FeatureRequest, dtype: StorageDtype) -> Pass:
        defaults = config()
        values: dict[str, Any] = {key: _number(key, text, getattr(defaults, key)) for key, text in request.settings.items()}
        settled: FrontEndConfig = dataclasses.replace(defaults, **values)
        features = FeatureSet(
            name=_full_name(name, {k: v for k, v in values.items() if v != getattr(defaults, k)}, dtype),
            kind=name,
            config=settled.describe(),
            dim=settled.dim,
            dtype=dtype,
            hop_s=settled.hop_s,
            sample_rate_hz=settled.sample_rate_hz,
            minimum_s=settled.window_s,
            frames=settled.frames,
            engine=one_by_one(lambda: extractor(settled).extract),
        )
        return alone(features)

    return Upstream(summary=summary, options=tuple(f.name for f in dataclasses.fields(config)), configure=configure)


def _encoder(name: str, request: FeatureRequest, dtype: StorageDtype) -> Pass:
    def spec_of(settings: Mapping[str, str], rehash: bool = False) -> EncoderSpec:
        return encoder_spec(
            name,
            weights=request.weights,
            revision=request.revision,
            layer=request.layer,
            precision=request.precision,
            settings=settings,
            memo=request.memo,
            rehash=rehash,
        )

    spec = spec_of(request.settings, request.rehash)
    # A setting counts as changed only if leaving it out makes another configuration, for each key by itself: so
    # `--set chunk_s=40` and nothing are one feature set.
    changed: dict[str, float | str] = {}
    for key, text in request.settings.items():  # a default that is written out changes neither numbers nor name
        try:
            without = spec_of({k: v for k, v in request.settings.items() if k != key})
            is_default = without.config(spec.outputs[0]) == spec.config(spec.outputs[0])
        except UsageError:  # the others make no sense without it
            is_default = False
        if not is_default:
            changed[key] = _plain(text)
    if spec.precision != "float32":
        changed["precision"] = spec.precision
    sets = tuple(_encoder_set(spec, output, changed, dtype) for output in spec.outputs)
    return Pass(
        sets=sets,
        engine=encoder_engine(spec),
        is_encoder=True,
        notes=spec.notes,
        keeping=lambda: encoder_engine(spec, on=keep_loaded(spec)),
    )


def _plain(text: str) -> float | str:
    """Return a number for its text, so that 20 and 20.0 give one name; other words in lower case."""
    try:
        return float(text) + 0.0
    except ValueError:
        return text.strip().lower()


def _encoder_set(spec: EncoderSpec, output: LayerOutput, changed: Mapping[str, float | str], dtype: StorageDtype) -> FeatureSet:
    return FeatureSet(
        name=_full_name(f"{_UNSAFE.sub('-', spec.name)}/{output.label}", changed, dtype),
        kind=spec.family,
        config=spec.config(output),
        dim=output.dim,
        dtype=dtype,
        hop_s=spec.hop_s,
        sample_rate_hz=spec.sample_rate_hz,
        minimum_s=spec.minimum_samples / spec.sample_rate_hz,
        frames=spec.frames,
        engine=encoder_engine(dataclasses.replace(spec, outputs=(output,))),
        origin=spec.source,
    )


def _encoder_upstream(name: str, named: Known | None) -> Upstream:
    if named is None:
        return Upstream(summary=name, options=OPTIONS, configure=_encoder, is_encoder=True)
    return Upstream(
        summary=named.summary,
        options=FAMILIES[named.family].options,
        configure=_encoder,
        is_encoder=True,
        hub=named.hub,
        licence=named.licence,
    )


UPSTREAMS: dict[str, Upstream] = {
    "logmel": front_end(
        LogMelConfig,
        LogMel,
        "log-Mel spectrogram: 80 bands, 20 ms Hamming window, 10 ms hop, 16 kHz (TF-Transformer, section 3.3)",
    ),
    "mfcc": front_end(MFCCConfig, MFCC, "40 mel-frequency cepstral coefficients: the orthonormal DCT-II of the log-Mel frames"),
    "egemaps": front_end(
        EGeMAPSConfig, Functionals, f"eGeMAPS functionals: one vector of 88 an utterance (Eyben et al. 2016). {LICENCE}"
    ),
    "compare2016": front_end(
        ComParEConfig, Functionals, f"ComParE functionals: one vector of 6,373 an utterance (Schuller et al. 2016). {LICENCE}"
    ),
    **{name: _encoder_upstream(name, known) for name, known in ENCODERS.items()},
}
"""What `--features` knows, by name."""

add_loaded(PLUGGED, Upstream, UPSTREAMS)


def feature_pass(name: str, request: FeatureRequest | None = None) -> Pass:
    """Return what makes the features of a name: one of `UPSTREAMS`, or the hub id or folder of another encoder.

    Raises:
        UsageError: if the name, an option or the dtype is unknown, or a value is off.
        TfserError: if an encoder's files cannot be found.
    """
    request = request or FeatureRequest()
    dtype = storage_dtype(request.dtype)
    if request.precision not in PRECISIONS:
        raise unknown("precision", request.precision, PRECISIONS)
    for option, text in (("--features", name), ("--weights", request.weights), ("--revision", request.revision)):
        if text is not None and not text.strip():  # a variable of a script that was never set
            raise UsageError(f"{option} is empty; name something, or leave it out")
    # As the feature set is called: wavlm-large/12. What else stands in such a name is said by options here, since it could
    # contradict them.
    parts = FeatureName.parse(name)
    if parts.layer is not None and parts.encoder in ENCODERS:
        if str(parts) != f"{parts.encoder}/{parts.layer}":
            plain = f"{parts.encoder}/{parts.layer}"
            raise UsageError(f"--features {name}: take {plain}, with --set KEY=VALUE, --dtype and --precision")
        if request.layer not in (None, parts.layer):
            raise UsageError(f"--features {name} --layer {request.layer}: these name two layers; say it once")
        name, request = parts.encoder, dataclasses.replace(request, layer=parts.layer)
    if name in UPSTREAMS:
        upstream = UPSTREAMS[name]
    elif "/" in name or Path(name).is_dir():
        upstream = _encoder_upstream(name, None)
    else:
        raise unknown("feature set", name, [*UPSTREAMS, "the hub id (organisation/name) or folder of an encoder"])
    for key in request.settings:
        if key not in upstream.options and not upstream.is_encoder:  # an encoder says itself what it takes
            raise unknown(f"option of {name}", key, upstream.options)
    if not upstream.is_encoder:
        for option, is_default in (
            ("--layer", request.layer is None),
            ("--weights", request.weights is None),
            ("--revision", request.revision is None),
            ("--precision", request.precision == "float32"),
        ):
            if not is_default:
                raise UsageError(f"{option} is for encoders; {name} has nothing of the kind")
    return upstream.configure(name, request, dtype)


def feature_set(name: str, options: Mapping[str, str] | None = None, dtype: str = "float32") -> FeatureSet:
    """Return the feature set of a front-end's name and settings.

    Raises:
        UsageError: if the name, an option or the dtype is unknown, or a value is off.
    """
    return feature_pass(name, FeatureRequest(settings=options or {}, dtype=dtype)).sets[0]


def _number(key: str, text: str, like: float) -> float:
    try:
        return int(text) if isinstance(like, int) else float(text) + 0.0  # minus zero is zero, for the fingerprint too
    except ValueError:
        kind = "a whole number" if isinstance(like, int) else "a number"
        raise UsageError(f"--set {key}={text}: {key} is {kind}") from None


def _full_name(name: str, changed: Mapping[str, float | str], dtype: str) -> str:
    """Return a name that says what differs from the defaults, to the last digit: one name, one configuration."""
    words = {key: value if isinstance(value, str) else repr(value).removesuffix(".0") for key, value in changed.items()}
    parts = [f"{key}={word}" for key, word in sorted(words.items())]
    if dtype != "float32":
        parts.append(dtype)
    return "+".join([name, *parts])
