"""What a head costs: parameters, multiply-accumulates, time and memory, every head measured the same way (TF-Mamba's Fig. 3).

All heads get random frames of the same length and their weights from the same seed. Nothing is read from the cache, and what is
measured does not depend on the numbers in the frames.

* **Multiply-accumulates** are torch's own count of a forward pass in evaluation mode, in float32, of one utterance, halved. It
  counts matrix products, convolutions and attention; LSTMs are added. It does not count Fourier transforms, norms, activations,
  sums, the decays of a scan and whatever else works number by number. The scan is counted in its portable form, which works in
  matrix products.
* **Latency** is the time of a forward pass in evaluation mode, a **step** that of forward and backward of the cross-entropy in
  training mode: without the optimiser, augmentation and other losses, which belong to a recipe. Both are taken round by round
  over all heads, so that a machine that grows slower or faster does so for all, and each timed call follows an untimed one of
  its own. On a CPU they depend on the allocator, too: see `tfser.pipeline.resources.memory`.
* **Memory** is the most that one such pass or step holds beyond the weights and the frames: see `tfser.heads.training.peak`. That
  of a step includes the gradients, not the optimiser's state.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tfser.heads import HEADS, head
from tfser.heads.models.layer_mix import build_module
from tfser.heads.spec.head import HeadSpec, Network, count_parameters
from tfser.heads.spec.settings import Settings
from tfser.heads.training.conditions import Conditions
from tfser.heads.training.peak import peak_bytes
from tfser.heads.training.predict import own_randomness
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.pipeline.resources.devices import choose_device, processor

_HOP_S = 0.02  # of the speech encoders that the whole-utterance heads were made for
_WARM_UPS = 1  # calls before memory is measured: the first one sets things up
_PEAKS = 3  # measurements of memory, of which the median counts


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What one preset of a head costs, and under which conditions."""

    head: str
    preset: str
    parameters: int
    """That are trained."""
    paper_parameters: int | None
    """The paper's count, to the digits that it prints; None where it prints none, and at other feature widths than its own."""
    paper_note: str | None
    """What is printed where `paper_parameters` cannot stand beside ours: of other parts, or at another width."""
    macs: int
    """Multiply-accumulates per utterance."""
    latency_ms: float
    """The median, of a batch."""
    latency_min_ms: float
    latency_p90_ms: float
    step_ms: float
    """The median, of a batch."""
    step_min_ms: float
    step_p90_ms: float
    latency_peak_bytes: int | None
    """None where it cannot be measured."""
    step_peak_bytes: int | None
    batch_size: int
    """Utterances."""
    frames: int
    """Of each utterance."""
    width: int
    """Of the features."""
    classes: int
    samples: int
    """That the head is fed for the batch: as many as utterances, or their segments."""
    sample_frames: int
    """Frames of a sample; fewer than the utterance's where the head cuts it."""
    device: str
    processor: str
    precision: str
    threads: int
    """CPU threads that torch uses."""
    repeats: int
    config: dict[str, Any]
    """Of the head, as it was built on the device."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold."""
        return asdict(self)


def select(heads: Sequence[str] = (), presets: Sequence[str] = ()) -> list[tuple[HeadSpec, str]]:
    """Return the heads and presets that were named, in the registry's order.

    Args:
        heads: their names; none: all that have a network (the reference heads have none).
        presets: their names; none: all of each head.

    Raises:
        UsageError: A name is unknown, or a head that was named has none of the presets or no network.
    """
    for name in heads:
        if not isinstance(head(name), Network):
            raise UsageError(f"{name} is fitted at once and has no network to measure")
    specs = [spec for spec in map(head, HEADS) if (spec.name in heads if heads else isinstance(spec, Network))]
    known = list(dict.fromkeys(preset for spec in specs for preset in spec.presets))
    for preset in presets:
        if preset not in known:
            raise unknown("preset" + (f" of {' or '.join(heads)}" if heads else ""), preset, known)
    found = [(spec, preset) for spec in specs for preset in spec.presets if not presets or preset in presets]
    for spec in specs:
        if heads and not any(of is spec for of, _ in found):
            raise UsageError(f"{spec.name} has no preset {' or '.join(presets)}; it has {', '.join(spec.presets)}")
    return found


