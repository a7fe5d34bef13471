"""What an encoder will compute, known without loading it: layers, frames, windows, input, and the words for the fingerprint.

In come a name (an entry of `known.ENCODERS`, a hub id, a folder) and the options of the command line; out comes an `EncoderSpec`.
Nothing here imports torch or transformers. Layer k is transformers' `hidden_states[k]` as of version 5.17: 0 is what enters
the first layer, k what leaves the k-th. The final LayerNorm of encoders that normalise before each layer
(`do_stable_layer_norm`) is in none of them; Whisper's is in its last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError, unknown
from tfser.pipeline.features.encoders.architecture import architecture, check, depth, width
from tfser.pipeline.features.encoders.families import FAMILIES
from tfser.pipeline.features.encoders.framing import Framing
from tfser.pipeline.features.encoders.front import OPTIONS
from tfser.pipeline.features.encoders.known import ENCODERS, Known
from tfser.pipeline.features.encoders.weights import Found, config_path, content_hash, find, is_folder, read_config

ALGORITHM = 1
"""Raised whenever the same encoder on the same samples would give other numbers than before."""

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class LayerOutput:
    """One feature set that a pass yields: its label (`12`, `mean`, `all`), the hidden states it is made of, and its width."""

    label: str
    layers: tuple[int, ...]
    dim: int


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder, what is asked of it, and everything that changes its numbers.

    Attributes:
        name: the first part of its feature sets' names.
        family: transformers' `model_type`.
        found: where its files are.
        weights: the hash of its weights' content.
        architecture: the values of its configuration that change the numbers.
        sample_rate_hz: of the samples it wants.
        normalise: whether the whole utterance is brought to zero mean and unit variance first.
        added: to the variance then, so that silence is not divided by zero.
        mel: sizes of its log-Mel or filter-bank front-end; empty for encoders of raw samples.
        words: what its input is, and what a batch does to a piece, as the fingerprint has them.
        framing: counts frames, cuts long files, joins them.
        outputs: what one pass yields, in this order.
        precision: of the computation.
        notes: what people should hear before it runs.
    """

    name: str
    family: str
    found: Found
    weights: str
    architecture: Mapping[str, Any]
    sample_rate_hz: int
    normalise: bool
    added: float = 1e-7
    mel: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, str]
    framing: Framing
    outputs: tuple[LayerOutput, ...]
    precision: Precision = "float32"
    notes: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """D, the width of one hidden state."""
        return width(self.architecture)

    @property
    def n_layers(self) -> int:
        """N: the layers that there are are 0..N."""
        return depth(self.architecture)

    @property
    def highest(self) -> int:
        """The highest layer that has to be run."""
        return max(layer for output in self.outputs for layer in output.layers)

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.framing.hop / self.sample_rate_hz

    @property
    def minimum_samples(self) -> int:
        """The shortest audio that makes a frame."""
        return self.framing.minimum_samples

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights come from: hub id or folder, and the commit. Not part of the fingerprint: the hash is."""
        return {"weights": self.found.source, "commit": self.found.commit}

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of that many samples, long files stitched."""
        return self.framing.frames(n_samples)

    def windows(self, n_samples: int) -> list[tuple[int, int]]:
        """Return the pieces to encode as (start, stop) in samples: one, unless the file is long."""
        return self.framing.windows(n_samples)

    def stitch(self, pieces: Sequence[npt.NDArray[Any]], n_samples: int) -> npt.NDArray[Any]:
        """Return the (frames, dim) frames of a file of that many samples, given those of each of its windows."""
        return self.framing.stitch(pieces, n_samples)

    def computed_s(self, n_samples: int) -> float:
        """Return the seconds that the encoder computes for a piece of that many samples (a whole window for Whisper)."""
        return self.framing.computed(n_samples) / self.sample_rate_hz

    def prepare(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return (n,) samples as the encoder wants them. To be called on the whole utterance, before it is cut."""
        if not self.normalise:
            return samples
        return np.asarray((samples - samples.mean()) / np.sqrt(samples.var() + self.added), dtype=np.float32)

    def config(self, output: LayerOutput) -> dict[str, Any]:
        """Return everything that changes the numbers of one output, as JSON knows it."""
        config: dict[str, Any] = {
            "kind": "encoder",
            "algorithm": ALGORITHM,
            "family": self.family,
            "weights": self.weights,
            "architecture": dict(self.architecture),
            "layer": int(output.label) if output.label.isdigit() else output.label,
            "layer_is": layer_in_words(self.family, output.label, self.n_layers),
            "sample_rate_hz": self.sample_rate_hz,
            **self.words,
            "chunking": self.framing.describe(),
            "precision": self.precision,
        }
        if self.mel:
            config["mel"] = dict(self.mel)
        if output.label == "all":
            config["layers"] = self.n_layers + 1
        return config


def encoder_spec(
    name: str,
    *,
    weights: str | None = None,
    revision: str | None = None,
    layer: str | None = None,
    precision: str = "float32",
    settings: Mapping[str, str] | None = None,
    memo: Path | None = None,
    rehash: bool = False,
) -> EncoderSpec:
    """Return the encoder of a name and its options; it is fetched from the hub if it is not there yet.

    Args:
        name: an entry of `ENCODERS`, a hub id (`org/name`) or a folder.
        weights: a hub id or a folder to take instead.
        revision: branch, tag or commit of a hub id.
        layer: a number, `last`, `mean` (over 1..N), `all` (0..N side by side), or several of these with commas between.
        precision: of the computation.
        settings: `chunk_s`, `overlap_s` (what two neighbours share in all), `do_normalize`; of a Whisper, `window`.
        memo: a file that remembers hashes of weights.
        rehash: read the weights whatever is remembered of them.

    Raises:
        UsageError: if the name, a layer, an option or the precision is off.
        TfserError: if files are missing or damaged.
    """
    named = ENCODERS.get(name)
    _check_words(name, named, weights, precision, settings or {})
    source = weights or (named.hub if named else name)
    if revision is not None and is_folder(source):
        raise UsageError(f"--revision {revision}: {source} is a folder, which has no revisions")
    files = find(source, revision)
    family, values = _architecture(files, source, name, named)
    notes: list[str] = []
    return EncoderSpec(
        name=name if named else Path(name).resolve().name if is_folder(name) else name.rsplit("/", 1)[-1],
        family=family,
        found=files,
        weights=content_hash(files, memo, again=rehash),
        architecture=values,
        outputs=_outputs(name, layer, named, values, notes),
        precision=next(p for p in PRECISIONS if p == precision),
        **FAMILIES[family].front(name, files, values, settings or {}, notes),
        notes=tuple(notes),
    )


def _architecture(files: Found, source: str, name: str, named: Known | None) -> tuple[str, dict[str, Any]]:
    """Return an encoder's family and what its config.json says of its layers.

    Raises:
        UsageError: if it is of no family that extracts here, or not of the one that the name stands for.
        TfserError: if the file is damaged.
    """
    # What is done follows from config.json and not from the name: "base" and "large" are conventions, and
    # folders bear any name.
    config = read_config(files)
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise UsageError(f"{source}: model_type {family!r} is none of the families that extract here: {', '.join(FAMILIES)}")
    if named is not None and family != named.family:
        raise UsageError(f"{source}: holds a {family}, and {name} is a {named.family}; name it by its folder or hub id instead")
    values = architecture(FAMILIES[family].defaults, config)
    check(config_path(files), values, FAMILIES[family].defaults)
    return family, values


def _check_words(name: str, named: Known | None, weights: str | None, precision: str, settings: Mapping[str, str]) -> None:
    """Refuse all that can be wrong with the words before anything is fetched: weights are gigabytes.

    Raises:
        UsageError: if the name, the precision or an option is off, or two encoders are named.
    """
    if named is None and "/" not in name and not is_folder(name):
        raise unknown("encoder", name, list(ENCODERS))
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    for key in settings:
        if key not in OPTIONS:
            raise unknown(f"option of {name}", key, OPTIONS)
    if named is None and weights not in (None, name) and is_folder(name):
        raise UsageError(f"--features {name} --weights {weights}: these name two encoders; give the second as --features alone")


def _outputs(
    name: str, layer: str | None, named: Known | None, values: Mapping[str, Any], notes: list[str]
) -> tuple[LayerOutput, ...]:
    D, N = width(values), depth(values)
    if layer is None:
        wanted = named.layer if named is not None and named.layer is not None else N
        if wanted > N:
            notes.append(f"these weights have {N} layers: layer {N} is taken, not {wanted}")
        layer = str(min(wanted, N))
    outputs: dict[str, LayerOutput] = {}
    for part in (part.strip() for part in layer.split(",")):
        if part == "mean" and N > 0:
            outputs["mean"] = LayerOutput(label="mean", layers=tuple(range(1, N + 1)), dim=D)
        elif part == "all":
            outputs["all"] = LayerOutput(label="all", layers=tuple(range(N + 1)), dim=(N + 1) * D)
        else:
            number = N if part == "last" else int(part) if part.isascii() and part.isdigit() else -1
            if not 0 <= number <= N:
                raise UsageError(f"--layer {part or repr(layer)}: {name} has the layers 0 to {N}, `last`, `mean` and `all`")
            outputs[str(number)] = LayerOutput(label=str(number), layers=(number,), dim=D)
    return tuple(outputs.values())


def layer_in_words(family: str, label: str, n_layers: int) -> str:
    """Return what the layer of a label (`12`, `mean`, `all`) is, as fingerprints have it."""
    end = {
        "emotion2vec": "; blocks of the context encoder count first, and the learned tokens in front are left out",
        "whisper": f"; layer {n_layers} has the encoder's final LayerNorm applied, the others have not",
    }.get(family, "; the encoder's final LayerNorm, where it follows the layers, is not applied")
    if label == "mean":
        return f"mean over the outputs of layers 1 to {n_layers}{end}"
    if label == "all":
        return f"layers 0 (the first layer's input) to {n_layers} side by side, layer k in columns k*D to (k+1)*D{end}"
    if label == "0":
        return f"input of the first transformer layer{end}"
    return f"output of transformer layer {label}{end}"
