"""How fast TF-Transformer trains over folds: the plain eager loop, our training, and folds stacked.

Each variant trains in a process of its own, on the same folds, from the same weights and on the same batches; the processes take
turns epoch by epoch, so that a busy neighbour hurts all alike. The first epoch of each sets things up and is not counted.

* ``plain``: torch's own Conv2d, BatchNorm2d, TransformerEncoderLayer and MultiheadAttention, float32, one fold at a time, and the
  C library's memory as it comes.
* ``ours``: what `tfser train` runs: the recipe's precision, kept memory.
* ``stacked vmap``, ``stacked streams``: `tfser.heads.training.together`, all folds at once.

Prints epochs x folds per second and each one's ratio to ``plain`` (on a CPU also that of the processor time taken, which a busy
machine disturbs less), and on a GPU how long the paper's protocol (10 folds, 1000
epochs) would take at that rate. Without --cache the data are random and of the size of IEMOCAP's improvised part (2280
utterances, about 13,600 segments of 80 frames; fewer on a CPU). The last loss, of the first fold, shows that all train alike.

    python benchmarks/sweep_speed.py                              # random data
    python benchmarks/sweep_speed.py --cache CACHE --corpus emodb --threads 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.pipeline.resources.memory import keep_freed_memory

if TYPE_CHECKING:
    from tfser.heads.spec.fold import FoldData
    from tfser.heads.spec.head import HeadSpec

VARIANTS = ("plain", "ours", "stacked vmap", "stacked streams")
_PROTOCOL = 10 * 1000  # epochs x folds of the paper


def main() -> None:
    """Print a row a variant."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--cache", type=Path, help="a cache that holds log-Mel features; random data without it")
    options.add_argument("--corpus", default="emodb", help="of the cache")
    options.add_argument("--utterances", type=int, help="of random data; 2280, and 120 on a CPU")
    options.add_argument("--recipe", default="paper", help="of tf_transformer")
    options.add_argument("--preset", default="full")
    options.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of all but plain")
    options.add_argument("--folds", type=int, help="trained by each variant; 10, and 2 on a CPU")
    options.add_argument("--rounds", type=int, default=3, help="epochs that are timed")
    options.add_argument("--threads", type=int)
    options.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    options.add_argument("--variants", default=",".join(VARIANTS), help="some of them, by commas")
    options.add_argument("--format", choices=("table", "json"), default="table")
    options.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        work(chosen)
        return
    result = measure(chosen)
    if chosen.format == "json":
        print(json.dumps(result, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in result["about"].items()))
    titles = (("epochs x folds / s", 20), ("ratio", 8), ("of CPU time", 13), ("eval share", 12))
    titles = (*titles, ("protocol h", 12), ("last loss", 12))
    print(f"{'variant':<18}" + "".join(f"{title:>{width}}" for title, width in titles))
    for row in result["rows"]:
        hours = "" if row["protocol_hours"] is None else f"{row['protocol_hours']:.2f}"
        ratio, cpu_ratio = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio", "cpu_ratio"))
        print(
            f"{row['variant']:<18}{row['epochs_folds_per_s']:>20.4f}{ratio:>8}{cpu_ratio:>13}{row['eval_share']:>12.2f}{hours:>12}"
            f"{row['last_loss']:>12.4f}  {row['note']}"
        )


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Let the variants take turns, and sum up."""
    names = [name.strip() for name in chosen.variants.split(",")]
    workers = {name: _Worker(name) for name in names}
    try:
        ready = {name: worker.answer() for name, worker in workers.items()}  # set up one after another, first epoch done
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(chosen.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                rounds[name].append(workers[name].turn())
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    about = ready[names[0]]["about"]
    rows = []
    for name in names:
        folds = ready[name]["folds"]
        rate = folds / statistics.median(turn["seconds"] for turn in rounds[name])
        rows.append(
            {
                "variant": name,
                "epochs_folds_per_s": rate,
                "cpu_s_per_epoch": statistics.median(turn["cpu_s"] for turn in rounds[name]) / folds,
                "ratio": None,
                "cpu_ratio": None,
                "eval_share": statistics.median(turn["eval_s"] / turn["seconds"] for turn in rounds[name]),
                "protocol_hours": _PROTOCOL / rate / 3600 if about["device"] != "cpu" else None,
                "last_loss": rounds[name][-1]["loss"],
                "note": ready[name]["note"],
            }
        )
    if "plain" in names:
        plain = rows[names.index("plain")]
        for row in rows:
            row["ratio"] = row["epochs_folds_per_s"] / plain["epochs_folds_per_s"]
            if about["device"] == "cpu":
                row["cpu_ratio"] = plain["cpu_s_per_epoch"] / row["cpu_s_per_epoch"]
    return {"about": about, "rows": rows}


class _Worker:
    """A variant's process: it trains an epoch of all its folds whenever it is sent a line."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self) -> dict[str, Any]:
        return self.turn()

    def turn(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a variant's process ended early; its message stands above")
        found: dict[str, Any] = json.loads(line)
        return found


def work(chosen: argparse.Namespace) -> None:
    """Train as one variant, an epoch of all folds for each line of the standard input."""
    if chosen.worker != "plain":
        keep_freed_memory()
    import torch

    from tfser.heads import head
    from tfser.heads.spec.fold import EpochRecord
    from tfser.heads.training.loop import Keeping, fit
    from tfser.heads.training.samples import plan
    from tfser.pipeline.resources.devices import processor

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    spec = head("tf_transformer")
    recipe = replace(spec.recipe(chosen.recipe), epochs=10_000, precision=chosen.precision)
    if chosen.worker == "plain":
        spec, recipe = plain_head(spec), replace(recipe, precision="float32")
    count = chosen.folds or (2 if device == "cpu" else 10)
    folds = of_cache(chosen.cache, chosen.corpus, count) if chosen.cache else made_up(chosen.utterances, count, device)
    together = chosen.worker.startswith("stacked")
    how = chosen.worker.partition(" ")[2]
    said: list[str] = []
    done: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> None:
        """Say how long the epochs took once all folds have had theirs, and wait for the next turn."""
        nonlocal began, busy
        done.append(record)
        if len(done) < (len(folds) if together else 1):
            return
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - busy
        about = {
            "device": device,
            "processor": processor(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "recipe": chosen.recipe,
            "batch": recipe.batch_size,
            "segments": segments,
        }
        evaluated = sum(of.eval_s for of in done)
        answer = {"seconds": seconds, "cpu_s": cpu_s, "eval_s": evaluated, "loss": done[0].loss, "folds": len(done)}
        print(json.dumps({**answer, "about": about, "note": "; ".join(said)}), flush=True)
        done.clear()
        wait()
        began, busy = time.perf_counter(), time.process_time()

    def wait() -> None:
        if not sys.stdin.readline():
            raise SystemExit

    config = spec.preset(chosen.preset)
    segments = len(plan(folds[0].features.offsets, folds[0].train, spec.segment_frames(config), recipe.train_hop))
    wait()
    began, busy = time.perf_counter(), time.process_time()
    if together:
        from tfser.heads.training.together import FitJob, fit_together

        jobs = [FitJob(data=data, seed=0, keeping=Keeping(on_epoch=on_epoch)) for data in folds]
        fit_together(jobs, spec=spec, config=config, recipe=recipe, device=device, how=how, on_note=said.append)
    else:
        fit(folds[0], spec=spec, config=config, recipe=recipe, seed=0, device=device, keeping=Keeping(on_epoch=on_epoch))


def made_up(utterances: int | None, folds: int, device: str) -> list[FoldData]:
    """Return folds of random frames: lengths spread as IEMOCAP's improvised turns, 80 bands, 4 classes, ten groups."""
    import numpy as np

    from tfser.heads.spec.fold import FoldData
    from tfser.pipeline.shards.packed import PackedFeatures

    n = utterances or (120 if device == "cpu" else 2280)
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(mean=5.86, sigma=0.63, size=n), 60, 3400).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = generator.integers(0, 4, n)
    frames = generator.standard_normal((int(offsets[-1]), 80), dtype=np.float32)
    frames += np.repeat(labels, lengths)[:, None] * np.float32(0.05)
    features = PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple(f"u{i}" for i in range(n)))
    group = generator.integers(0, 10, n)
    return [
        FoldData(
            features=features,
            labels=labels,
            classes=("a", "b", "c", "d"),
            train=np.flatnonzero(group != fold),
            val=np.array([], dtype=np.int64),
            test=np.flatnonzero(group == fold),
        )
        for fold in range(folds)
    ]