def fitting(chosen: Sequence[tuple[HeadSpec, str]], width: int | None) -> tuple[list[tuple[HeadSpec, str]], dict[str, str]]:
    """Return those of the heads that can take a feature width (None: each its own), and why others cannot, by their name."""
    fit, odd = [], {}
    for spec, preset in chosen:
        try:
            spec.check(spec.preset(preset), width or spec.typical_dim)
        except UsageError as error:
            odd[spec.name] = str(error)
        else:
            fit.append((spec, preset))
    return fit, odd


def profile(
    chosen: Sequence[tuple[HeadSpec, str]], conditions: Conditions, *, advance: Callable[[], None] | None = None
) -> list[Profile]:
    """Measure heads, all under the same conditions.

    Args:
        chosen: heads and names of their presets.
        conditions: of the measurement; the number of threads is torch's (`torch.set_num_threads`).
        advance: called `len(chosen) * (1 + conditions.repeats)` times on the way.

    Returns:
        One profile for each, in their order.

    Raises:
        UsageError: The device cannot be used here, or a head cannot take the feature width.
        TfserError: A head does not fit into memory.
    """
    tick = advance or (lambda: None)
    conditions = replace(conditions, device=choose_device(conditions.device))
    device = torch.device(conditions.device)
    for spec, preset in chosen:  # before the first measurement
        spec.check(spec.preset(preset), conditions.width or spec.typical_dim)
    gc.collect()
    cases = []
    # Memory first and once, then times in rounds, each round the other way about: what warms up, throttles or
    # shares the machine falls on all heads alike, and a median over rounds does not favour whoever stood first.
    with own_randomness(device):
        torch.manual_seed(0)
        for spec, preset in chosen:
            with _fits(spec, preset):
                cases.append(_Case(spec, preset, conditions, device))
                cases[-1].measure_memory()
            tick()
        for number in range(conditions.repeats):
            for case in cases if number % 2 == 0 else reversed(cases):
                with _fits(case.spec, case.preset):
                    case.measure_time()
                tick()
        return [case.result() for case in cases]


def count_macs(module: nn.Module, frames: Tensor, lengths: Tensor) -> int:
    """Return the multiply-accumulates of a forward pass in evaluation mode: of matrix products, convolutions and attention.

    frames (B, L, D) and lengths (B,) are on the CPU, and so is the module.
    """
    was_training = module.training
    module.eval()
    recurrent = 0

    def add(lstm: nn.LSTM, given: tuple[Any, ...], _: Any) -> None:
        nonlocal recurrent
        x = given[0].data if isinstance(given[0], nn.utils.rnn.PackedSequence) else given[0].flatten(0, 1)  # (frames, D)
        recurrent += len(x) * sum(weight.numel() for weight in lstm.parameters() if weight.dim() == 2)

    # What torch's counter does not see: an LSTM multiplies each of its matrices with each frame once.
    hooks = [part.register_forward_hook(add) for part in module.modules() if isinstance(part, nn.LSTM)]
    # With gradients, and attention spelt out: torch's fused forms of both are not in its counter's list.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(frames, lengths)
    for hook in hooks:
        hook.remove()
    module.train(was_training)
    return int(counter.get_total_flops()) // 2 + recurrent


