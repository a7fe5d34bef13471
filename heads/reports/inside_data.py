"""What trained heads do to one utterance: tokens and spectra inside of TF-Mamba, the attention of TF-Transformer.

In goes a finished run and an utterance of its test side; out come the numbers of two of the papers' figures. The run's weights
are loaded and one forward pass is watched; nothing is trained and nothing is stored.

* TF-Mamba (Zhao et al., arXiv:2412.16904), Fig. 4: "feature token intensity comparison before and after the Temporal-Aware
  Module" and "spectrum comparison before and after the Frequency Filter Module". The first module is the convolution with SiLU
  (Eq. 2), the second Eq. 3-4. The intensity of a token is the root mean square of its channels; a spectrum is the power of each
  channel along the utterance, by its mean above 0 Hz (the unit of the threshold), averaged over the channels.
* TF-Transformer (Wang et al., ICONIP 2023), Fig. 3: log-Mel spectrogram with the attention of the three modules. The paper does
  not say how it is drawn; here the weight of a frame (time) or a band (frequency) is what it is attended to on average, over
  heads and queries, and the time-frequency map is the size of what the co-attention gathers at each place, over its heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.heads import head as head_of
from tfser.heads.reports.figure_data import text_of
from tfser.heads.reports.stored_frames import read_frames, with_fingerprint
from tfser.heads.results.outcomes import find
from tfser.heads.runs.store import finished, read_model
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.normalise import Normaliser
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError, UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A trained head and one utterance, ready to be looked into.

    `frames` (1, L, D) are normalised as the run did, `raw` (L, D) as they are stored, `lengths` (1,).
    """

    about: Mapping[str, Any]
    model: nn.Module
    frames: Tensor
    lengths: Tensor
    raw: npt.NDArray[np.float32]
    hop_s: float
    utterance: Mapping[str, Any]


def watch(
    cache: Cache, connection: Connection, experiment: str, *, head: str, utterance: str | None = None, fold: int | None = None
) -> Watched:
    """Load a run of an experiment with the features of one utterance that it tested.

    Args:
        cache: the cache.
        connection: its catalogue.
        experiment: the experiment, or a run of it.
        head: which head it must be.
        utterance: its id; None: of the right answers the surest.
        fold: of the run; None: the fold that tests the utterance.

    Raises:
        UsageError: It is another head, or it tested no such utterance.
        TfserError: The run's features or weights are no longer there.
    """
    subject = find(connection, experiment)
    row = _tested(connection, subject.experiment, subject.run_id, utterance, fold)
    run_json = finished(cache, row["run_id"])
    if run_json is None:
        raise TfserError(f"{row['run_id']}: its folder is no longer there; `tfser train` makes the run anew")
    if run_json["head"] != head:
        raise UsageError(f"{subject.name} is a {run_json['head']}: this figure looks inside of {head}")
    packed, hop_s = _features(cache, connection, run_json, row)
    model, frames, lengths = _loaded(cache, run_json, packed, row["speaker"])
    return Watched(
        about=run_json, model=model, frames=frames, lengths=lengths, raw=np.asarray(packed.frames, dtype=np.float32), hop_s=hop_s,
        utterance=row,
    )  # fmt: skip


def _tested(
    connection: Connection, experiment: str, run_id: str | None, utterance: str | None, fold: int | None
) -> dict[str, Any]:
    """Return the prediction of the utterance that is to be shown: of the last epoch, of the first seed that has it."""
    utterances = rows(
        connection,
        "SELECT t.run_id, t.corpus, t.utterance_id, t.speaker, t.fold, t.seed, t.label, t.predicted, "
        "list_max(map_values(p.probabilities)) AS sure FROM test_predictions t JOIN predictions p "
        "USING (run_id, corpus, utterance_id, selection, level) WHERE t.experiment = ? AND t.selection = 'last' "
        "AND t.level = 'utterance' AND (?::VARCHAR IS NULL OR t.run_id = ?) AND (?::VARCHAR IS NULL OR t.utterance_id = ?) "
        "AND (?::INTEGER IS NULL OR t.fold = ?) ORDER BY t.hit DESC, sure DESC, t.seed, t.corpus, t.utterance_id, t.fold LIMIT 1",
        [experiment, run_id, run_id, utterance, utterance, fold, fold],
    )
    if utterances:
        return utterances[0]
    known = rows(
        connection,
        f"SELECT DISTINCT utterance_id FROM test_predictions WHERE experiment = {text_of(experiment)} ORDER BY 1",
    )
    if utterance is not None:
        raise unknown("utterance that this experiment tested", utterance, [row["utterance_id"] for row in known],
                      listed_by="tfser sql 'SELECT DISTINCT utterance_id FROM test_predictions'")  # fmt: skip
    raise UsageError(f"{experiment} tested nothing{f' in fold {fold}' if fold else ''}")