def of_cache(root: Path, corpus: str, folds: int) -> list[FoldData]:
    """Return the first folds of a corpus's default protocol."""
    from tfser.heads.runs.experiment import resolve
    from tfser.heads.runs.loaded import load
    from tfser.heads.runs.request import Request
    from tfser.heads.spec.fold import FoldData
    from tfser.manifests.cache import Cache

    cache = Cache(root)
    experiment = resolve(cache, Request(head="tf_transformer", corpus=corpus, device="cpu"))
    loaded = load(cache, experiment)
    return [
        FoldData(features=loaded.features, labels=loaded.labels, classes=experiment.classes, **loaded.sides[fold])
        for fold in experiment.folds[:folds]
    ]


def plain_head(spec: HeadSpec) -> HeadSpec:
    """Return the head made of torch's own layers, from the same weights."""
    import torch
    from torch import Tensor, nn

    from tfser.heads.models.blocks import TransformerLayer
    from tfser.heads.models.tf_transformer import ConvEncoder, TFTransformer, TFTransformerConfig, pool

    def encoder(of: ConvEncoder) -> nn.Sequential:
        channels, geometry = of.first.out_channels, (of.kernel, of.first.stride, of.first.padding)
        made = nn.Sequential(
            nn.Conv2d(1, channels, *geometry, bias=False),  # type: ignore[arg-type]
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, *geometry, bias=False),  # type: ignore[arg-type]
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        for place, theirs in ((0, of.first), (1, of.first_norm), (3, of.second), (4, of.second_norm)):
            made[place].load_state_dict(theirs.state_dict())
        return made

    def attention(of: TransformerLayer) -> nn.MultiheadAttention:
        made = nn.MultiheadAttention(of.query.in_features, of.heads, of.dropout, batch_first=True)
        with torch.no_grad():
            made.in_proj_weight.copy_(torch.cat([of.query.weight, of.key.weight, of.value.weight]))
            made.in_proj_bias.zero_()
            made.out_proj.load_state_dict(of.out.state_dict())
        return made

    def layer(of: TransformerLayer) -> nn.TransformerEncoderLayer:
        width = of.query.in_features
        made = nn.TransformerEncoderLayer(width, of.heads, of.feed_forward, of.dropout, batch_first=True)
        made.self_attn.load_state_dict(attention(of).state_dict())
        made.linear1.load_state_dict(of.inner.state_dict())
        made.linear2.load_state_dict(of.outer.state_dict())
        return made

    class Plain(nn.Module):
        """Eq. 1 to 11 of the full preset."""

        def __init__(self, config: TFTransformerConfig, dim: int, n_classes: int) -> None:
            super().__init__()
            of: Any = TFTransformer(config, dim, n_classes)
            self.time, self.frequency, self.joint = encoder(of.time), encoder(of.frequency), encoder(of.joint)
            self.time_layer, self.frequency_layer = layer(of.time_layer), layer(of.frequency_layer)
            self.to_query, self.to_key = of.to_query, of.to_key
            self.attention, self.joint_layer = attention(of.joint_layer), of.joint_layer
            joint = of.joint_layer
            self.feed_forward = nn.Sequential(joint.inner, nn.ReLU(), joint.outer)
            self.norms = nn.ModuleList([joint.attention_norm, joint.feed_forward_norm])
            del self.joint_layer
            self.classifier = of.classifier

        def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
            x = frames.transpose(1, 2)[:, None]  # (b, 1, f, d)
            q = self.time_layer(self.time(x).mean(dim=1).transpose(1, 2))  # (b, d, f/4)
            q = self.to_query(q.transpose(1, 2))  # (b, f/4, d/4)
            k = self.frequency_layer(self.frequency(x).mean(dim=1))  # (b, f, d/4)
            k = self.to_key(k.transpose(1, 2)).transpose(1, 2)  # (b, f/4, d/4)
            v = self.joint(x).mean(dim=1)  # (b, f/4, d/4)
            p = self.norms[0](v + self.attention(q, k, v, need_weights=False)[0])
            y = self.norms[1](p + self.feed_forward(p))
            logits: Tensor = self.classifier(pool(y))
            return logits

    return replace(spec, build=Plain, batch_norm=False)


if __name__ == "__main__":
    main()
