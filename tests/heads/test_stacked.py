"""Folds and seeds that are trained together give what they give alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tfser.heads import head
from tfser.heads.models.mean_pool import MeanPoolConfig
from tfser.heads.models.tf_mamba import TFMambaConfig
from tfser.heads.models.tf_transformer import ConvEncoder, TFTransformerConfig
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.finite import NotFiniteError
from tfser.heads.training.graphs import Graph, make_capturable, set_rate
from tfser.heads.training.joint_step import Group
from tfser.heads.training.loop import Keeping, Trainer, fit
from tfser.heads.training.parts import Batch
from tfser.heads.training.step import training_loss
from tfser.heads.training.together import (
    HOWS,
    TOLERANCE,
    FitJob,
    Stacking,
    choose_stacking,
    fit_together,
    provenance,
)
from tfser.manifests.errors import UsageError
from tfser.pipeline.shards.packed import PackedFeatures

from ..conftest import covering

MAMBA = TFMambaConfig(width=16, attention_heads=2, state=4, hidden=(8,), max_frames=37, scan="chunked", scan_heads=2)
SMALL: dict[str, Settings] = {
    "tf_transformer": TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint_feed_forward=8),
    "tf_transformer t_f": TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint=False),
    "mean_pool": MeanPoolConfig(hidden=(8,)),
    "tf_mamba": MAMBA,
    "tf_mamba frequency": replace(MAMBA, branches=("frequency",), filter="cutoff"),
}
RICH = Recipe(
    optimiser="adamw", lr=2e-3, weight_decay=0.01, schedule="cosine", warmup_epochs=1, epochs=3, batch_size=6,
    grad_clip=1.0, label_smoothing=0.1, class_weights="balanced", averaging=0.9, normalise="train",
    time_masks=1, time_mask_frames=4, gain_db=3, mixup=0.3,
)  # fmt: skip


def recipe_of(name: str, **changes: Any) -> Recipe:
    if name.startswith("tf_transformer"):
        return replace(RICH, **{"jitter": True, "speed": 0.1} | changes)
    return replace(RICH, **{"cmdt": 0.1 if name.startswith("tf_mamba") else 0.0} | changes)


def spec_of(name: str) -> HeadSpec:
    return head(name.partition(" ")[0])


@pytest.fixture
def folds(fold: FoldData) -> list[FoldData]:
    """Three folds of unequal sizes, of which the last one takes more steps an epoch."""
    everyone = np.arange(22)
    sides = [(np.arange(0, 9), np.arange(9, 12)), (np.arange(5, 16), np.arange(3)), (np.arange(2, 19), np.arange(0, 2))]
    return [replace(fold, train=train, val=val, test=np.setdiff1d(everyone, [*train, *val])) for train, val in sides]


def together(name: str, folds: list[FoldData], recipe: Recipe, how: str = "vmap", **options: Any) -> list[FitResult]:
    jobs = [FitJob(data=data, seed=7 + i) for i, data in enumerate(folds)]
    found = fit_together(jobs, spec=spec_of(name), config=SMALL[name], recipe=recipe, how=how, **options)  # type: ignore[arg-type]
    for result in found:
        assert isinstance(result, FitResult)
    return found  # type: ignore[return-value]


def alone(name: str, folds: list[FoldData], recipe: Recipe) -> list[FitResult]:
    return [fit(data, spec=spec_of(name), config=SMALL[name], recipe=recipe, seed=7 + i) for i, data in enumerate(folds)]


def assert_close(one: FitResult, other: FitResult, atol: float = 1e-4) -> None:
    assert [record.epoch for record in one.history] == [record.epoch for record in other.history]
    for a, b in zip(one.history, other.history, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-3)
        assert a.learning_rate == b.learning_rate
    assert one.selections.keys() == other.selections.keys()
    assert one.states.keys() == other.states.keys()
    last, theirs = one.selections["last"].test, other.selections["last"].test
    assert last is not None
    assert theirs is not None
    assert np.array_equal(last.utterance, theirs.utterance)
    np.testing.assert_allclose(last.utterance_probabilities, theirs.utterance_probabilities, atol=atol)
    for name, tensor in one.states["last"].items():
        torch.testing.assert_close(tensor, other.states["last"][name], atol=5 * atol, rtol=1e-3)


def trainers_of(name: str, folds: list[FoldData], recipe: Recipe) -> list[Trainer]:
    device = torch.device("cpu")
    return [Trainer(data, spec_of(name), SMALL[name], recipe, 7 + i, device) for i, data in enumerate(folds)]


def group_of(trainers: list[Trainer], how: str) -> Group:
    return Group(trainers, how, False, print)  # type: ignore[arg-type]


@pytest.mark.few(2)
@pytest.mark.parametrize("how", ["vmap", "streams"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in SMALL]
    + [(name, torch.float64) for name in ("tf_transformer", "mean_pool")],  # tf_mamba is partly in single precision
)
def test_a_steps_gradients_and_statistics_are_those_of_separate_training(
    name: str, how: str, dtype: torch.dtype, folds: list[FoldData]
) -> None:
    recipe = recipe_of(name, optimiser="sgd", lr=1e-12, grad_clip=0.0)  # the gradients are seen, and nothing moves
    stacked, separate = trainers_of(name, folds, recipe), trainers_of(name, folds, recipe)
    for trainer in (*stacked, *separate):
        trainer.model.to(dtype)
    group = group_of(stacked, how)
    for one, other in zip(stacked, separate, strict=True):
        for key, tensor in one.model.state_dict().items():  # weights begin the same, to the bit
            assert torch.equal(tensor, other.model.state_dict()[key])
    found = [last_batch(trainer, dtype) for trainer in stacked]
    assert len({len(of) for of in found}) > 1
    group._step(group._pad(found))
    for j, (one, other) in enumerate(zip(stacked, separate, strict=True)):
        other.model.train()
        batch = last_batch(other, dtype)
        assert torch.equal(batch.samples[0], found[j].samples[0])
        loss = training_loss(other.model, batch, other.class_weights, recipe, other.most)
        loss.backward()
        assert float(group.losses[j]) == pytest.approx(float(loss.detach()), rel=1e-5)
        expected = {key: gradient(parameter) for key, parameter in other.model.named_parameters()}
        whole = max(float(of.abs().max()) for of in expected.values())
        for key, parameter in one.model.named_parameters():
            # In double precision tensor by tensor; in single precision some gradients are sums that cancel, such as those of
            # biases that a layer norm takes away again, and hold the rounding of their terms.
            scale = whole if dtype == torch.float32 else float(expected[key].abs().max())
            assert float((gradient(parameter) - expected[key]).abs().max()) <= TOLERANCE * scale, key
        for (key, a), b in zip(one.model.named_buffers(), other.model.buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5, msg=key)


def last_batch(trainer: Trainer, dtype: torch.dtype) -> Batch:
    samples, lengths, targets = list(trainer.batches(1))[-1][2]
    return Batch((samples.to(dtype),), (lengths,), targets)


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "how"), covering(["tf_transformer", "mean_pool", "tf_mamba"], ["vmap", "streams"]))
def test_a_short_training_gives_the_same_probabilities(name: str, how: str, folds: list[FoldData]) -> None:
    recipe = recipe_of(name, epochs=2, warmup_epochs=1)
    for one, other in zip(together(name, folds, recipe, how), alone(name, folds, recipe), strict=True):
        assert_close(one, other)


def test_a_job_alone_in_its_group_equals_fit(folds: list[FoldData]) -> None:
    recipe = recipe_of("tf_transformer", epochs=1)
    assert_close(together("tf_transformer", folds[:1], recipe)[0], alone("tf_transformer", folds[:1], recipe)[0])


@pytest.mark.slow
def test_neither_order_nor_neighbours_matter(folds: list[FoldData]) -> None:
    recipe = recipe_of("tf_transformer", epochs=1)
    jobs = [FitJob(data=data, seed=7 + i) for i, data in enumerate(folds)]
    options: dict[str, Any] = {"spec": spec_of("tf_transformer"), "config": SMALL["tf_transformer"], "recipe": recipe}
    forward = fit_together(jobs, how="vmap", **options)
    backward = fit_together(jobs[::-1], how="vmap", **options)[::-1]
    pair = fit_together([jobs[2], jobs[0]], how="vmap", **options)[::-1]
    for one, other in [*zip(forward, backward, strict=True), (forward[0], pair[0]), (forward[2], pair[1])]:
        assert isinstance(one, FitResult)
        assert isinstance(other, FitResult)
        assert_close(one, other)
    for one, other in zip(forward, backward, strict=True):  # groups of the same jobs are the same
        for key, tensor in one.states["last"].items():  # type: ignore[union-attr]
            assert torch.equal(tensor, other.states["last"][key])  # type: ignore[union-attr]


@pytest.mark.slow
def test_bfloat16_trains_stacked(folds: list[FoldData]) -> None:
    for name in ("tf_transformer", "tf_mamba", "mean_pool"):
        recipe = recipe_of(name, precision="bfloat16", epochs=1)
        for one, other in zip(together(name, folds, recipe), alone(name, folds, recipe), strict=True):
            assert one.history[0].loss == pytest.approx(other.history[0].loss, rel=0.02)


@pytest.mark.slow
def test_a_stopped_group_goes_on_together_or_alone(folds: list[FoldData], tmp_path: Path) -> None:
    recipe = recipe_of("tf_transformer")
    seen: list[tuple[int, int]] = []

    def jobs(folder: Path, fatal: int = 0) -> list[FitJob]:
        def keeping(i: int) -> Keeping:
            def on_epoch(record: EpochRecord) -> None:
                seen.append((i, record.epoch))
                if record.epoch == fatal and len(seen) == len(folds):
                    raise KeyboardInterrupt

            return Keeping(checkpoint_dir=folder / str(i), checkpoint_every_s=0.0 if fatal else 60.0, on_epoch=on_epoch)

        return [FitJob(data=d, seed=7 + i, keeping=keeping(i)) for i, d in enumerate(folds)]

    options: dict[str, Any] = {"spec": spec_of("tf_transformer"), "config": SMALL["tf_transformer"], "recipe": recipe}
    whole = together("tf_transformer", folds, recipe)
    with pytest.raises(KeyboardInterrupt):
        fit_together(jobs(tmp_path, fatal=1), how="vmap", **options)
    assert sorted(seen) == [(0, 1), (1, 1), (2, 1)]
    # One goes on alone, and is an epoch ahead of the others when the group is formed again.
    ahead: list[int] = []

    def stop(record: EpochRecord) -> None:
        ahead.append(record.epoch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            folds[1],
            seed=8,
            keeping=Keeping(checkpoint_dir=tmp_path / "1", checkpoint_every_s=0.0, on_epoch=stop),
            **options,
        )
    assert ahead == [2]
    seen.clear()
    for one, other in zip(fit_together(jobs(tmp_path), how="vmap", **options), whole, strict=True):
        assert isinstance(one, FitResult)
        assert_close(one, other)
    assert sorted(seen) == [(0, 2), (0, 3), (1, 3), (2, 2), (2, 3)]
    seen.clear()
    again = fit_together(jobs(tmp_path), how="vmap", **options)  # nothing is left to do
    assert not seen
    assert all(isinstance(result, FitResult) for result in again)


@pytest.mark.few(1)
@pytest.mark.parametrize(("value", "reason"), [(np.inf, "'u5': its features are no numbers"), (3e38, "the loss of epoch 1 is")])
def test_a_job_that_diverges_does_not_take_others_with_it(folds: list[FoldData], value: float, reason: str) -> None:
    features = folds[1].features
    frames = features.frames.copy()
    first = int(folds[1].train[0])
    frames[features.offsets[first] : features.offsets[first + 1]] = value
    broken = PackedFeatures(frames=frames, offsets=features.offsets, utterance_ids=features.utterance_ids)
    recipe = recipe_of("mean_pool", normalise="none")
    jobs = [FitJob(data=data, seed=7 + i) for i, data in enumerate([folds[0], replace(folds[1], features=broken), folds[2]])]
    found = fit_together(jobs, spec=spec_of("mean_pool"), config=SMALL["mean_pool"], recipe=recipe, how="vmap")
    assert isinstance(found[1], NotFiniteError)
    assert reason in str(found[1])
    expected = alone("mean_pool", folds, recipe)
    for i in (0, 2):
        one = found[i]
        assert isinstance(one, FitResult)
        assert_close(one, expected[i])


def test_what_cannot_be_stacked_is_trained_one_by_one_and_says_why(folds: list[FoldData]) -> None:
    spec, recipe = head("mean_pool"), recipe_of("mean_pool")
    config = MeanPoolConfig(hidden=(8,), dropout=0.1)
    said: list[str] = []
    jobs = [FitJob(data=data, seed=7) for data in folds]
    found = fit_together(jobs, spec=spec, config=config, recipe=recipe, on_note=said.append)
    assert len(said) == 1
    assert "dropout" in said[0]
    for one, data in zip(found, folds, strict=True):
        other = fit(data, spec=spec, config=config, recipe=recipe, seed=7)
        assert isinstance(one, FitResult)
        assert all(torch.equal(tensor, other.states["last"][key]) for key, tensor in one.states["last"].items())
    with pytest.raises(UsageError, match="dropout"):
        fit_together(jobs, spec=spec, config=config, recipe=recipe, how="vmap")


@pytest.mark.parametrize(
    ("name", "device", "how", "graph"),
    [
        ("tf_transformer", "cpu", "none", False),
        ("tf_transformer", "cuda", "streams", True),
        ("mean_pool", "cuda", "vmap", False),
        ("tf_mamba", "cuda", "vmap", False),
    ],
)
def test_auto_chooses_by_device_and_head(name: str, device: str, how: str, graph: bool) -> None:
    stacking = choose_stacking(spec_of(name), SMALL[name], recipe_of(name), device)
    assert (stacking.how, stacking.graph) == (how, graph)
    assert stacking.reason


def test_the_fused_scan_and_unknown_ways_are_named() -> None:
    spec, config = head("tf_mamba"), replace(MAMBA, scan="mamba_ssm")
    assert choose_stacking(spec, config, RICH, "cuda").how == "none"
    with pytest.raises(UsageError, match="mamba-ssm"):
        choose_stacking(spec, config, RICH, "cuda", "vmap")
    assert "mix of layers" in choose_stacking(spec, MAMBA, RICH, "cuda", layers=25).reason
    with pytest.raises(UsageError, match="way of stacking"):
        choose_stacking(spec, config, RICH, "cuda", "pile")  # type: ignore[arg-type]
    assert HOWS[0] == "auto"


def test_provenance_holds_the_number_of_jobs_and_the_tolerance() -> None:
    stacking = Stacking(how="vmap", graph=False, reason="")
    assert provenance(stacking, 10) == {"stacked": 10, "stacked_by": "vmap", "gradient_tolerance": TOLERANCE}
    assert provenance(stacking, 1)["stacked"] == 1  # alone in its group, and still in the numbers of a stack
    assert provenance(replace(stacking, how="none"), 10) == {}


def test_no_jobs_are_no_results() -> None:
    for how in ("vmap", "auto"):
        assert fit_together([], spec=head("mean_pool"), config=MeanPoolConfig(), recipe=RICH, how=how) == []


def test_jobs_of_other_widths_or_classes_are_refused(folds: list[FoldData]) -> None:
    with pytest.raises(UsageError, match="one width"):
        together("mean_pool", [folds[0], replace(folds[1], classes=("x", "y", "z"))], recipe_of("mean_pool"))


@pytest.mark.parametrize("absent", [0, 3])
def test_batch_norm_leaves_out_samples_that_are_not_there(absent: int) -> None:
    torch.manual_seed(0)
    ours = ConvEncoder(4, (5, 5), (2, 2), (2, 2)).double()
    theirs = ConvEncoder(4, (5, 5), (2, 2), (2, 2)).double()
    theirs.load_state_dict(ours.state_dict())
    x = 3 + torch.randn(6, 8, 16, dtype=torch.float64)
    padded = torch.cat([x, 50 + torch.randn(absent, 8, 16, dtype=torch.float64)])
    present = torch.arange(6 + absent) < 6
    y, expected = ours(padded, present)[:6], theirs(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.eval()(x, present[:6]), theirs.eval()(x))


def test_batch_norm_of_those_that_are_there_writes_its_map_once() -> None:
    """A GPU is held up by memory here: a map that is masked, scaled and shifted one after the other is written four times."""

    class Maps(TorchDispatchMode):
        written = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            self.written += isinstance(found, Tensor) and found.numel() >= y.numel() and found.data_ptr() != y.data_ptr()
            return found

    encoder, y = ConvEncoder(4, (5, 5), (2, 2), (2, 2)).train(), torch.randn(6, 4, 8, 16)
    with torch.no_grad(), Maps() as maps:
        encoder._second_norm(y, torch.arange(6) < 5)
    assert maps.written == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["vmap", "streams"])
def test_making_a_graph_changes_nothing_and_replays_are_steps(
    how: str, folds: list[FoldData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU with a graph that only pretends: warm-ups are undone, and batches and rates reach the tensors that it reads."""

    class Pretended:
        batch: Any = None

        def replay(self) -> None:
            one.compute(self.batch or batch)

    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Pretended)
    recipe = recipe_of("tf_transformer")
    graphed, plain = (trainers_of("tf_transformer", folds, recipe) for _ in range(2))
    for trainer in graphed:
        make_capturable(trainer.optimiser, torch.device("cpu"))
    one, other = Group(graphed, how, True, print), group_of(plain, how)  # type: ignore[arg-type]
    before = [tensor.detach().clone() for tensor in one.state()]
    iterators = [[trainer.batches(1) for trainer in of] for of in (graphed, plain)]
    for number in range(2):
        found = [[next(batches) for batches in of] for of in iterators]
        for trainers, of in zip((graphed, plain), found, strict=True):
            for trainer, (_, rate, _) in zip(trainers, of, strict=True):
                set_rate(trainer.optimiser, rate)
        batch = one._pad([batch for _, _, batch in found[0]])
        if number == 0:
            one.graph = Graph(one, batch, one.compute)
            one.graph.graph.batch = one.graph.batch  # type: ignore[attr-defined]
            after = one.state()
            assert all(torch.equal(tensor, value) for tensor, value in zip(after, before, strict=False))
            assert len(after) > len(before)
            assert not any(tensor.any() for tensor in after[len(before) :])  # moments and numbers of steps
        one._step(batch)
        other._step(other._pad([batch for _, _, batch in found[1]]))
        torch.testing.assert_close(one.losses, other.losses)
        for name, weights in one.weights.items():
            torch.testing.assert_close(weights, other.weights[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("how", ["vmap", "streams"])
def test_a_graph_of_a_step_gives_the_same_probabilities(how: str, folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    recipe = recipe_of("tf_transformer")
    said: list[str] = []
    found = together("tf_transformer", folds, recipe, how, device="cuda", on_note=said.append)
    assert not said  # the graph was made
    expected = [
        fit(data, spec=spec_of("tf_transformer"), config=SMALL["tf_transformer"], recipe=recipe, seed=7 + i, device="cuda")
        for i, data in enumerate(folds)
    ]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_that_cannot_be_made_is_said_once(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr("torch.cuda.CUDAGraph", refuse)
    said: list[str] = []
    recipe = recipe_of("tf_transformer")
    found = together("tf_transformer", folds, recipe, "streams", device="cuda", on_note=said.append)
    assert len(said) == 1
    assert "operation not permitted" in said[0]
    for one, other in zip(found, alone("tf_transformer", folds, recipe), strict=True):
        assert_close(one, other, atol=1e-2)
