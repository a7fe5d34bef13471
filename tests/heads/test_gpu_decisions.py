"""What is decided for a GPU, shown on a CPU: what is stacked, copied, waited for, and what becomes of too little memory.

Each test pretends the one thing that a CPU lacks (a graph, an error, a flag), and fails where the decision is another.
`benchmarks/gpu_check.py` shows the same things on a real GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tfser.heads import head
from tfser.heads.models.mean_pool import MeanPoolConfig
from tfser.heads.spec.fold import FitResult, FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training import graphs, joint_step, loop, predict, together
from tfser.heads.training.graphs import Graph, GraphedSteps, make_capturable, set_rate
from tfser.heads.training.joint_step import Group
from tfser.heads.training.loop import Keeping, Trainer, fit
from tfser.heads.training.samples import FrameStore, placed
from tfser.heads.training.step import move_average
from tfser.heads.training.together import LARGE_STEP, FitJob, choose_stacking, fit_together, step_size
from tfser.manifests.errors import TfserError
from tfser.pipeline.resources.devices import computing_on

CONFIG = MeanPoolConfig(hidden=(8,))
RECIPE = Recipe(epochs=2, batch_size=4, optimiser="adamw", lr=1e-3)
CPU = torch.device("cpu")


@pytest.fixture
def folds(fold: FoldData) -> list[FoldData]:
    """Four folds of 8 to 11 training utterances."""
    sides = [np.arange(k, k + 8 + k) for k in range(4)]
    return [replace(fold, train=train, val=np.zeros(0, np.int64), test=np.setdiff1d(np.arange(22), train)) for train in sides]


def trainers_of(folds: list[FoldData], recipe: Recipe = RECIPE) -> list[Trainer]:
    return [Trainer(data, head("mean_pool"), CONFIG, recipe, i, CPU) for i, data in enumerate(folds)]


# What is stacked.


def test_the_fused_scan_is_never_stacked_not_even_of_slices() -> None:
    spec = head("tf_mamba")
    config = replace(spec.preset(), scan="mamba_ssm", width=32, max_frames=100)
    for recipe in (spec.recipe(), replace(spec.recipe(), slice_frames=50)):
        assert choose_stacking(spec, config, recipe, "cuda").how == "none"


def test_steps_that_fill_a_gpu_are_not_stacked_unless_asked() -> None:
    spec = head("tf_mamba")
    config = replace(spec.preset(), scan="chunked", max_frames=500)
    large, small = (choose_stacking(spec, config, spec.recipe(), "cuda", dim=dim) for dim in (1024, 64))
    assert large.how == "none" and "busy" in large.reason
    assert small.how == "vmap"
    assert choose_stacking(spec, config, spec.recipe(), "cuda", "vmap", dim=1024).how == "vmap"  # asked for
    assert step_size(spec, config, spec.recipe(), 1024) == pytest.approx(3 * 20_775_652 * 32 * 500)
    other = head("tf_transformer")
    assert step_size(other, other.preset(), other.recipe("paper"), 80) < LARGE_STEP
    assert choose_stacking(other, other.preset(), other.recipe("paper"), "cuda").how == "streams"


# Memory.


@pytest.mark.slow
def test_a_group_that_does_not_fit_is_halved_and_gives_the_same_numbers(
    folds: list[FoldData], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_epoch = Group.run_epoch

    def short_of_memory(self: Group) -> Any:
        if len(self.trainers) > 2 and len(self.trainers[0].history) == 1:  # after an epoch: weights have moved
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_epoch(self)

    monkeypatch.setattr(Group, "run_epoch", short_of_memory)
    heard: list[list[int]] = [[] for _ in folds]
    jobs = [
        FitJob(data=data, seed=i, keeping=Keeping(on_epoch=lambda record, i=i: heard[i].append(record.epoch)))  # type: ignore[misc]
        for i, data in enumerate(folds)
    ]
    said: list[str] = []
    found = fit_together(jobs, spec=head("mean_pool"), config=CONFIG, recipe=RECIPE, how="vmap", on_note=said.append)
    assert len(said) == 1 and "4 trainings of mean_pool at once do not fit" in said[0] and "2 at a time" in said[0]
    assert heard == [[1, 2]] * 4  # nobody hears of an epoch twice
    for i, (one, data) in enumerate(zip(found, folds, strict=True)):
        other = fit(data, spec=head("mean_pool"), config=CONFIG, recipe=RECIPE, seed=i)
        assert isinstance(one, FitResult) and one.together == 2
        for name, tensor in one.states["last"].items():
            torch.testing.assert_close(tensor, other.states["last"][name], atol=1e-5, rtol=1e-4)


def test_one_that_does_not_fit_says_what_to_do(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Group, "run_epoch", full)
    monkeypatch.setattr(Trainer, "train_epoch", full)
    with pytest.raises(TfserError, match=r"cpu: a training of mean_pool does not fit into its memory; take a smaller batch"):
        fit_together([FitJob(data=folds[0], seed=0)], spec=head("mean_pool"), config=CONFIG, recipe=RECIPE, how="vmap")
    with pytest.raises(TfserError, match=r"cpu: a training of mean_pool does not fit into its memory; take a smaller batch"):
        fit(folds[0], spec=head("mean_pool"), config=CONFIG, recipe=RECIPE, seed=0)
    monkeypatch.setattr(torch, "from_numpy", full)
    with pytest.raises(TfserError, match=r"GB of frames do not fit .* one layer"):
        placed(folds[0].features.frames, CPU)


def test_folds_that_share_their_features_hold_one_copy(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []

    def copied(frames: Any, device: torch.device) -> Tensor:
        made.append(placed(frames, device).clone())
        return made[-1]

    monkeypatch.setattr(together, "placed", copied)
    monkeypatch.setattr("tfser.heads.training.samples.placed", lambda *_: pytest.fail("a second copy"))
    jobs = [FitJob(data=data, seed=0) for data in folds]
    fit_together(jobs, spec=head("mean_pool"), config=CONFIG, recipe=RECIPE, how="streams")
    assert len(made) == 1


def test_too_little_memory_is_no_reason_for_another_way_of_computing(
    folds: list[FoldData], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    group = Group(trainers_of(folds), "streams", True, said.append)
    batch = group._pad([next(trainer.batches(1))[2] for trainer in group.trainers])

    def raising(error: type[RuntimeError]) -> Any:
        def make(*_: object) -> Graph:
            raise error("no")

        return make

    monkeypatch.setattr(joint_step, "Graph", raising(torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        group._step(batch)
    assert not said
    monkeypatch.setattr(joint_step, "Graph", raising(RuntimeError))
    group._step(batch)  # without a graph
    assert group.how == "streams" and not group.wants_graph and len(said) == 1
    assert not group.losses.isinf().any() and group.losses.all()


# Graphs, devices and precision.


@pytest.fixture
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's streams and captures, of which nothing happens."""

    @contextmanager
    def nothing(*_: object) -> Iterator[None]:
        yield

    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)


