"""How fast an encoder is extracted: ours, end to end to disk, against the bare model and against the loop that people write.

A full-size WavLM-Large of random weights (its published configuration) on real speech of mixed length: the files of a folder,
joined to clips of 1 to 15 s at the folder's own rate. The variants take turns over parts of the clips, so that a busy neighbour
hurts all alike:

* ideal: the bare model cut after layer 12, on decoded, resampled and normalised clips, sorted by length, in batches (one by one
  on a CPU)
* naive: decode, resample, transformers' feature extractor, all 24 layers, hidden state 12, np.save, file after file
* ours: `tfser extract`, from the files to shards on disk, start-up (loading the weights) apart

each in float32 and bfloat16 (weights on a CPU, autocast on a GPU). Then one training epoch of TF-Mamba on the clips: from the
cache, and with the encoder run frozen in the loop, cut after layer 12 and whole.

    python benchmarks/extract.py --audio ~/corpora/emodb/wav --audio ~/corpora/emodb-original/wav
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.resources.memory import keep_freed_memory

LAYER = 12
RATE = 16000


@dataclass
class Clip:
    """A file of speech, and what is in it at 16 kHz."""

    path: Path
    samples: Any

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / RATE


@dataclass
class Tally:
    """What a variant has done so far."""

    audio_s: float = 0.0
    seconds: float = 0.0
    computed_s: float = 0.0
    inside_s: float = 0.0
    start_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Times real time."""
        return self.audio_s / self.seconds