class _Case:
    """One preset of a head, ready to be measured."""

    def __init__(self, spec: HeadSpec, preset: str, conditions: Conditions, device: torch.device) -> None:
        self.spec, self.preset, self.conditions, self.device = spec, preset, conditions, device
        self.width = conditions.width or spec.typical_dim
        self.config = self._config(conditions.device)
        self.module = build_module(spec, self.config, self.width, conditions.classes).to(device)
        samples, self.frames = self._input(conditions.batch_size)
        self.samples = samples.to(device)  # (B, L, D)
        self.lengths = torch.full((len(samples),), self.frames, device=device)
        self.labels = torch.arange(len(samples), device=device) % conditions.classes
        self.latency: list[float] = []
        self.step: list[float] = []
        self.latency_peak: int | None = None
        self.step_peak: int | None = None

    def _config(self, device: str) -> Settings:
        longest = self.conditions.frames
        return self.spec.settled(self.spec.preset(self.preset), hop_s=_HOP_S, longest=longest, device=device)

    def _input(self, utterances: int) -> tuple[Tensor, int]:
        """Return what so many utterances are fed as, (B, L, D), and L."""
        length = self.spec.segment_frames(self.config)
        if length is not None:
            utterances *= -(-self.conditions.frames // length)
        else:
            length = min(self.conditions.frames, self.spec.max_frames(self.config) or self.conditions.frames)
        return torch.randn(utterances, length, self.width), length

    def measure_memory(self) -> None:
        self.module.eval()
        self.latency_peak = self._peak(self._forward)
        self.module.train()
        self.step_peak = self._peak(self._backward)

    def _peak(self, work: Callable[[], None]) -> int | None:
        peaks = []
        for number in range(_WARM_UPS + _PEAKS):
            peak = peak_bytes(work, self.device)
            self.module.zero_grad(set_to_none=True)
            if number >= _WARM_UPS and peak is not None:
                peaks.append(peak)
        return round(statistics.median(peaks)) if peaks else None

    def measure_time(self) -> None:
        self.module.eval()
        self.latency.append(self._time(self._forward))
        self.module.train()
        self.step.append(self._time(self._backward))

    def _time(self, work: Callable[[], None]) -> float:
        """Return the milliseconds of the second of two calls."""
        work()
        self.module.zero_grad(set_to_none=True)
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        elapsed = 1000 * (time.perf_counter() - start)
        self.module.zero_grad(set_to_none=True)
        return elapsed

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.conditions.precision == "bfloat16")

    def _forward(self) -> None:
        with torch.inference_mode(), self._autocast():
            self.module(self.samples, self.lengths)

    def _backward(self) -> None:
        with self._autocast():
            logits = self.module(self.samples, self.lengths)
        loss = functional.cross_entropy(logits.float(), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]

    def _macs(self) -> int:
        portable = build_module(self.spec, self._config("cpu"), self.width, self.conditions.classes)
        samples, frames = self._input(1)
        return count_macs(portable, samples, torch.full((len(samples),), frames))

    def result(self) -> Profile:
        conditions = self.conditions
        return Profile(
            head=self.spec.name,
            preset=self.preset,
            parameters=count_parameters(self.module),
            paper_parameters=_printed(self.spec, self.preset, self.width),
            paper_note=_printed_otherwise(self.spec, self.preset, self.width),
            macs=self._macs(),
            latency_ms=statistics.median(self.latency),
            latency_min_ms=min(self.latency),
            latency_p90_ms=float(np.percentile(self.latency, 90)),
            step_ms=statistics.median(self.step),
            step_min_ms=min(self.step),
            step_p90_ms=float(np.percentile(self.step, 90)),
            latency_peak_bytes=self.latency_peak,
            step_peak_bytes=self.step_peak,
            batch_size=conditions.batch_size,
            frames=conditions.frames,
            width=self.width,
            classes=conditions.classes,
            samples=len(self.samples),
            sample_frames=self.frames,
            device=conditions.device,
            processor=processor(conditions.device),
            precision=conditions.precision,
            threads=torch.get_num_threads(),
            repeats=conditions.repeats,
            config=self.config.to_dict(),
        )


def _printed(spec: HeadSpec, preset: str, width: int) -> int | None:
    """Return how many parameters the paper says that a preset has at a feature width, None where it says nothing."""
    found = [row.parameters for row in spec.ablation if row.preset == preset and row.parameters is not None]
    if found and width == spec.typical_dim:
        return round(1e6 * found[0])
    if isinstance(spec, Network) and preset == spec.default_preset and width in spec.printed_parameters:
        return round(1e6 * spec.printed_parameters[width])
    return None


def _printed_otherwise(spec: HeadSpec, preset: str, width: int) -> str | None:
    """Return in words what is printed of a head where no count of this very preset and feature width is; None: nothing to say."""
    if not isinstance(spec, Network) or preset != spec.default_preset or _printed(spec, preset, width) is not None:
        return None
    others = [f"{millions:g} M at a width of {at}" for at, millions in spec.printed_parameters.items()]
    return f"{' and '.join(others)} in print" if others else spec.printed_otherwise or None


@contextlib.contextmanager
def _fits(spec: HeadSpec, preset: str) -> Iterator[None]:
    """Turn torch's errors of too little memory into ours."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if "memory" not in str(error):
            raise
        raise TfserError(
            f"{spec.name} {preset} does not fit into memory at this shape; take a smaller --batch-size or --frames"
        ) from error