def _features(cache: Cache, connection: Connection, run: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[Any, float]:
    """Return the packed frames of one utterance, and the seconds from one to the next."""
    features = with_fingerprint(connection, run["fingerprint"])
    stored = [] if features is None else rows(
        connection,
        "FROM features WHERE feature_set = ? AND corpus = ? AND utterance_id = ?",
        [features.stored, row["corpus"], row["utterance_id"]],
    )  # fmt: skip
    if features is None or not stored:
        raise TfserError(
            f"{run['run_id']}: its features {run['feature_set']} of {row['utterance_id']} are no longer in the cache; "
            "`tfser extract` makes them"
        )
    return read_frames(cache, features, stored), float(features.row["hop_s"])


def _loaded(cache: Cache, run_json: Mapping[str, Any], packed: Any, speaker: str | None) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a run's trained module in evaluation mode, and the utterance as it was given to it."""
    import torch

    from tfser.heads.models.layer_mix import build_module
    from tfser.heads.training import checkpoints

    config = run_json["config"]
    spec = head_of(run_json["head"])
    settings = type(spec.preset(run_json["preset"])).from_dict(config["head_config"])
    recipe = Recipe.from_dict(config["recipe_config"])
    if run_json.get("layer_weights"):
        raise UsageError(f"{run_json['run_id']}: it mixes layers; look inside of a run on one layer")
    state = read_model(cache, run_json, "model.safetensors")
    # Weights are drawn before they are replaced, which must not move the draws of whoever goes on after this.
    with torch.random.fork_rng(devices=[]):
        outputs = len(run_json["classes"]) + len(run_json.get("targets") or ())
        model = build_module(spec, settings, packed.frames.shape[1], outputs)
    try:
        model.load_state_dict(checkpoints.part(state, "model"))
    except RuntimeError as error:
        raise TfserError(f"{run_json['run_id']}: its weights are not those of this version's {run_json['head']}") from error
    # Normalised as the run did: a head that is shown other numbers attends elsewhere.
    normaliser = Normaliser(
        mode=recipe.normalise, mean=state["normaliser.mean"].numpy(), deviation=state["normaliser.deviation"].numpy()
    )
    speakers = None if recipe.normalise != "speaker" else (speaker or "",)
    shift, scale = normaliser.tables(packed.frames, packed.offsets, speakers)
    frames = torch.from_numpy((np.asarray(packed.frames, dtype=np.float32) - shift[0]) * scale[0])[None]
    most = spec.seen_frames(settings, recipe)
    frames = frames if most is None else frames[:, :most]
    return model.eval(), frames, torch.tensor([frames.shape[1]])


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """Figure 4 of TF-Mamba for one utterance; a part is None where the preset has no such branch.

    `before`, `after` (L,) are token intensities, `seconds` (L,) their times. `hertz` (F,) are the spectrum's frequencies, along
    the sequence of frames, `unfiltered`, `filtered` (F,) mean powers, `threshold` the learned ones (median and quartiles over the
    channels) in the same unit, `kept` (F,) the share of channels that keep a bin.
    """

    utterance: Mapping[str, Any]
    seconds: Values
    before: Values | None
    after: Values | None
    hertz: Values | None
    unfiltered: Values | None
    filtered: Values | None
    kept: Values | None
    threshold: tuple[float, float, float] | None
    kind: str


def tokens(watched: Watched) -> TokenView:
    """Watch one forward pass of a TF-Mamba.

    Raises:
        UsageError: The preset has neither branch.
    """
    import torch
    from torch.nn import functional

    block: Any = watched.model.block
    branches = list(block.branches) if block is not None else []
    temporal = next((b for b in branches if b.conv is not None), None)
    frequency = next((b for b in branches if b.filter is not None), None)
    if temporal is None and frequency is None:
        raise UsageError(f"{watched.about['run_id']}: its preset {watched.about['preset']} has no branch to look into")
    # Hooks watch the pass that the head makes; nothing is computed in another way for the figure, and they are
    # gone whatever happens.
    seen: dict[str, Any] = {}
    hooks = []
    if temporal is not None:
        hooks.append(temporal.in_proj.register_forward_hook(lambda m, i, o: seen.update(projected=o)))
    if frequency is not None:
        hooks.append(frequency.filter.register_forward_hook(lambda m, i, o: seen.update(into=i[0])))
    try:
        with torch.inference_mode():
            watched.model(watched.frames, watched.lengths)
    finally:
        for hook in hooks:
            hook.remove()
    L = watched.frames.shape[1]
    before = after = None
    if temporal is not None:
        with torch.inference_mode():
            xBC = seen["projected"].split(temporal.sizes, dim=-1)[1]  # (1, L, C)
            convolved = functional.silu(temporal._convolve(xBC, temporal.conv))
        before, after = (_rms(of) for of in (xBC, convolved))
    spectral: dict[str, Any] = dict.fromkeys(("hertz", "unfiltered", "filtered", "kept", "threshold"))
    if frequency is not None:
        spectral = _spectra(frequency.filter, seen["into"], watched.hop_s)
    return TokenView(
        utterance=watched.utterance,
        seconds=np.arange(L, dtype=np.float64) * watched.hop_s,
        before=before,
        after=after,
        kind=frequency.filter.kind if frequency is not None else "",
        **spectral,
    )


def _rms(tokens_of: Tensor) -> Values:
    """Return the root mean square over the channels of each token: (1, L, C) -> (L,)."""
    found: Values = tokens_of[0].double().square().mean(dim=-1).sqrt().numpy()
    return found


def _spectra(layer: Any, into: Tensor, hop_s: float) -> dict[str, Any]:
    """Return spectra before and after a filter, in units of each channel's mean power above 0 Hz before it."""
    import torch

    with torch.inference_mode():
        spectrum = torch.fft.rfft(into.float(), n=layer.size, dim=1)  # (1, F, C)
        mask = layer.mask(spectrum).expand_as(spectrum.real)[0].double()  # (F, C)
        power = spectrum.abs().square()[0].double()  # (F, C)
        unit = power[1:].mean(dim=0).clamp_min(1e-30)
        relative = power / unit
    hertz = np.fft.rfftfreq(layer.size, d=hop_s)
    learned = layer.threshold.detach().double()
    values = learned.exp() if layer.kind == "power" else learned * float(hertz[-1])
    quartiles = tuple(float(q) for q in torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)))
    return {
        "hertz": hertz,
        "unfiltered": relative.mean(dim=1).numpy(),
        "filtered": (relative * mask).mean(dim=1).numpy(),
        "kept": mask.mean(dim=1).numpy(),
        "threshold": quartiles,
    }


