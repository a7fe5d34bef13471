"""TF-Mamba: its counts, its filter, its branches against Mamba-2 elsewhere, what each branch can learn, and how it trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tfser.heads.models.layer_mix import build_module
from tfser.heads.models.tf_mamba import HEAD, FrequencyFilter, MambaBranch, TFMamba, TFMambaConfig
from tfser.heads.spec.fold import EpochRecord, FoldData
from tfser.heads.spec.head import count_parameters
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.loop import Keeping, TrainedState, fit, predict
from tfser.manifests.errors import UsageError

SMALL = {"width": 16, "attention_heads": 2, "state": 8, "hidden": (8, 4), "max_frames": 48, "scan": "chunked"}


def small(preset: str = "full", **changes: object) -> TFMambaConfig:
    config = HEAD.preset(preset)
    assert isinstance(config, TFMambaConfig)
    return replace(config, **{**SMALL, **changes})


# -- sizes -------------------------------------------------------------------------------------------------------------------

COUNTS = {
    "baseline": 657_156,
    "attention": 5_253_060,
    "temporal": 14_398_068,
    "frequency": 14_389_620,
    "full": 20_775_652,
    "dual_temporal": 20_784_100,
}


@pytest.mark.parametrize("preset", HEAD.presets)
def test_parameter_counts_are_those_of_the_docstring(preset: str) -> None:
    with torch.device("meta"):
        config = HEAD.settled(HEAD.preset(preset), hop_s=0.02, longest=326, device="cpu")
        assert count_parameters(build_module(HEAD, config, 1024, 4)) == COUNTS[preset]


def test_every_row_of_table_iii_is_within_one_percent() -> None:
    printed = [row for row in HEAD.ablation if row.parameters is not None]
    assert len(printed) == 6
    for row in printed:
        assert row.parameters is not None
        assert abs(COUNTS[row.preset] / 1e6 / row.parameters - 1) < 0.01, row.name


def test_what_is_ours_can_be_switched_off() -> None:
    plain = replace(HEAD.preset("full"), attention_mlp=0.0, fusion_mlp=0.0, max_frames=326)  # type: ignore[call-arg]
    with torch.device("meta"):
        count = count_parameters(build_module(HEAD, plain, 1024, 4))
    assert COUNTS["full"] - count == 2 * 1024 * 192 + 192 + 1024 + 2048 + 2 * 1024 * 320 + 320 + 1024 + 2048


@pytest.mark.few(2)
@pytest.mark.parametrize("dim", [80, 512, 768, 1024, 1280])
def test_the_widths_of_the_encoders_and_of_log_mel_fit_as_they_are(dim: int) -> None:
    config = HEAD.settled(HEAD.preset(), hop_s=0.02, longest=10, device="cpu")
    with torch.no_grad():
        logits = build_module(HEAD, config, dim, 4)(torch.randn(2, 10, dim), torch.tensor([10, 7]))
    assert logits.shape == (2, 4) and torch.isfinite(logits).all()


# -- what leaves the configuration open ----------------------------------------------------------------------------------------


def test_frames_follow_from_seconds_and_the_longest_utterance() -> None:
    def most(longest: int, **changes: object) -> int | None:
        return HEAD.max_frames(HEAD.settled(small(**changes), hop_s=0.01, longest=longest, device="cpu"))

    assert most(326, max_frames=None) == 326
    assert most(5000, max_frames=None) == 2000
    assert most(5000, max_frames=None, max_seconds=6.5) == 650
    assert most(100, max_frames=324) == 324


def test_a_scan_is_settled_and_one_that_cannot_run_is_refused() -> None:
    settled = HEAD.settled(small(scan="auto"), hop_s=0.01, longest=9, device="cpu")
    assert settled.to_dict()["scan"] == "chunked"
    with pytest.raises(UsageError, match=r"scan=mamba_ssm cannot run on cpu: .*GPU"):
        HEAD.settled(small(scan="mamba_ssm"), hop_s=0.01, longest=9, device="cpu")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"branches": ("temporel",)}, "did you mean 'temporal'"),
        ({"branches": ("temporal",) * 3}, "two at most"),
        ({"filter": "lowpass"}, "unknown filter"),
        ({"scan": "fast"}, "unknown scan"),
        ({"state": 0}, "state=0: must be above 0"),
        ({"initial_cut": 1.0}, "initial_cut=1.0"),
        ({"width": 0}, "width=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"attention_mlp": -1.0}, "attention_mlp"),
        ({"hidden": (0,)}, "hidden"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        small(**changes)


@pytest.mark.parametrize(
    ("config", "dim", "expected"),
    [
        (small(width=None, attention_heads=8), 60, "attention_heads=8 must divide the width 60.*--width"),
        (small(width=18), 80, "must divide|scan_heads"),
        (small(groups=3), 80, "groups=3 must divide scan_heads=4"),
        (small(max_frames=None), 80, "max_frames is not settled"),
    ],
)
def test_widths_that_do_not_fit_are_named(config: TFMambaConfig, dim: int, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        build_module(HEAD, replace(config, scan_heads=5) if config.width == 18 else config, dim, 4)


# -- the filter --------------------------------------------------------------------------------------------------------------


def white(B: int = 4, L: int = 200, C: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(B, L, C, generator=torch.Generator().manual_seed(seed)), torch.ones(B, L, dtype=torch.bool)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["power", "cutoff"])
def test_the_filter_begins_by_cutting_the_stated_share(kind: str, cut: float) -> None:
    frequency_filter = FrequencyFilter(32, 200, kind, cut)  # type: ignore[arg-type]
    kept = frequency_filter.mask(torch.fft.rfft(white()[0], dim=1))
    assert kept.mean().item() == pytest.approx(1 - cut, abs=0.02)


@pytest.mark.parametrize("kind", ["power", "cutoff"])
def test_thresholds_get_gradients_and_move_the_mask(kind: str) -> None:
    """A step along the gradient changes which bins are kept, and lowers the loss that it came from."""
    x, valid = white()
    frequency_filter = FrequencyFilter(32, 200, kind, 0.5)  # type: ignore[arg-type]
    spectrum = torch.fft.rfft(x, dim=1)
    before = frequency_filter.mask(spectrum).detach()

    def energy() -> Tensor:
        return frequency_filter(x, valid).square().mean()

    first = energy()
    first.backward()
    gradient = frequency_filter.threshold.grad
    assert gradient is not None and torch.isfinite(gradient).all() and (gradient != 0).all()
    with torch.no_grad():
        frequency_filter.threshold -= 0.3 * gradient.sign()
    after = frequency_filter.mask(spectrum)
    assert not torch.equal(before, after)
    assert set(after.unique().tolist()) == {0.0, 1.0}
    assert energy() < first


@pytest.mark.parametrize("kind", ["power", "cutoff"])
def test_neither_scale_nor_offset_changes_what_is_kept(kind: str) -> None:
    x, _ = white()
    frequency_filter = FrequencyFilter(32, 200, kind, 0.5)  # type: ignore[arg-type]
    masks = [frequency_filter.mask(torch.fft.rfft(y, dim=1)) for y in (x, 1000 * x, x + 50)]
    torch.testing.assert_close(masks[0], masks[1])
    torch.testing.assert_close(masks[0][:, 1:], masks[2][:, 1:].expand_as(masks[0][:, 1:]))
    assert (masks[2][:, 0] == 1).all()  # the offset itself passes


def test_a_filter_that_keeps_everything_changes_nothing() -> None:
    x, valid = white(2, 40)
    valid[1, 25:] = False
    for kind, threshold in (("power", -100.0), ("cutoff", 2.0)):
        frequency_filter = FrequencyFilter(32, 48, kind, 0.5)  # type: ignore[arg-type]
        nn.init.constant_(frequency_filter.threshold, threshold)
        torch.testing.assert_close(frequency_filter(x, valid)[valid], x[valid], atol=1e-5, rtol=1e-5)


def test_silence_passes_a_filter_without_a_trace() -> None:
    frequency_filter = FrequencyFilter(32, 48, "power", 0.5)
    x = torch.zeros(2, 40, 32, requires_grad=True)
    frequency_filter(x, torch.ones(2, 40, dtype=torch.bool)).square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


# -- the branches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
def test_the_temporal_branch_is_the_mamba_2_of_transformers(groups: int) -> None:
    """The same weights give the same numbers as an implementation that is not ours."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = small(groups=groups, scan_heads=4)
    torch.manual_seed(0)
    ours = MambaBranch(config, 16, "temporal", 48)
    theirs = Mamba2Mixer(
        Mamba2Config(
            hidden_size=16,
            expand=2,
            num_heads=4,
            head_dim=8,
            state_size=8,
            n_groups=groups,
            conv_kernel=4,
            chunk_size=16,
            use_bias=False,
            use_conv_bias=True,
            time_step_limit=(0.0, float("inf")),
        ),
        layer_idx=0,
    )
    nn.init.uniform_(ours.norm_weight)
    names = {"norm_weight": "norm.weight", "conv.weight": "conv1d.weight", "conv.bias": "conv1d.bias"}
    theirs.load_state_dict({names.get(name, name): value for name, value in ours.state_dict().items()})
    u = torch.randn(3, 45, 16)
    valid = torch.ones(3, 45, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(ours(u, valid), theirs(u), atol=1e-5, rtol=1e-4)


def test_the_temporal_branch_looks_back_only_and_the_filter_both_ways() -> None:
    torch.manual_seed(0)
    u = torch.randn(1, 40, 16)
    later = u.clone()
    later[:, 25:] += 1.0
    valid = torch.ones(1, 40, dtype=torch.bool)
    for kind, same in (("temporal", True), ("frequency", False)):
        branch = MambaBranch(small(), 16, kind, 48)
        with torch.no_grad():
            before, after = branch(u, valid)[:, :25], branch(later, valid)[:, :25]
        assert torch.allclose(before, after, atol=1e-6) is same, kind


@pytest.mark.parametrize("preset", ["temporal", "frequency", "full", "dual_temporal"])
def test_step_by_step_and_chunked_scans_give_the_same_logits(preset: str) -> None:
    torch.manual_seed(0)
    model = TFMamba(small(preset), 10, 3).eval()
    other = TFMamba(small(preset, scan="reference"), 10, 3).eval()
    other.load_state_dict(model.state_dict())
    frames, lengths = torch.randn(3, 48, 10), torch.tensor([48, 30, 5])
    torch.testing.assert_close(other(frames, lengths), model(frames, lengths), atol=1e-5, rtol=1e-4)


def test_more_frames_than_it_was_built_for_are_refused() -> None:
    model = TFMamba(small(), 10, 3)
    with pytest.raises(UsageError, match="49 frames; this head was built for 48 at most"):
        model(torch.randn(1, 49, 10), torch.tensor([49]))


def test_the_transform_knows_the_run_and_not_the_batch() -> None:
    """An utterance alone, and beside one as long as the transform: the same to 1e-5, though the filter looks both ways."""
    torch.manual_seed(0)
    model = TFMamba(small("frequency"), 10, 3).eval()
    frames = torch.randn(2, 48, 10)
    lengths = torch.tensor([17, 48])
    with torch.no_grad():
        alone = model(frames[:1, :17], lengths[:1])
        torch.testing.assert_close(model(frames, lengths)[:1], alone, atol=1e-5, rtol=1e-5)


# -- what can be learnt ------------------------------------------------------------------------------------------------------

Task = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def rise_or_fall(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same frames in two orders: only a head that knows before from after can tell the classes apart."""
    labels = torch.arange(n) % 2
    ramp = torch.linspace(-1, 1, 32)[None, :, None] * (1 - 2 * labels)[:, None, None]
    return ramp + 0.5 * torch.randn(n, 32, 4, generator=generator), labels


def slow_or_slower(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One or four cycles of modulation an utterance, of any phase, with a sixth of the noise's power."""
    labels = torch.arange(n) % 2
    cycles = torch.where(labels == 0, 1.0, 4.0)[:, None, None]
    phase = 2 * math.pi * torch.rand(n, 1, 8, generator=generator)
    time = (torch.arange(96) / 96)[None, :, None]
    noise = torch.randn(n, 96, 8, generator=generator)
    return noise + 0.4 * math.sqrt(2) * torch.sin(2 * math.pi * cycles * time + phase), labels


def accuracy(task: Task, config: TFMambaConfig, steps: int) -> float:
    """Train on fresh samples, and return the share of 400 others that is right."""
    generator = torch.Generator().manual_seed(0)
    frames, labels = task(400, generator)
    L, D = frames.shape[1:]
    torch.manual_seed(0)
    model = TFMamba(replace(config, max_frames=L), D, 2)
    own = model.own_rate_parameters()
    shared = [p for p in model.parameters() if all(p is not q for q in own)]
    optimiser = torch.optim.AdamW([{"params": shared}, {"params": own, "lr": 0.05, "weight_decay": 0.0}], lr=3e-3)
    for _ in range(steps):
        batch, wanted = task(32, generator)
        loss = nn.functional.cross_entropy(model(batch, torch.full((32,), L)), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float((model.eval()(frames, torch.full((400,), L)).argmax(dim=1) == labels).float().mean())


@pytest.mark.slow
def test_order_is_learnt_by_the_temporal_branch_and_by_no_mean_or_attention() -> None:
    assert accuracy(rise_or_fall, small("temporal", attention=False), 60) > 0.95
    assert accuracy(rise_or_fall, small("baseline"), 60) < 0.6
    assert accuracy(rise_or_fall, small("attention"), 60) < 0.6


@pytest.mark.slow
def test_a_slow_modulation_under_noise_is_learnt_by_the_frequency_branch_sooner_with_its_filter() -> None:
    with_filter = accuracy(slow_or_slower, small("frequency", attention=False), 150)
    without = accuracy(slow_or_slower, small("frequency", attention=False, filter="none"), 150)
    assert with_filter > 0.75
    assert with_filter > without + 0.1
    assert accuracy(slow_or_slower, small("baseline"), 150) < 0.6


# -- training ----------------------------------------------------------------------------------------------------------------

TRAIN = Recipe(optimiser="adamw", lr=3e-3, epochs=3, batch_size=6, cmdt=0.1, own_rate=0.05, grad_clip=5.0)


def test_a_fold_is_trained_with_cmdt_and_predicts_what_it_stored(tmp_path: Path, fold: FoldData) -> None:
    config = small(max_frames=30)  # some utterances have 37 frames
    result = fit(fold, spec=HEAD, config=config, recipe=TRAIN, seed=0)
    plain = fit(fold, spec=HEAD, config=config, recipe=replace(TRAIN, cmdt=0.0), seed=0)
    assert result.history[0].loss > plain.history[0].loss  # CMDT is in it
    save_file(result.states["last"], tmp_path / "model.safetensors")
    again = predict(
        TrainedState(state=load_file(tmp_path / "model.safetensors"), spec=HEAD, config=config, recipe=TRAIN, n_classes=3),
        fold.features,
        utterances=fold.test,
    )
    stored = result.selections["last"].test
    assert stored is not None
    np.testing.assert_array_equal(again.utterance_probabilities, stored.utterance_probabilities)


def test_what_lies_beyond_the_most_frames_is_not_looked_at(fold: FoldData) -> None:
    config = small(max_frames=20)
    changed = fold.features.frames.copy()
    for begin, end in zip(fold.features.offsets[:-1], fold.features.offsets[1:], strict=True):
        changed[begin + 20 : end] = 7.0
    other = replace(fold, features=replace(fold.features, frames=changed))
    recipe = replace(TRAIN, normalise="none", epochs=1)
    first, second = (fit(f, spec=HEAD, config=config, recipe=recipe, seed=0).selections["last"].test for f in (fold, other))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.utterance_probabilities, second.utterance_probabilities)


def test_thresholds_move_at_their_own_rate_and_do_not_decay(fold: FoldData) -> None:
    start = small(initial_cut=0.5)

    def moved(rate: float) -> float:
        recipe = replace(TRAIN, own_rate=rate, weight_decay=0.0, epochs=1)
        state = fit(fold, spec=HEAD, config=start, recipe=recipe, seed=0).states["last"]
        (name,) = [key for key in state if key.endswith("threshold")]
        return float((state[name] - math.log(math.log(2))).abs().mean())

    assert moved(0.1) > 5 * moved(0.001) > 0


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_to_the_same_numbers(tmp_path: Path, fold: FoldData) -> None:
    whole = fit(fold, spec=HEAD, config=small(), recipe=TRAIN, seed=0)

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    options = {"spec": HEAD, "config": small(), "recipe": TRAIN, "seed": 0}
    with pytest.raises(KeyboardInterrupt):
        fit(fold, keeping=Keeping(checkpoint_dir=tmp_path, checkpoint_every_s=0.0, on_epoch=stop), **options)
    resumed = fit(fold, keeping=Keeping(checkpoint_dir=tmp_path), **options)
    for name, tensor in whole.states["last"].items():
        assert torch.equal(tensor, resumed.states["last"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_it_trains_in_both_precisions(precision: str, fold: FoldData) -> None:
    recipe = replace(TRAIN, epochs=40, precision=precision)  # type: ignore[arg-type]
    history = fit(fold, spec=HEAD, config=small(), recipe=recipe, seed=0).history
    assert history[-1].loss < 0.4 * history[0].loss


def test_cmdt_is_refused_for_a_head_that_gives_no_frames(fold: FoldData) -> None:
    from tfser.heads import head

    spec = head("mean_pool")
    with pytest.raises(UsageError, match=r"cmdt=0.1: mean_pool gives no frames"):
        fit(fold, spec=spec, config=spec.preset(), recipe=TRAIN, seed=0)


@pytest.mark.slow
def test_a_step_at_the_paper_s_size_fits_a_cpu_with_24_gib() -> None:
    """Batch 32, 326 frames, 1024 wide, with CMDT, forward and backward; in a process of its own, whose memory is looked at."""
    import subprocess
    import sys

    code = """
import resource, torch
from tfser.heads import head
from tfser.heads.models.layer_mix import build_module
from tfser.heads.training.losses import cmdt
spec = head("tf_mamba")
config = spec.settled(spec.preset(), hop_s=0.02, longest=326, device="cpu")
model = build_module(spec, config, 1024, 4)
frames, lengths, labels = torch.randn(32, 326, 1024), torch.full((32,), 326), torch.arange(32) % 4
M = model.encode(frames, lengths)
loss = torch.nn.functional.cross_entropy(model.classify(M, lengths), labels) + 0.1 * cmdt(M, lengths, labels, 326, spec.recipe())
loss.backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 24
