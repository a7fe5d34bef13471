"""The sections of the GPU check (benchmarks/gpu_check.py), one a process: `python benchmarks/gpu_sections.py NAME [--toy]`.

A section prints its results as lines of JSON as soon as it has them: the claim, an outcome (`proven`, `failed`, `measured` where
no bar is set, `left out` with the reason), the value with its unit and bar, the device and the size. Anything else that it prints
goes to its log. On a CPU, or with --toy, the same code runs at toy size; speeds are `measured` then, never proven.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tfser.heads import head
from tfser.heads.models.layer_mix import build_module
from tfser.heads.models.ssd import ssd, unavailable
from tfser.heads.spec.fold import FoldData
from tfser.heads.training.loop import Keeping, Trainer, fit
from tfser.heads.training.parts import padding
from tfser.heads.training.step import training_loss
from tfser.heads.training.together import FitJob, fit_together
from tfser.pipeline.resources.devices import computing_on, processor
from tfser.pipeline.shards.packed import PackedFeatures

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a section runs, and whether at toy size."""

    device: torch.device
    toy: bool

    def say(
        self, claim: str, value: float | None = None, *, unit: str = "", bar: float | None = None, holds: bool | None = None,
        size: str = "", said: str = "", left_out: bool = False,
    ) -> None:  # fmt: skip
        """Print a result. ``holds`` None: there is nothing to hold but to say; a bar of speed is not judged at toy size."""
        outcome = "left out" if left_out else "measured" if holds is None else "proven" if holds else "failed"
        row = {"claim": claim, "outcome": outcome, "value": value, "unit": unit, "bar": bar, "size": size, "said": said}
        name = f"{self.device} ({processor(str(self.device))})"
        print(json.dumps({**row, "device": name, "torch": torch.__version__, "toy": self.toy}), flush=True)

    def faster(self, claim: str, value: float, bar: float, size: str, said: str = "") -> None:
        """Print a ratio that has to reach a bar, which means nothing at toy size."""
        self.say(claim, value, unit="times", bar=bar, holds=None if self.toy else value >= bar, size=size, said=said)

    def seconds(self, work: Callable[[], Any], rounds: int = 3) -> float:
        """Return the median time of a call, after one that is not timed."""
        found = []
        for number in range(rounds + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found += [time.perf_counter() - began] if number else []
        return statistics.median(found)

    def kernels_s(self, work: Callable[[], Any]) -> float:
        """Return the time that the device works on a call, without the launching of it; on a CPU, all of its time."""
        if self.device.type != "cuda":
            return self.seconds(work)
        from triton.testing import do_bench_cudagraph

        return float(do_bench_cudagraph(work, rep=50)) / 1e3

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def folds_of(n: int, dim: int, longest: int, count: int, classes: int = 4, mean: float = 230.0) -> list[FoldData]:
    """Return folds of random utterances with lengths as IEMOCAP's, on features in common."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(0.83 * mean), 0.6, n), 4, longest).astype(np.int64)
    labels, group = random.integers(0, classes, n), np.arange(n) % 10
    frames = np.resize(random.standard_normal((4099, dim), dtype=np.float32), (int(lengths.sum()), dim))  # drawing all takes long
    frames += np.repeat(labels, lengths)[:, None] * np.float32(0.1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    features = PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple(f"u{i}" for i in range(n)))
    names = tuple("abcdefg"[:classes])
    none = np.zeros(0, dtype=np.int64)
    sides = [(np.flatnonzero(group != k), np.flatnonzero(group == k)) for k in range(count)]
    return [FoldData(features=features, labels=labels, classes=names, train=a, val=none, test=b) for a, b in sides]


SCAN = (32, 326, 16, 128, 32)
"""Of TF-Mamba at the paper's size: samples, frames, heads, numbers a head, state."""


def scan_inputs(at: Place) -> tuple[Any, ...]:
    """Return what goes into a scan of `SCAN`'s size: x, B and C side by side as the model has them, steps, decays."""
    b, L, h, p, n = (2, 70, 2, 16, 16) if at.toy else SCAN
    torch.manual_seed(0)
    whole = torch.randn(b, L, h * p + 2 * n, device=at.device)
    dt = nn.functional.softplus(torch.randn(b, L, h, device=at.device) - 2)
    return whole, dt, -torch.rand(h, device=at.device) * 8 - 0.5, (h, p, n)


def one_scan(inputs: tuple[Any, ...], scan: Callable[..., torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a scan's output and the gradients of its inputs."""
    whole, dt, A, (h, p, n) = inputs
    source = whole.to(dtype).requires_grad_()
    x, B, C = source.split_with_sizes((h * p, n, n), dim=-1)
    y = scan(x.unflatten(-1, (h, p)), dt, A, B[:, :, None], C[:, :, None])
    weights = torch.randn(y.shape, device=y.device, generator=torch.Generator(y.device).manual_seed(1))
    return y, torch.autograd.grad(y, source, weights.to(dtype))[0]


def tuned_kernels() -> list[Any]:
    """Return the kernels of mamba-ssm's scan that try configurations."""
    modules = [module for name, module in sys.modules.items() if name.startswith("mamba_ssm.ops.triton")]
    known = {id(kernel): kernel for module in modules for kernel in vars(module).values() if hasattr(kernel, "base_fn")}
    return [kernel for kernel in known.values() if hasattr(kernel, "configs")]


def warm(at: Place) -> None:
    """Compile the fused scan once and keep it on disk, each precision in a process of its own: nothing is claimed here."""
    if unavailable("mamba_ssm", at.device) is None:
        one_scan(scan_inputs(at), partial(ssd, backend="mamba_ssm"), getattr(torch, os.environ["WARM"]))


def tests(at: Place) -> None:
    """Every CUDA test, and the heads trained on the device against the CPU; kernels for later sections are compiled meanwhile."""
    words = [sys.executable, __file__, "warm", *(["--toy"] if at.toy else [])]
    warming = [subprocess.Popen(words, env=os.environ | {"WARM": name}, stdout=sys.stderr) for name in ("bfloat16", "float32")]
    small = {"mean_pool": {"hidden": (8,)}, "tf_transformer": {"segment_frames": 16, "channels": 4, "feed_forward": 8}}
    small["tf_mamba"] = {"width": 16, "attention_heads": 2, "state": 16, "scan_heads": 2, "hidden": (8,), "scan": "chunked"}
    worst = 0.0
    (data,) = folds_of(40, 16, 60, 1, mean=30)
    for name, values in small.items():
        spec = head(name)
        config = spec.settled(replace(spec.preset(), **values), hop_s=0.02, longest=60, device="cpu")
        recipe = replace(spec.recipe(), epochs=2, warmup_epochs=0, batch_size=8, precision="float32", eval_hop=None)
        here, there = (fit(data, spec=spec, config=config, recipe=recipe, seed=0, device=of) for of in ("cpu", at.device))
        worst = max(worst, *(abs(a.loss / b.loss - 1) for a, b in zip(here.history, there.history, strict=True)))
    at.say("fit on the device is fit on the CPU", worst, unit="relative, of the losses", bar=1e-3, holds=worst <= 1e-3,
           size=f"{len(small)} heads, 2 epochs, float32")  # fmt: skip
    files = ["heads/test_stacked.py"]
    if not at.toy:
        files += ["heads/test_on_a_gpu.py", "pipeline/test_encoders.py", "heads/test_ssd.py"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        beside = ["-n", "12"] if not at.toy and importlib.util.find_spec("xdist") else []
        words = ["-v", "-m", "gpu", "-p", "no:cacheprovider", "-p", "gpu_standins", "--junitxml", str(report), *beside]
        command = [sys.executable, "-m", "pytest", *words, *(str(ROOT / "tests" / name) for name in files)]
        places = [str(Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False, env=environment)
        if not report.exists():
            at.say("every CUDA test passes", holds=False, said=f"pytest ended with {done.returncode} and no report")
            return
        suite = next(iter(ElementTree.parse(report).getroot().iter("testsuite")))
    count, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    said = f"{count - skipped - bad} passed, {bad} failed, {skipped} skipped"
    at.say("every CUDA test passes", holds=None if skipped == count and not bad else not bad, said=said)
    for process in warming:
        process.wait()


def ssd_scan(at: Place) -> None:
    """The fused scan of mamba-ssm against the chunked and the compiled form: values, gradients, times."""
    b, L, h, p, n = (2, 70, 2, 16, 16) if at.toy else SCAN
    size = f"{b} x {L} frames, {h} heads of {p}, state {n}"
    inputs = scan_inputs(at)
    ways = {"fused": partial(ssd, backend="mamba_ssm"), "chunked": ssd, "compiled": torch.compile(ssd) if not at.toy else ssd}

    def scan(way: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return one_scan(inputs, ways[way], dtype)

    def off(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one.float() - other.float()).abs().max() / other.float().abs().max())

    exact = scan("chunked", torch.float32)
    reason = unavailable("mamba_ssm", at.device)
    if reason is not None:
        agree = [f"fused scan agrees in {of}, {dtype}" for dtype in ("bfloat16", "float32") for of in ("values", "gradients")]
        for claim in (*agree, "fused scan beats chunked", "tuning the fused scan pays"):
            at.say(claim, left_out=True, said=reason)
    else:
        for dtype, bar in ((torch.bfloat16, 3e-2), (torch.float32, 1e-2)):
            found = scan("fused", dtype)
            for claim, one, other in zip(("values", "gradients"), found, exact, strict=True):
                worst = off(one, other)
                words = f"fused scan agrees in {claim}, {str(dtype).removeprefix('torch.')}"
                at.say(words, worst, unit="of the largest", bar=bar, holds=worst <= bar, size=size)
        times = [at.kernels_s(lambda way=way: scan(way, torch.bfloat16)) for way in ("chunked", "fused")]  # type: ignore[misc]
        launched = at.seconds(lambda: scan("fused", torch.bfloat16))
        said = f"{1e3 * times[1]:.2f} ms, forward and backward; {1e3 * launched:.2f} ms where each kernel is launched"
        at.faster("fused scan beats chunked", times[0] / times[1], 1.0, size, said)
        for kernel in tuned_kernels():  # each with the first of its configurations
            best = getattr(kernel, "best_config", None)
            note(f"{kernel.base_fn.__name__}: {len(kernel.configs)} configurations, chosen {best}")
            kernel.configs = kernel.configs[:1]
        untuned = at.kernels_s(lambda: scan("fused", torch.bfloat16))
        at.say("tuning the fused scan pays", untuned / times[1], unit="times", size=size, said=f"untuned {1e3 * untuned:.2f} ms")
    worst = off(scan("compiled", torch.float32)[0], exact[0])
    at.say("compiled scan agrees", worst, unit="of the largest", bar=1e-3, holds=worst <= 1e-3, size=size)


def mamba_step(at: Place) -> None:
    """TF-Mamba's training step: launched and as a graph, share of the matrix rate, and what length-sorted parts save."""
    from head_step import matrix_rate  # beside this file

    from tfser.heads.training.cost import count_macs

    B, L, D = (4, 40, 16) if at.toy else (32, 326, 1024)
    (even,) = folds_of(2 * B, D, L, 1, mean=1e9)  # all of the longest
    spec = head("tf_mamba")
    recipe = replace(spec.recipe(), precision="bfloat16", batch_size=B)
    times: dict[str, float] = {}
    for scan in ("chunked", *(("mamba_ssm",) if unavailable("mamba_ssm", at.device) is None else ())):
        config = spec.settled(replace(spec.preset(), scan=scan), hop_s=0.02, longest=L, device=str(at.device))
        trainer = Trainer(even, spec, config, recipe, 0, at.device)
        batch = next(trainer.batches(1))[2]
        times[f"{scan}, launched"] = at.seconds(lambda: trainer.launch(batch), rounds=5)  # noqa: B023
        trainer.use_graphs()
        if (graphed := trainer.graphed) is not None:
            times[f"{scan}, graph"] = at.seconds(lambda: graphed.take(batch, 1e-4), rounds=5)  # noqa: B023
            note(f"{scan}: graphs of {list(graphed.graphs)}")
    seconds = min(times.values())
    portable = build_module(spec, replace(config, scan="chunked"), D, 4)
    flop = 6.0 * len(batch) * count_macs(portable, torch.randn(1, L, D), torch.full((1,), L))
    share = "" if at.toy else f"; {flop / seconds / matrix_rate(str(at.device), 'bfloat16'):.2f} of the measured matrix rate"
    size = f"{len(batch)} x {L} x {D}"
    said = ", ".join(f"{how} {1e3 * value:.2f}" for how, value in times.items()) + share
    at.say("TF-Mamba's step in bfloat16", 1e3 * seconds, unit="ms", size=size, said=said)
    if at.device.type == "cuda":
        at.faster("a graph of TF-Mamba's step gains", times["chunked, launched"] / seconds, 2.0, size)
    else:
        at.say("a graph of TF-Mamba's step gains", left_out=True, said="only a GPU has graphs")
    (data,) = folds_of(40 if at.toy else 320, D, 60 if at.toy else 1000, 1, mean=30 if at.toy else 230)
    config = spec.settled(spec.preset(), hop_s=0.02, longest=int(data.features.lengths.max()), device=str(at.device))
    epochs: dict[str, float] = {}
    for parts in (1, 4) if not at.toy else (1, 2):
        trainer = Trainer(data, spec, config, replace(recipe, parts=parts, batch_size=32), 0, at.device)
        epochs[f"{parts} launched"] = at.seconds(lambda: trainer.train_epoch(1), rounds=1)  # noqa: B023
        trainer.use_graphs()
        if trainer.graphed is not None:
            trainer.train_epoch(1)
            epochs[f"{parts} as graphs"] = at.seconds(lambda: trainer.train_epoch(1), rounds=1)  # noqa: B023
    said = ", ".join(f"{how} {seconds:.2f} s" for how, seconds in epochs.items())
    size = f"an epoch of {len(data.train)} utterances, width {D}, {padding(data.features.lengths, 32, 1):.2f} times the frames"
    at.say("an epoch in parts, or as graphs", min(epochs.values()), unit="s", size=size, said=said)


def note(text: str) -> None:
    """Write to the section's log."""
    print(text, file=sys.stderr, flush=True)


def folds_at_once(at: Place, name: str, dim: int, count: int, n: int, recipe_name: str | None = None) -> dict[str, float]:
    """Return the seconds of an epoch of all folds: one at a time (launched, or as graphs), and together in each way."""
    spec = head(name)
    longest = 60 if at.toy else 1000
    folds = folds_of(n, dim, longest, count, mean=30 if at.toy else 450 if name == "tf_transformer" else 230)
    values: dict[str, Any] = {"scan": "chunked"} if name == "tf_mamba" else {}
    if name == "tf_transformer" and at.toy:
        values = {"segment_frames": 16, "channels": 4, "feed_forward": 8, "joint_feed_forward": 8}
    config = spec.settled(replace(spec.preset(), **values), hop_s=0.02, longest=longest, device=str(at.device))
    recipe = replace(spec.recipe(recipe_name), precision="auto" if at.device.type == "cuda" else "float32", parts=None)
    recipe = replace(recipe, epochs=3, warmup_epochs=0, eval_hop=None if at.toy else recipe.eval_hop)

    def epoch_of(how: str, jobs: int) -> float:
        ends: list[float] = []
        keeping = Keeping(on_epoch=lambda _: ends.append(time.perf_counter()))
        options: dict[str, Any] = {"spec": spec, "config": config, "recipe": recipe, "device": at.device}
        if how in ("plain", "graph"):
            fit(folds[0], seed=0, graphs=how == "graph", keeping=keeping, **options)
        else:
            fit_together([FitJob(data=data, seed=0, keeping=keeping) for data in folds[:jobs]], how=how, on_note=note, **options)
        return (ends[-1] - ends[jobs - 1]) / 2 * (count / jobs)  # the last two of three epochs

    ways = [("plain", 1), ("graph", 1), ("streams", count), ("vmap", count)]
    return {how: epoch_of(how, jobs) for how, jobs in ways if how != "graph" or at.device.type == "cuda"}


def transformer(at: Place) -> None:
    """TF-Transformer's published protocol: ten folds of a thousand epochs, extrapolated from the time of one."""
    n, count = (30, 2) if at.toy else (2280, 10)
    found = folds_at_once(at, "tf_transformer", 16 if at.toy else 80, count, n, "paper")
    size = f"{count} folds of {n} utterances"
    for how, seconds in found.items():
        minutes = seconds * 1000 * (10 / count) / 60
        said = f"{count / seconds:.2f} epochs x folds a second"
        judged = None if at.toy or how == "plain" else minutes <= 30
        at.say(f"protocol, {how}", minutes, unit="min for 10 folds x 1000 epochs", bar=30, holds=judged, size=size, said=said)
    if at.device.type != "cuda":
        at.say("protocol, graph", left_out=True, said="only a GPU has graphs")


def stacking(at: Place) -> None:
    """What stacking gains for each head over one training after the other; it belongs on only where that is 2 times."""
    for name, dim, n in (("mean_pool", 768, 400), ("tf_mamba", 256, 120)):
        dim, n, count = (16, 30, 2) if at.toy else (dim, n, 5)
        found = folds_at_once(at, name, dim, count, n)
        best, seconds = min((item for item in found.items() if item[0] in ("streams", "vmap")), key=lambda item: item[1])
        size = f"{count} folds of {n} x {dim}"
        times = ", ".join(f"{how} {value:.3g}" for how, value in found.items())
        alone = min(value for how, value in found.items() if how not in ("streams", "vmap"))
        at.faster(f"stacking {name} gains 2 times", alone / seconds, 2.0, size, f"by {best}; seconds an epoch: {times}")


def extraction(at: Place) -> None:
    """Extraction with a random WavLM-Large: times real time, against the bare model, padding, and too little memory."""
    import transformers

    from tfser.pipeline.features.encoder_engine import Batcher, blocks
    from tfser.pipeline.features.encoders.loading import load
    from tfser.pipeline.features.encoders.spec import encoder_spec
    from tfser.pipeline.features.engine import AudioRow, Compute

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
             "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "conv_dim": (16,) * 7}  # fmt: skip
    full = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    values = {**(sizes if at.toy else full), "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(1.3, 0.6, 6 if at.toy else 400), 1, 15)
    clips = [random.standard_normal(int(16000 * of)).astype(np.float32) for of in (lengths / (5 if at.toy else 1))]
    audio = sum(map(len, clips)) / 16000
    with tempfile.TemporaryDirectory() as folder:
        bare = transformers.WavLMModel(transformers.WavLMConfig(**values)).eval()
        bare.save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        top = 2 if at.toy else 12
        spec = encoder_spec(folder, layer=str(top))
        half = spec if at.device.type == "cpu" else replace(spec, precision="bfloat16")
        encoder = load(half, str(at.device))
    said: list[str] = []
    batcher = Batcher(half, encoder, Compute(tell=said.append))
    prepared = [half.prepare(clip) for clip in sorted(clips, key=len)[::-1]]
    size = f"{len(clips)} clips, {audio:.0f} s, layer {top}, {half.precision}"
    ours = at.seconds(lambda: batcher.run(prepared), rounds=1)
    at.say("WavLM-Large, times real time", audio / ours, unit="times", size=size, said=f"{batcher.budget_s or 0:.0f} s a batch")
    bare.encoder.layers = bare.encoder.layers[:top]
    bare = bare.to(at.device)

    def by_hand() -> None:
        with torch.inference_mode(), torch.autocast(at.device.type, torch.bfloat16, enabled=half.precision == "bfloat16"):
            for first in range(0, len(prepared), 16):
                batch = prepared[first : first + 16]
                values = torch.zeros(len(batch), max(map(len, batch)))
                for row, clip in zip(values, batch, strict=True):
                    row[: len(clip)] = torch.from_numpy(clip)
                bare(values.to(at.device)).last_hidden_state.float().cpu()

    theirs = at.seconds(by_hand, rounds=1)
    at.faster("near the bare model", theirs / ours, 0.8, size, f"bare model {audio / theirs:.0f} times real time, batches of 16")
    rows = [
        AudioRow(utterance_id=str(i), path="", start_s=None, end_s=None, content_hash="", duration_s=len(clip) / 16000)
        for i, clip in enumerate(clips)
    ]
    dealt = blocks(half, rows, 60.0)
    padded = sum(len(block) * max(row.duration_s for row in block) for block in dealt) / audio
    at.say("batches pad little", padded, unit="times the audio", bar=1.15, holds=None if at.toy else padded <= 1.15, size=size)
    if at.device.type == "cpu":
        return at.say("out of memory is halved", left_out=True, said="a CPU's memory is not filled on purpose")
    memory = torch.cuda.get_device_properties(at.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6e9 / memory), at.device)
    greedy = Batcher(half, encoder, Compute(max_batch_seconds=3000.0, tell=said.append))
    found = greedy.run(prepared)
    whole = len(found) == len(prepared) and bool(said)
    return at.say("out of memory is halved", holds=whole, size=size, said="; ".join(said[:2]))


def epoch(at: Place) -> None:
    """An epoch of TF-Mamba on frames that are there, and the time of encoding them in the loop beside it."""
    D, n = (16, 30) if at.toy else (1024, 320)
    (data,) = folds_of(n, D, 60 if at.toy else 700, 1, mean=30 if at.toy else 200)
    spec = head("tf_mamba")
    config = spec.settled(spec.preset(), hop_s=0.02, longest=int(data.features.lengths.max()), device=str(at.device))
    recipe = replace(spec.recipe(), precision="bfloat16" if at.device.type == "cuda" else "float32")
    trainer = Trainer(data, spec, config, recipe, 0, at.device)
    trainer.use_graphs()
    cached = at.seconds(lambda: trainer.train_epoch(1), rounds=1)
    layer = nn.TransformerEncoderLayer(D, 4 if at.toy else 16, 4 * D, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2 if at.toy else 12, enable_nested_tensor=False)  # of WavLM-Large's size
    encoder.eval().to(at.device)

    def encode() -> None:
        with torch.inference_mode(), torch.autocast(at.device.type, torch.bfloat16, enabled=not at.toy):
            for _, _, batch in trainer.batches(1):
                for samples in batch.samples:
                    encoder(samples)

    loop = cached + at.seconds(encode, rounds=1)
    size = f"{len(data.train)} utterances of {data.features.frames.shape[0] / n:.0f} frames, width {D}"
    said = f"{cached:.2f} s; of the encoder in the loop its layers alone count"
    at.faster("an epoch from the cache beats in-loop", loop / cached, 1.5, size, said)


def resident(at: Place) -> None:
    """One copy of features that folds have in common, and no wait for the device in a step."""
    n, dim = (30, 16) if at.toy else (500, 1024)
    folds = folds_of(n, dim, 60 if at.toy else 600, 4, mean=30 if at.toy else 200)
    spec = head("mean_pool")
    jobs = [FitJob(data=data, seed=0) for data in folds]
    held = folds[0].features.frames.nbytes
    if at.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(at.device)
    recipe = replace(spec.recipe(), epochs=1, warmup_epochs=0)
    fit_together(jobs, spec=spec, config=spec.preset(), recipe=recipe, device=at.device, how="streams")
    if at.device.type != "cuda":
        for claim in ("features lie on the device once", "no wait in a training step"):
            at.say(claim, left_out=True, said="only a GPU counts what it holds and when it is waited for")
        return
    peak = torch.cuda.max_memory_allocated(at.device) / held
    at.say("features lie on the device once", peak, unit="times their bytes at the peak", bar=2.0, holds=peak < 2.0,
           size=f"4 folds, {held / 1e9:.2f} GB")  # fmt: skip
    trainer = Trainer(folds[0], spec, spec.preset(), spec.recipe(), 0, at.device)
    steps = trainer.batches(1)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, _, batch = next(steps)
        training_loss(trainer.model, batch, trainer.class_weights, trainer.recipe, None).backward()  # type: ignore[no-untyped-call]
        trainer.optimiser.step()
        at.say("no wait in a training step", holds=True, size=f"mean_pool, batch {len(batch)}")
    except RuntimeError as error:
        at.say("no wait in a training step", holds=False, said=str(error).splitlines()[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def latency(at: Place) -> None:
    """Inference of one utterance as in TF-Mamba's Fig. 3: 326 frames of 1024."""
    L, D = (40, 16) if at.toy else (326, 1024)
    spec = head("tf_mamba")
    reason = unavailable("mamba_ssm", at.device)
    times: dict[str, float] = {}
    for scan in ("chunked", *(("mamba_ssm",) if reason is None else ())):
        config = spec.settled(replace(spec.preset(), scan=scan), hop_s=0.02, longest=L, device=str(at.device))
        model = build_module(spec, config, D, 4).to(at.device).eval()
        frames, lengths = torch.randn(1, L, D, device=at.device), torch.full((1,), L, device=at.device)
        with torch.inference_mode():
            times[scan] = at.seconds(lambda: model(frames, lengths), rounds=20)  # noqa: B023
    said = ", ".join(f"{scan} {1e3 * seconds:.2f} ms" for scan, seconds in times.items())
    gain = times["chunked"] / times.get("mamba_ssm", times["chunked"])
    said += "" if reason is None else f"; {reason}"
    at.say("inference of TF-Mamba, fused against chunked", gain, unit="times", size=f"1 x {L} x {D}, float32", said=said)


SECTIONS: dict[str, Callable[[Place], None]] = {
    "warm": warm, "tests": tests, "ssd": ssd_scan, "mamba_step": mamba_step, "transformer": transformer, "stacking": stacking,
    "extraction": extraction, "epoch": epoch, "resident": resident, "latency": latency,
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Run one section."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("name", choices=list(SECTIONS))
    options.add_argument("--toy", action="store_true")
    chosen = options.parse_args(words)
    toy = chosen.toy or not torch.cuda.is_available()
    at = Place(device=torch.device("cpu" if toy else "cuda:0"), toy=toy)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with computing_on(at.device):
        SECTIONS[chosen.name](at)


if __name__ == "__main__":
    main()
