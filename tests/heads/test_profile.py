"""What heads cost: counts against calculations by hand; times and memory only in their kind, never in their size."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tfser.heads import HEADS, head
from tfser.heads.commands import cost_table
from tfser.heads.commands.cost_table import figure_3, notes_of_papers, print_profiles
from tfser.heads.spec.head import Network
from tfser.heads.training import cost as profiling
from tfser.heads.training import peak
from tfser.heads.training.cost import Conditions, Profile, count_macs, fitting, profile, select
from tfser.heads.training.peak import peak_bytes
from tfser.manifests.errors import TfserError, UsageError

CPU = torch.device("cpu")


def measure(name: str, preset: str, **conditions: Any) -> Profile:
    (found,) = profile(select([name], [preset]), Conditions(**{"repeats": 1, "device": "cpu", **conditions}))
    return found


class Counted(nn.Module):
    """A function as a head."""

    def __init__(self, function: Any, *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.modules_ = function, nn.ModuleList(modules)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        result: Tensor = self.function(frames)
        return result


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("preset", "widths"),
    [("mlp", (1024, 512, 256, 4)), ("linear", (1024, 4))],
)
def test_mean_pool_costs_what_its_layers_say(preset: str, widths: tuple[int, ...]) -> None:
    found = measure("mean_pool", preset, batch_size=3, frames=20)
    assert found.macs == sum(a * b for a, b in pairwise(widths))
    assert found.parameters == sum(a * b + b for a, b in pairwise(widths))
    assert found.parameters == {"mlp": 657_156, "linear": 4_100}[preset]
    assert (found.samples, found.sample_frames, found.width, found.frames, found.batch_size) == (3, 20, 1024, 20, 3)


def test_attention_and_convolutions_are_counted() -> None:
    frames, lengths = torch.randn(2, 30, 16), torch.full((2,), 30)
    fused = Counted(lambda x: functional.scaled_dot_product_attention(x, x, x))
    assert count_macs(fused, frames, lengths) == 2 * (2 * 30 * 30 * 16)
    layer = nn.MultiheadAttention(16, 4, batch_first=True)  # torch has a fused form of the whole layer, too
    attention = Counted(lambda x: layer(x, x, x, need_weights=False)[0], layer)
    assert count_macs(attention, frames, lengths) == 2 * (4 * 30 * 16 * 16 + 2 * 30 * 30 * 16)
    depthwise = nn.Conv1d(16, 16, 4, groups=16)
    assert count_macs(Counted(lambda x: depthwise(x.mT), depthwise), frames, lengths) == 2 * (27 * 16 * 4)
    with torch.no_grad():
        assert count_macs(attention, frames, lengths) > 0  # whatever the caller does with gradients
    assert attention.training


@pytest.mark.slow
def test_tf_mamba_s_encoder_costs_what_its_layers_say() -> None:
    L, D = 40, 64
    found = measure("tf_mamba", "attention", frames=L, width=D)
    inner = 3 * D // 16
    by_hand = 4 * L * D * D + 2 * L * L * D + 2 * L * D * inner + D * 512 + 512 * 256 + 256 * 4
    assert found.macs == by_hand
    assert measure("tf_mamba", "temporal", frames=L, width=D).macs > by_hand + 3 * L * D * 2 * D  # projections and more


@pytest.mark.slow
def test_segments_are_counted_as_many_as_an_utterance_has() -> None:
    one, five = (measure("tf_transformer", "full", frames=frames, batch_size=1) for frames in (80, 326))
    assert five.macs == 5 * one.macs
    assert (one.samples, five.samples) == (1, 5)
    assert one.sample_frames == five.sample_frames == 80
    assert one.parameters == 239_020


@pytest.mark.slow
def test_the_paper_s_count_stands_beside_ours_at_its_own_width_only() -> None:
    found = measure("tf_mamba", "baseline", frames=10)
    assert (found.parameters, found.paper_parameters) == (657_156, 660_000)
    assert measure("tf_mamba", "baseline", frames=10, width=64).paper_parameters is None
    assert measure("mean_pool", "linear", frames=10).paper_parameters is None


def test_what_is_printed_of_other_parts_or_widths_is_said_in_words() -> None:
    conditions = Conditions(frames=4, width=16, repeats=1, device="cpu")
    found = profile(select(["shift_cnn", "ent", "tent"], ["full", "utterance"]), conditions)
    assert [of.paper_note for of in found if of.head == "shift_cnn"] == ["9.5 M at a width of 768 in print"]
    assert {of.preset for of in found if of.paper_note is None} == {"utterance"}
    lines = notes_of_papers([*found, *(replace(of, head="twin") for of in found if of.head == "tent")])
    assert lines[1].startswith("ent: 9.7 M in print") and lines[2] == "tent, twin: no count is printed" and len(lines) == 3


def test_a_narrow_terminal_has_whole_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = measure("mean_pool", "mlp", frames=4, width=8)
    large = {"parameters": 66_846_468, "paper_parameters": 66_900_000, "macs": 99_900_000}
    wide = replace(found, head="speechformer_pp", preset="full", **large)
    monkeypatch.setattr(cost_table, "terminal_width", lambda: 78)
    print_profiles([wide, replace(wide, preset="other")])
    printed = capsys.readouterr()
    header = next(line for line in printed.out.splitlines() if line.startswith("head"))
    assert header.split() == ["head", "preset", "parameters", "paper", "MACs", "ms", "step_ms", "step_MB"]
    assert max(map(len, printed.out.splitlines()[2:])) <= 78 and re.search(r"In all rows: p90 \S+, MB \S+\.", printed.err)


def test_a_head_that_cuts_utterances_is_fed_what_it_sees() -> None:
    found = measure("tf_mamba", "baseline", frames=1200, width=16)
    assert (found.frames, found.sample_frames) == (1200, 1000)  # 20 seconds


@pytest.mark.slow
def test_every_head_is_measured_under_the_same_conditions() -> None:
    torch.manual_seed(3)
    state, ticks = torch.get_rng_state(), []
    conditions = Conditions(frames=24, width=16, classes=3, repeats=3, device="cpu")
    every = [name for name in HEADS if isinstance(head(name), Network) and not head(name).reads]  # those of any width
    found = profile(select(every), conditions, advance=lambda: ticks.append(1))
    assert [(of.head, of.preset) for of in found] == [(name, preset) for name in every for preset in head(name).presets]
    assert len(ticks) == len(found) * 4
    for of in found:
        assert 0 < of.latency_min_ms <= of.latency_ms <= of.latency_p90_ms
        assert 0 < of.step_min_ms <= of.step_ms <= of.step_p90_ms
        assert of.parameters > 0 and of.macs > 0
        assert (of.width, of.classes, of.frames, of.device, of.precision, of.repeats) == (16, 3, 24, "cpu", "float32", 3)
        assert json.loads(json.dumps(of.to_dict()))["config"] == of.config
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_heads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    take = profiling._Case.measure_time

    def note(case: Any) -> None:
        turns.append(case.preset)
        take(case)

    monkeypatch.setattr(profiling._Case, "measure_time", note)
    profile(select(["mean_pool"]), Conditions(frames=4, width=8, repeats=3, device="cpu"))
    assert turns == ["mlp", "linear", "linear", "mlp", "mlp", "linear"]


@pytest.mark.slow
def test_bfloat16_is_autocast() -> None:
    found = measure("mean_pool", "mlp", frames=4, width=8, precision="bfloat16")
    assert found.precision == "bfloat16" and found.latency_ms > 0


@pytest.mark.slow
def test_memory_is_what_comes_on_top() -> None:
    held = torch.ones(2**22)  # 16 MiB, before
    found = peak_bytes(lambda: torch.ones(2**24), CPU)
    if found is None:
        pytest.skip("this system does not tell the high-water mark")
    assert found == pytest.approx(2**26, rel=0.1)
    assert held.numel() == 2**22
    small = measure("mean_pool", "mlp", frames=2048)  # 8 MiB of masked frames
    assert small.latency_peak_bytes is not None and small.latency_peak_bytes > 7 * 2**20


@pytest.mark.slow
def test_memory_that_cannot_be_measured_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_reset_high_water", lambda: None)
    done = []
    assert peak_bytes(lambda: done.append(1), CPU) is None
    assert done
    found = measure("mean_pool", "linear", frames=4, width=8)
    assert found.latency_peak_bytes is None and found.step_peak_bytes is None


@pytest.mark.slow
def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB")

    monkeypatch.setattr(profiling._Case, "_forward", fail)
    with pytest.raises(TfserError, match="mean_pool linear does not fit into memory"):
        measure("mean_pool", "linear", frames=4, width=8)


def test_names_select_heads_and_presets() -> None:
    def names(*chosen: Any) -> list[str]:
        return [f"{spec.name} {preset}" for spec, preset in select(*chosen)]

    assert names(["mean_pool"]) == ["mean_pool mlp", "mean_pool linear"]
    table_one = ("ca_mser", "speechformer", "speechformer_pp", "shift_cnn", "shift_lstm", "shiftformer")
    table_one += ("dwformer", "dst", "mstr", "ent", "tent")
    assert names([], ["full"]) == [f"{name} full" for name in ("tf_mamba", "tf_transformer", *table_one)]
    assert names(["tf_transformer", "mean_pool"], ["full", "mlp"]) == ["mean_pool mlp", "tf_transformer full"]
    with pytest.raises(UsageError, match="unknown head 'mean_pol'"):
        select(["mean_pol"])
    with pytest.raises(UsageError, match="unknown preset 'fulll'; did you mean 'full'"):
        select([], ["fulll"])
    with pytest.raises(UsageError, match="unknown preset of mean_pool 'full'"):
        select(["mean_pool"], ["full"])
    with pytest.raises(UsageError, match="mean_pool has no preset full; it has mlp, linear"):
        select(["mean_pool", "tf_transformer"], ["full"])


@pytest.mark.parametrize("name", ["batch_size", "frames", "width", "classes", "repeats"])
def test_sizes_make_sense(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=0"):
        Conditions(**{name: 0})


def test_what_cannot_be_measured_is_refused_before_anything_is() -> None:
    with pytest.raises(UsageError, match="unknown precision 'float8'"):
        Conditions(precision="float8")
    with pytest.raises(UsageError, match="--device abacus: not usable here"):
        profile(select(["mean_pool"]), Conditions(device="abacus"))
    ticks: list[int] = []
    with pytest.raises(UsageError, match="width"):
        profile(select(), Conditions(width=30, device="cpu"), advance=lambda: ticks.append(1))
    assert not ticks


@pytest.mark.slow
def test_the_products_of_an_lstm_are_counted() -> None:
    """4 gates of 6 units, each way, of 6 inputs and 6 states, in 10 frames; and the classifier's 12 x 4."""
    found = measure("shift_lstm", "full", frames=10, width=6)
    assert found.macs == 10 * 2 * 4 * 6 * (6 + 6) + 12 * 4


@pytest.mark.slow
def test_the_text_of_figure_3_stands_beside_ours() -> None:
    conditions = Conditions(frames=4, width=16, repeats=1, device="cpu")
    found = profile(select(["tf_mamba", "shiftformer"], ["full"]), conditions)
    (line,) = figure_3(found)
    ratio = found[1].parameters / found[0].parameters
    assert "1.87 x its latency" in line and f"1.81 x its parameters, here {ratio:.2f} x" in line
    assert figure_3(found[:1]) == []


def test_heads_that_cannot_take_a_width_are_left_out_with_the_reason() -> None:
    found, odd = fitting(select(), 80)
    assert list(odd) == ["ca_mser"] and "width of 80" in odd["ca_mser"]
    assert {spec.name for spec, _ in found} == {spec.name for spec, _ in select()} - {"ca_mser"}
    assert fitting(select(), None) == (select(), {})