@pytest.mark.usefixtures("no_streams")
def test_a_graph_that_does_nothing_is_refused(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    group = Group(trainers_of(folds), "vmap", True, print)
    batch = group._pad([next(trainer.batches(1))[2] for trainer in group.trainers])
    assert isinstance(batch, dict)
    before = [tensor.detach().clone() for tensor in group.weights.values()]
    with pytest.raises(RuntimeError, match="does nothing"):
        Graph(group, batch, group.compute)
    assert all(torch.equal(a, b) for a, b in zip(before, group.weights.values(), strict=True))


def test_steps_that_not_all_jobs_have_are_graphs_as_well(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Pretended:
        def __init__(self, group: Group, batch: Any, compute: Any) -> None:
            self.compute, self.replays = compute, 0
            made.append(self)

        def replay(self, batch: Any) -> None:
            self.replays += 1
            self.compute(batch)

    monkeypatch.setattr(joint_step, "Graph", Pretended)
    monkeypatch.setattr(joint_step, "training_loss", counted := _counting(joint_step.training_loss))
    uneven = [folds[0], folds[3]]  # 8 and 11 training utterances: 2 and 3 steps
    graphed, plain = (Group(trainers_of(uneven), how, graph, print) for how, graph in (("streams", True), ("streams", False)))
    records = graphed.run_epoch()
    assert [graph.replays for graph in made] == [2, 1]
    assert counted.calls == 2 * 2 + 1  # each by the loss of a filled batch
    for one, other in zip(records, plain.run_epoch(), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)  # type: ignore[union-attr]


class Recorded:
    """A graph that pretends: it computes when it is replayed, and counts."""

    made: list[Recorded]

    def __init__(self, owner: Any, batch: Any, compute: Any, warm_ups: int = 3, pool: Any = None) -> None:
        self.compute, self.shape, self.warm_ups, self.replays = compute, tuple(batch["samples"].shape[:2]), warm_ups, 0
        self.made.append(self)

    def replay(self, batch: Any) -> None:
        assert batch["samples"].shape[:2] == self.shape
        self.replays += 1
        self.compute(batch)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["whole", "segments"])
def test_a_single_training_s_steps_are_graphs_of_few_shapes(
    kind: str, folds: list[FoldData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths of 9 to 37 frames are filled up to a multiple of 8, and the numbers are those of steps that are launched."""
    Recorded.made = []
    monkeypatch.setattr(graphs, "Graph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    changes: dict[str, Any] = {"grad_clip": 1.0, "averaging": 0.9, "optimiser": "adam"}
    graphed, launched = (joint_trainers([folds[3]], kind, **changes)[0] for _ in range(2))
    graphed.graphed = GraphedSteps(graphed)
    make_capturable(launched.optimiser, CPU)  # which rounds otherwise than the plain optimiser
    for _ in range(2):
        one, other = graphed.run_epoch(), launched.run_epoch()
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    for (key, weights), value in zip(graphed.model.state_dict().items(), launched.model.state_dict().values(), strict=True):
        torch.testing.assert_close(weights, value, atol=1e-5, rtol=1e-4, msg=key)
    made = Recorded.made
    assert sum(graph.replays for graph in made) == 2 * graphed.steps()
    assert len({graph.shape for graph in made}) == len(made)  # none twice
    assert [graph.warm_ups for graph in made] == [3] + [1] * (len(made) - 1)
    lengths = {graph.shape[1] for graph in made}
    assert lengths <= ({16} if kind == "segments" else {16, 24, 32, 37})  # never beyond the longest that there is


def test_steps_that_cannot_be_graphs_are_launched(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a head asks the device for a number, or there is too little memory: it is tried once."""
    tries: list[int] = []

    def refuse(*_: object) -> Graph:
        tries.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graphs, "Graph", refuse)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    graphed, launched = (trainers_of([folds[0]])[0] for _ in range(2))
    graphed.graphed = GraphedSteps(graphed)
    assert graphed.run_epoch().loss == pytest.approx(launched.run_epoch().loss, rel=1e-6)
    assert len(tries) == 1


def test_which_trainings_are_graphs(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    (trainer,) = trainers_of([folds[0]])
    assert GraphedSteps.why_launched(trainer) == "only a GPU has graphs"
    trainer.device = torch.device("cuda")
    assert GraphedSteps.why_launched(trainer) is None
    with monkeypatch.context() as patch:
        patch.setattr(FrameStore, "is_streamed", True)
        assert "streamed" in (GraphedSteps.why_launched(trainer) or "")
    trainer.parts = 2
    assert "parts" in (GraphedSteps.why_launched(trainer) or "")
    trainer.parts, trainer.recipe = 1, replace(trainer.recipe, optimiser="sgd")
    assert "counts steps" in (GraphedSteps.why_launched(trainer) or "")


def test_a_rate_that_stays_is_not_launched_again(folds: list[FoldData]) -> None:
    (trainer,) = trainers_of([folds[0]])
    make_capturable(trainer.optimiser, CPU)
    rates = [group["lr"] for group in trainer.optimiser.param_groups]
    set_rate(trainer.optimiser, 0.5)
    assert all(float(rate) == 0.5 for rate in rates)
    versions = [rate._version for rate in rates]
    set_rate(trainer.optimiser, 0.5)
    assert [rate._version for rate in rates] == versions
    set_rate(trainer.optimiser, 0.25)
    assert all(float(rate) == 0.25 for rate in rates)


def test_jobs_that_are_computed_apart_are_padded_to_their_own_longest(folds: list[FoldData]) -> None:
    short = replace(folds[0], train=np.array([0, 5, 10]), test=np.array([1]))  # of 9 frames each; the others go up to 37
    group = Group(trainers_of([short, folds[1]]), "streams", False, print)
    batches = [next(trainer.batches(1))[2] for trainer in group.trainers]
    longest = [int(batch.lengths[0].max()) for batch in batches]
    assert longest[0] == 9 < longest[1]
    assert [of["samples"].shape[1] for of in group._pad(batches)] == longest  # type: ignore[index]


JOINT: dict[str, tuple[str, Recipe]] = {
    "whole": ("mean_pool", RECIPE),
    "whole, speakers": ("mean_pool", replace(RECIPE, normalise="speaker")),
    "cut": ("mean_pool", replace(RECIPE, cut_frames=12)),
    "segments": ("tf_transformer", RECIPE),
    "moved, at a pace": ("tf_transformer", replace(RECIPE, jitter=True, speed=0.2, train_hop=5, normalise="utterance")),
}


def joint_trainers(folds: list[FoldData], kind: str, **changes: Any) -> list[Trainer]:
    """Trainers on one copy of their frames, as a group has them."""
    name, recipe = JOINT[kind]
    recipe = replace(recipe, **changes)
    spec = head(name)
    small = {"segment_frames": 16, "channels": 2, "feed_forward": 4, "joint_feed_forward": 4}
    config = CONFIG if name == "mean_pool" else replace(spec.preset(), **small)
    frames = placed(folds[0].features.frames, CPU)
    return [Trainer(data, spec, config, recipe, i, CPU, frames) for i, data in enumerate(folds)]


@pytest.mark.parametrize("kind", JOINT)
def test_one_gather_reads_what_each_job_would_read(kind: str, folds: list[FoldData]) -> None:
    """To the bit, over two epochs: samples that are not there included."""
    uneven = [folds[0], folds[1]]  # 8 and 9 utterances: batches of 4, 4 and of 3, 3, 3
    one, other = (Group(joint_trainers(uneven, kind), "vmap", False, print) for _ in range(2))
    assert one.maker is not None
    absent = 0
    for epoch in (1, 2):
        draws = [[trainer.draws(epoch) for trainer in group.trainers] for group in (one, other)]
        for _ in range(min(trainer.steps() for trainer in one.trainers)):
            joint = one._read([next(of) for of in draws[0]])
            makers = [trainer.maker for trainer in other.trainers]
            apart = other._pad([maker.make(next(of)) for maker, of in zip(makers, draws[1], strict=True)])
            assert isinstance(joint, dict) and isinstance(apart, dict) and joint.keys() == apart.keys()
            for name, tensor in joint.items():
                assert tensor.dtype == apart[name].dtype and torch.equal(tensor, apart[name]), name
            absent += int((~joint["present"]).sum())
    assert absent or kind == "moved, at a pace"  # whose batches happen to be full


@pytest.mark.parametrize("kind", JOINT)
def test_a_step_s_batches_take_no_more_operations_for_more_jobs(kind: str, folds: list[FoldData]) -> None:
    class Launches(TorchDispatchMode):
        """Counts operations on tensors as large as a job's rows or larger, on whatever device."""

        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            self.count += isinstance(found, Tensor) and found.ndim > 1 and found.shape[-1] == folds[0].features.frames.shape[1]
            return found

    counts = []
    for number in (1, 4):
        group = Group(joint_trainers(folds[:number], kind), "vmap", False, print)
        draws = [next(trainer.draws(1)) for trainer in group.trainers]
        with Launches() as launches:
            group._read(draws)
        counts.append(launches.count)
    assert counts[0] == counts[1] > 0


def test_what_a_job_draws_or_weighs_by_itself_is_gathered_apart(folds: list[FoldData]) -> None:
    assert Group(joint_trainers(folds, "whole"), "vmap", False, print).maker is not None
    for changes in ({"time_masks": 1, "time_mask_frames": 3}, {"mixup": 0.2}):
        assert Group(joint_trainers(folds, "whole", **changes), "vmap", False, print).maker is None
    copied = joint_trainers(folds, "whole")
    copied[1].store.frames = copied[1].store.frames.clone()
    assert Group(copied, "vmap", False, print).maker is None
    group = Group(joint_trainers(folds, "whole"), "streams", False, print)  # at a length of its own each
    assert isinstance(group._read([next(trainer.draws(1)) for trainer in group.trainers]), list)


def _counting(function: Any) -> Any:
    def counted(*args: Any, **named: Any) -> Any:
        counted.calls += 1  # type: ignore[attr-defined]
        return function(*args, **named)

    counted.calls = 0  # type: ignore[attr-defined]
    return counted


def test_the_device_that_is_named_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []

    @contextmanager
    def guard(device: Any) -> Iterator[None]:
        entered.append(device)
        yield
        entered.append("left")

    monkeypatch.setattr(torch.cuda, "device", guard)
    with computing_on(torch.device("cuda:1")):
        assert entered == [torch.device("cuda:1")]
    assert entered[1:] == ["left"]
    with computing_on(CPU):
        assert len(entered) == 2


def test_trainings_and_predictions_guard_their_device(folds: list[FoldData], monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 is float32 while they compute, and the process is as it was afterwards, whatever happened."""
    flags: list[bool] = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    def note(*_: object) -> None:
        flags.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)

    data, spec = folds[0], head("mean_pool")
    result = fit(data, spec=spec, config=CONFIG, recipe=RECIPE, seed=0, keeping=Keeping(on_epoch=note))
    fit_together([FitJob(data=data, seed=0, keeping=Keeping(on_epoch=note))], spec=spec, config=CONFIG, recipe=RECIPE, how="vmap")
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda *a, **n: (note(), softmax(*a, **n))[1])
    predict.predict(
        predict.TrainedState(state=result.states["last"], spec=spec, config=CONFIG, recipe=RECIPE, n_classes=3), data.features
    )
    assert flags and not any(flags)
    assert torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), computing_on(CPU), computing_on(CPU):
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32


# Waiting for the device.


class Fetches(TorchDispatchMode):
    """Counts numbers that are fetched from tensors, for which the host waits until a GPU has done all its work."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("parts", [None, 3])
def test_no_number_is_fetched_while_batches_are_made_and_losses_computed(fold: FoldData, parts: int | None) -> None:
    recipe = replace(RECIPE, parts=parts, time_masks=1, time_mask_frames=3)
    trainer = Trainer(fold, head("mean_pool"), CONFIG, recipe, 0, CPU)
    with Fetches() as fetches:
        for _, _, batch in trainer.batches(1):
            loop.training_loss(trainer.model, batch, trainer.class_weights, recipe, None).backward()  # type: ignore[no-untyped-call]
    assert fetches.count == 0


def test_an_evaluation_copies_its_predictions_once(fold: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(fold, head("mean_pool"), CONFIG, RECIPE, 0, CPU)
    monkeypatch.setattr(predict, "_UTTERANCES", 2)
    monkeypatch.setattr(torch.Tensor, "cpu", counted := _counting(torch.Tensor.cpu))
    found = predict.evaluate(trainer.model, trainer.store, trainer.test_layout, None)
    assert len(found.utterance) == 6 and counted.calls == 1


def test_averages_move_in_one_operation(fold: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = head("tf_transformer")
    one, other = (spec.build(replace(spec.preset(), channels=2, feed_forward=4, joint_feed_forward=4), 16, 3) for _ in range(2))
    expected = {
        name: mean.lerp(other.state_dict()[name], 0.25) if mean.is_floating_point() else other.state_dict()[name].clone()
        for name, mean in one.state_dict().items()
    }
    monkeypatch.setattr(torch, "_foreach_lerp_", counted := _counting(torch._foreach_lerp_))
    move_average(one, other, 0.25)
    assert counted.calls == 1
    assert all(torch.equal(one.state_dict()[name], value) for name, value in expected.items())