@dataclass(frozen=True, kw_only=True)
class AttentionView:
    """Figure 3 of TF-Transformer for one utterance of S segments, d frames each; a part is None where the preset lacks it.

    `logmel` (f, n) are the stored frames, `time` (n,) and `frequency` (f, n) weights, `joint` (f, n) the co-attention's map; all
    but the frames are scaled to at most 1 within their segment. `borders` are the seconds where segments begin.
    """

    utterance: Mapping[str, Any]
    hop_s: float
    logmel: Values
    time: Values | None
    frequency: Values | None
    joint: Values | None
    borders: tuple[float, ...]


def attention(watched: Watched) -> AttentionView:
    """Watch the segments of an utterance, one after the other without overlap, go through a TF-Transformer."""
    import torch

    model: Any = watched.model
    d, f = model.d, model.f
    n = watched.frames.shape[1]
    starts = list(range(0, n, d))
    # The last segment is filled up from the utterance's beginning, as in training; what is added is not shown.
    index = np.array([[(start + i) % n for i in range(d)] for start in starts])
    samples = watched.frames[0][torch.from_numpy(index)]  # (S, d, f)
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    layers = {name: getattr(model, f"{name}_layer", None) for name in ("time", "frequency", "joint")}
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: seen.__setitem__(name, args[:3]))
        for name, layer in layers.items()
        if layer is not None
    ]
    try:
        with torch.inference_mode():
            model(samples, torch.full((len(starts),), d))
    finally:
        for hook in hooks:
            hook.remove()
    maps: dict[str, Values | None] = {"time": None, "frequency": None, "joint": None}
    for name, inputs in seen.items():
        with torch.inference_mode():
            weights, values = _attended(layers[name], *inputs)  # (S, heads, tokens, tokens), (S, tokens, width)
        if name == "joint":  # (S, f/4, d/4): a place is a band by a moment
            sized = values.abs().double().numpy()
            parts = [np.kron(_to_one(of), np.ones((4, 4))) for of in sized]
        else:
            received = weights.mean(dim=(1, 2)).double().numpy()  # (S, tokens)
            parts = [np.tile(_to_one(of)[None, :], (f, 1)) if name == "time" else np.tile(_to_one(of)[:, None], (1, d))
                     for of in received]  # fmt: skip
        joined = np.concatenate(parts, axis=1)[:, :n]
        maps[name] = joined[0] if name == "time" else joined
    return AttentionView(
        utterance=watched.utterance,
        hop_s=watched.hop_s,
        logmel=watched.raw[:n].T.astype(np.float64),
        borders=tuple(start * watched.hop_s for start in starts[1:]),
        **maps,
    )


def _attended(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention's weights (b, heads, tokens, tokens) and what it gathers (b, tokens, width), before the last map."""

    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], layer.heads, -1).transpose(1, 2)

    of_q, of_k, of_v = split(layer.query(q)), split(layer.key(k)), split(layer.value(v))
    weights = ((of_q @ of_k.transpose(-2, -1)) * of_q.shape[-1] ** -0.5).softmax(dim=-1)
    return weights, (weights @ of_v).transpose(1, 2).flatten(2)


def _to_one(values: Values) -> Values:
    """Scale weights from their smallest at 0 to their largest at 1."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def described(about: Mapping[str, Any]) -> str:
    """Return which utterance is shown, in words."""
    return f"{about['utterance_id']}: {about['label']}, taken for {about['predicted']}"