def main() -> None:
    """Print the rates and their ratios."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--audio", action="append", type=Path, required=True, help="folder of speech files; repeat")
    options.add_argument("--clips", type=int, default=76)
    options.add_argument("--parts", type=int, default=4, help="the variants take turns over so many parts of the clips")
    options.add_argument("--device", default=None, help="cpu or cuda; a GPU if there is one")
    options.add_argument("--threads", type=int)
    options.add_argument("--layers", type=int, default=24, help="of the encoder, for a trial in a small size")
    options.add_argument("--width", type=int, default=1024, help="of the encoder, likewise")
    options.add_argument("--batch-seconds", type=float, help="of batches on a GPU; its own default if left out")
    options.add_argument("--epoch-clips", type=int, default=16, help="clips of the training epoch")
    options.add_argument("--epoch-batch", type=int, default=4)
    options.add_argument("--epoch-rounds", type=int, default=2, help="the three ways take turns; the fastest of each counts")
    options.add_argument("--no-float32", action="store_true", help="only bfloat16")
    options.add_argument("--format", choices=("table", "json"), default="table")
    chosen = options.parse_args()
    import torch

    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        keep_freed_memory()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory(prefix="tfser-benchmark-") as folder:
        result = measure(Path(folder), chosen, device)
    if chosen.format == "json":
        print(json.dumps(result, indent=2))
    else:
        show(result)


def measure(folder: Path, chosen: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return rates, ratios and the epoch's times."""
    clips = make_clips(chosen.audio, folder / "clips", chosen.clips)
    weights = make_weights(folder / "weights", chosen.layers, chosen.width)
    parts = [clips[i :: chosen.parts] for i in range(chosen.parts)]
    tallies: dict[str, Tally] = {}
    variants: dict[str, Callable[[int, Sequence[Clip]], None]] = {}
    precisions = ("bfloat16",) if chosen.no_float32 else ("float32", "bfloat16")
    for precision in precisions:
        for name, make in (("ideal", ideal), ("naive", naive), ("ours", ours)):
            tally = tallies[f"{name} {precision}"] = Tally()
            variants[f"{name} {precision}"] = make(folder, weights, precision, device, chosen, tally)
    for run in variants.values():  # nothing is cold when the clock starts
        run(-1, sorted(clips, key=lambda clip: clip.seconds)[:2])
    for tally in tallies.values():
        tally.audio_s = tally.seconds = tally.computed_s = tally.inside_s = 0.0
    for i, part in enumerate(parts):
        order = list(variants.items())
        for name, run in order[i % len(order) :] + order[: i % len(order)]:
            run(i, part)
            print(f"part {i + 1} of {len(parts)}: {name} {tallies[name].rate:.2f} x real time so far", flush=True)
    rates = {name: tally.rate for name, tally in tallies.items()}
    ratios = {}
    for precision in precisions:
        ratios[f"ours / ideal, {precision}"] = rates[f"ours {precision}"] / rates[f"ideal {precision}"]
        ratios[f"ours / naive, {precision}"] = rates[f"ours {precision}"] / rates[f"naive {precision}"]
    if len(precisions) == 2:
        ratios["ours bfloat16 / naive float32"] = rates["ours bfloat16"] / rates["naive float32"]
    own = {name: tally for name, tally in tallies.items() if name.startswith("ours")}
    return {
        "machine": machine(device),
        "clips": len(clips),
        "minutes": round(sum(clip.seconds for clip in clips) / 60, 2),
        "shortest_s": round(min(clip.seconds for clip in clips), 2),
        "longest_s": round(max(clip.seconds for clip in clips), 2),
        "times_real_time": {name: round(rate, 3) for name, rate in rates.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "padding_waste": {name: round(abs(tally.computed_s / tally.audio_s - 1), 4) for name, tally in own.items()},
        "share_outside_encoder": {name: round(1 - tally.inside_s / tally.seconds, 4) for name, tally in own.items()},
        "start_s": {name: round(tally.start_s, 2) for name, tally in own.items()},
        "epoch": epoch(clips, weights, device, chosen),
    }


def make_clips(sources: Sequence[Path], folder: Path, count: int) -> list[Clip]:
    """Join real files to clips of 1 to 15 s, spread evenly over that range, at the rate of their source."""
    import soundfile
    import soxr

    folder.mkdir()
    files = sorted(path for source in sources for path in source.rglob("*") if path.suffix.lower() in (".wav", ".flac"))
    if not files:
        raise SystemExit(f"no wav or flac files in {', '.join(map(str, sources))}")
    rng = np.random.default_rng(0)
    whole = [files[i] for i in rng.permutation(len(files))]
    clips, at = [], 0
    for i in range(count):
        wanted = 1.0 + 14.0 * ((i * 37) % count) / max(1, count - 1)
        joined: list[Any] = []
        rate = 0
        while not rate or sum(map(len, joined)) < wanted * rate:
            samples, of = soundfile.read(whole[at % len(whole)], dtype="float32", always_2d=True)
            at += 1
            if not rate or of == rate:
                rate = of
                joined.append(samples.mean(axis=1))
        samples = np.concatenate(joined)[: round(wanted * rate)]
        path = folder / f"clip{i:03d}.flac"
        soundfile.write(path, samples, rate)
        samples, _ = soundfile.read(path, dtype="float32")
        clips.append(Clip(path, samples if rate == RATE else soxr.resample(samples, rate, RATE).astype(np.float32)))
    return clips


def make_weights(folder: Path, layers: int, width: int) -> Path:
    """Save a WavLM-Large of random weights: its published configuration, unless made smaller."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        conv_bias=False,
        num_buckets=320,
        max_bucket_distance=800,
    )
    torch.manual_seed(0)
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


def bare(weights: Path, precision: str, device: str, layers: int | None) -> tuple[Any, Any]:
    """Return transformers' model, cut after some layers, and a context to run it in."""
    import contextlib

    import torch
    from transformers import WavLMModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = WavLMModel.from_pretrained(weights).eval().to(device)
    if layers is not None:
        model.encoder.layers = model.encoder.layers[:layers]
        model.encoder.layer_norm = torch.nn.Identity()
    if precision == "float32":
        return model, contextlib.nullcontext
    if device == "cpu":
        return model.to(torch.bfloat16), contextlib.nullcontext
    return model, lambda: torch.autocast("cuda", torch.bfloat16)


def wait(device: str) -> None:
    """Let a GPU finish what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def ideal(
    folder: Path, weights: Path, precision: str, device: str, chosen: argparse.Namespace, tally: Tally
) -> Callable[[int, Sequence[Clip]], None]:
    """Return what runs the bare model on ready-made batches; only the model is timed."""
    import torch

    model, context = bare(weights, precision, device, LAYER if chosen.layers > LAYER else None)
    budget = chosen.batch_seconds or (0.0 if device == "cpu" else 160.0)

    def run(number: int, part: Sequence[Clip]) -> None:
        for batch in batches(sorted(part, key=lambda clip: -clip.seconds), budget):
            values, mask = padded([normalised(clip.samples) for clip in batch])
            inputs = torch.from_numpy(values).to(device, next(model.parameters()).dtype)
            masks = None if mask.all() else torch.from_numpy(mask).to(device)
            wait(device)
            start = time.perf_counter()
            with torch.inference_mode(), context():
                model(inputs, attention_mask=masks)
            wait(device)
            tally.seconds += time.perf_counter() - start
            tally.audio_s += sum(clip.seconds for clip in batch)

    return run


def naive(
    folder: Path, weights: Path, precision: str, device: str, chosen: argparse.Namespace, tally: Tally
) -> Callable[[int, Sequence[Clip]], None]:
    """Return the loop that people write."""
    import soundfile
    import soxr
    import torch
    from transformers import AutoFeatureExtractor

    model, context = bare(weights, precision, device, None)
    extractor = AutoFeatureExtractor.from_pretrained(weights)
    out = folder / f"naive-{precision}"
    out.mkdir()

    def run(number: int, part: Sequence[Clip]) -> None:
        start = time.perf_counter()
        for clip in part:
            samples, rate = soundfile.read(clip.path, dtype="float32")
            samples = soxr.resample(samples, rate, RATE)
            inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_values
            with torch.inference_mode(), context():
                states = model(inputs.to(device, next(model.parameters()).dtype), output_hidden_states=True).hidden_states
            np.save(out / f"{clip.path.stem}.npy", states[min(LAYER, chosen.layers)][0].float().cpu().numpy())
        tally.seconds += time.perf_counter() - start
        tally.audio_s += sum(clip.seconds for clip in part)

    return run


def ours(
    folder: Path, weights: Path, precision: str, device: str, chosen: argparse.Namespace, tally: Tally
) -> Callable[[int, Sequence[Clip]], None]:
    """Return what extracts through tfser, from files to shards; time inside the encoder is taken apart."""
    from tfser.manifests.cache import Cache
    from tfser.pipeline.corpora.table import READER
    from tfser.pipeline.extraction.extract import extract_pass
    from tfser.pipeline.features.encoder_engine import encoder_engine
    from tfser.pipeline.features.encoders.spec import encoder_spec
    from tfser.pipeline.features.engine import Compute
    from tfser.pipeline.features.registry import FeatureRequest, feature_pass
    from tfser.pipeline.scanning.scan import scan

    layer = str(min(LAYER, chosen.layers))
    cache = Cache(folder / f"cache-{precision}")
    start = time.perf_counter()
    spec = encoder_spec("wavlm-large", weights=str(weights), layer=layer, precision=precision)
    keep = functools.cache(spec.load)
    encoder = keep(device)
    tally.start_s = time.perf_counter() - start
    encode = encoder.encode

    def timed(pieces: Sequence[Any], moments: Any = None) -> Any:
        begin = time.perf_counter()
        found = encode(pieces, moments)
        tally.inside_s += time.perf_counter() - begin
        tally.computed_s += len(pieces) * max(map(len, pieces)) / RATE
        return found

    encoder.encode = timed  # type: ignore[method-assign]
    request = FeatureRequest(weights=str(weights), layer=layer, precision=precision, memo=cache.root / "weights.json")
    job = replace(feature_pass("wavlm-large", request), engine=encoder_engine(spec, keep))
    compute = Compute(devices=(device,), max_batch_seconds=chosen.batch_seconds)

    def run(number: int, part: Sequence[Clip]) -> None:
        name = f"part{number + 1}"
        table = folder / f"{name}.csv"
        table.write_text("path\n" + "".join(f"{clip.path}\n" for clip in part))
        scan(cache, READER, corpus=name, root=folder, options={"table": str(table)})
        begin = time.perf_counter()
        (report,) = extract_pass(cache, name, job, compute=compute)
        tally.seconds += time.perf_counter() - begin
        tally.audio_s += report.audio_s
        assert report.extracted == len(part), report

    return run


def epoch(clips: Sequence[Clip], weights: Path, device: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Time one training epoch of TF-Mamba from cached frames, and with the encoder frozen in the loop."""
    import torch
    from torch import nn

    from tfser.heads import head
    from tfser.pipeline.features.encoders.spec import encoder_spec

    spec = encoder_spec("wavlm-large", weights=str(weights), layer=str(min(LAYER, chosen.layers)))
    encoder = load(spec, device)
    whole, _ = bare(weights, "float32", device, None)
    chosen_clips = clips[: chosen.epoch_clips]
    cached = [torch.from_numpy(encoder.encode([spec.prepare(clip.samples)])[0][0]).to(device) for clip in chosen_clips]
    of = head("tf_mamba")
    longest = max(map(len, cached))
    config = of.settled(of.preset("full"), hop_s=spec.hop_s, longest=longest, device=device)
    torch.manual_seed(0)
    model = of.module(config, chosen.width, 4).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    order = [int(i) for i in np.random.default_rng(0).permutation(len(chosen_clips))]
    steps = [order[i : i + chosen.epoch_batch] for i in range(0, len(order), chosen.epoch_batch)]

    def from_cache(batch: Sequence[int]) -> list[Any]:
        return [cached[i] for i in batch]

    def in_the_loop(batch: Sequence[int]) -> list[Any]:
        pieces = [spec.prepare(chosen_clips[i].samples) for i in batch]
        return [torch.from_numpy(frames).to(device) for (frames,) in encoder.encode(pieces)]

    def in_the_loop_whole(batch: Sequence[int]) -> list[Any]:
        values, mask = padded([normalised(chosen_clips[i].samples) for i in batch])
        with torch.inference_mode():
            given = {"attention_mask": torch.from_numpy(mask).to(device), "output_hidden_states": True}
            states = whole(torch.from_numpy(values).to(device), **given).hidden_states[min(LAYER, chosen.layers)]
        return [states[k, : len(cached[i])].clone() for k, i in enumerate(batch)]

    def train(frames_of: Callable[[Sequence[int]], list[Any]]) -> float:
        model.train()
        start = time.perf_counter()
        for batch in steps:
            frames = frames_of(batch)
            lengths = torch.tensor([len(one) for one in frames], device=device)
            samples = nn.utils.rnn.pad_sequence(frames, batch_first=True)
            loss = nn.functional.cross_entropy(model(samples, lengths), lengths % 4)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        wait(device)
        return time.perf_counter() - start

    train(from_cache)  # warm
    ways = (("cache", from_cache), ("loop_cut", in_the_loop), ("loop_whole", in_the_loop_whole))
    rounds = [{name: train(way) for name, way in ways} for _ in range(chosen.epoch_rounds)]
    seconds = {name: min(times[name] for times in rounds) for name, _ in ways}
    return {
        "clips": len(chosen_clips),
        "minutes": round(sum(clip.seconds for clip in chosen_clips) / 60, 2),
        "batch": chosen.epoch_batch,
        "precision": "float32",
        **{f"{name}_s": round(value, 2) for name, value in seconds.items()},
        "ratio_cut": round(seconds["loop_cut"] / seconds["cache"], 2),
        "ratio_whole": round(seconds["loop_whole"] / seconds["cache"], 2),
    }


def batches(clips: Sequence[Clip], budget_s: float) -> Iterator[list[Clip]]:
    """Deal clips that are sorted by length into batches of a budget of padded seconds, one at least."""
    batch: list[Clip] = []
    for clip in clips:
        if batch and (len(batch) + 1) * batch[0].seconds > budget_s:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


def normalised(samples: Any) -> Any:
    """Return samples of zero mean and unit variance."""
    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


def padded(rows: Sequence[Any]) -> tuple[Any, Any]:
    """Return (B, n) samples filled with zeros, and the (B, n) mask of what is real."""
    longest = max(map(len, rows))
    values, mask = np.zeros((len(rows), longest), np.float32), np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        values[i, : len(row)], mask[i, : len(row)] = row, 1
    return values, mask


def machine(device: str) -> dict[str, Any]:
    """Say what this ran on."""
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def show(result: dict[str, Any]) -> None:
    """Print for people."""
    print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    print(f"{result['clips']} clips, {result['minutes']} min, {result['shortest_s']} to {result['longest_s']} s")
    for title in ("times_real_time", "ratios", "padding_waste", "share_outside_encoder", "start_s"):
        print(title.replace("_", " "))
        for name, value in result[title].items():
            print(f"  {name:<32}{value:>10}")
    print("one epoch of TF-Mamba, preset full: " + ", ".join(f"{key} {value}" for key, value in result["epoch"].items()))


if __name__ == "__main__":
    main()
