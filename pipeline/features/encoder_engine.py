"""The engine of encoders: rows in, the frames of the wanted layers out, with nothing computed that is not needed.

Utterances are sorted by length and dealt into blocks of a budget of seconds, so that little of a batch is padding. Threads decode
and resample the blocks to come while the encoder is at work; with several devices, each has an encoder of its own and takes the
next block that is free. A batch that does not fit into a device's memory is tried again in halves, and the budget stays halved.
A GPU has two blocks in flight: the next is launched before the last is waited for.

On a CPU the default is one piece at a time: it is as fast as any batch there, pads nothing and gives the very numbers of the file
alone.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tfser.manifests.errors import TfserError
from tfser.pipeline.features.engine import AudioRow, Compute, Engine, Frames, Load, Result, Samples
from tfser.pipeline.resources.devices import choose_device
from tfser.pipeline.scanning.measure import threads_for
from tfser.pipeline.sound.audio import MAX_DURATION_S
from tfser.pipeline.sound.video import MissingExtraError

if TYPE_CHECKING:
    from tfser.pipeline.features.encoders.encoder import Encoder, Launched
    from tfser.pipeline.features.encoders.exact import Moments
    from tfser.pipeline.features.encoders.spec import EncoderSpec

_AHEAD = 2
"""Blocks that are decoded beyond those that the devices are at work on."""

_WAITING_BYTES = 1 << 28
"""Of frames that wait for the disk: of all layers of an encoder one utterance has tens of megabytes, a long one hundreds."""

_AHEAD_S = MAX_DURATION_S
"""Seconds of audio that are decoded ahead at most, so that a corpus of long recordings takes the memory of one or two."""

_SMALL_BLOCK_S = 30.0
"""Seconds of audio in a block where the device takes one piece at a time: enough to keep the decoding threads busy."""


def encoder_engine(spec: EncoderSpec, on: Callable[[str], Encoder] | None = None) -> Engine:
    """Return the engine of an encoder; `on` gives the encoder on a device, freshly loaded unless somebody keeps it."""

    def engine(rows: Sequence[AudioRow], load: Load, compute: Compute) -> Iterator[Result]:
        from tfser.pipeline.features.encoders.loading import load as load_encoder  # torch, once there is something to compute

        make = on or partial(load_encoder, spec)
        encoders = [make(choose_device(device)) for device in compute.devices]
        batchers = [Batcher(spec, encoder, compute) for encoder in encoders]
        yield from _run(blocks(spec, rows, batchers[0].budget_s), load, batchers, threads_for(compute.workers))

    return engine


def keep_loaded(spec: EncoderSpec) -> Callable[[str], Encoder]:
    """Return what loads an encoder once a device, however often it is asked for."""

    @functools.cache
    def load(device: str) -> Encoder:
        from tfser.pipeline.features.encoders.loading import load as load_encoder

        return load_encoder(spec, device)

    return load


def blocks(spec: EncoderSpec, rows: Sequence[AudioRow], budget_s: float | None) -> list[list[AudioRow]]:
    """Deal rows into blocks, the longest first: each no more than a budget of padded seconds, or one row.

    The longest come first so that what does not fit shows at once, and so that several devices end together.
    """
    budget = _SMALL_BLOCK_S if budget_s is None else budget_s
    dealt: list[list[AudioRow]] = []
    count, longest = 0, 0.0
    for row in sorted(rows, key=lambda row: (-row.duration_s, row.utterance_id)):
        pieces = spec.windows(max(1, round(row.duration_s * spec.sample_rate_hz)))
        piece_s = spec.computed_s(max(stop - start for start, stop in pieces))
        count, longest = count + len(pieces), max(longest, piece_s)  # a long row's windows may be shorter than the next row
        if not dealt or count * longest > budget:
            dealt.append([])
            count, longest = len(pieces), piece_s
        dealt[-1].append(row)
    return dealt


@dataclass(frozen=True)
class _Piece:
    """A window of an utterance of a block: which utterance, its samples, and what it has to know of all of it."""

    utterance: int
    samples: Samples
    moments: Moments | None


class Batcher:
    """Runs the pieces of a block through one encoder, in batches that its device's memory holds.

    Attributes:
        budget_s: seconds of audio in a batch, padding included; None: one piece at a time.
    """

    def __init__(self, spec: EncoderSpec, encoder: Encoder, compute: Compute) -> None:
        self.spec, self.encoder, self.tell = spec, encoder, compute.tell
        self.budget_s = compute.max_batch_seconds or encoder.batch_seconds_default

    def run(self, samples: Sequence[Samples]) -> list[tuple[Frames, ...]]:
        """Return the frames of each utterance, one array (t, dim) for each output of the encoder.

        ``samples`` are (n,) each, as `EncoderSpec.prepare` gives them.

        Raises:
            TfserError: one piece alone does not fit into memory.
        """
        return self.begin(samples)()

    def begin(self, samples: Sequence[Samples]) -> Callable[[], list[tuple[Frames, ...]]]:
        """Begin what `run` does, and return what waits for it: a GPU may be at work on it for a while yet.

        Raises:
            TfserError: one piece alone does not fit into memory.
        """
        # Windows of an utterance need its moments (a group norm over all of it), which are computed once and
        # before it is cut.
        pieces: list[_Piece] = []
        for i, whole in enumerate(samples):
            windows = self.spec.windows(len(whole))
            moments = self.encoder.moments(whole) if len(windows) > 1 else None
            pieces += [_Piece(i, whole[start:stop], moments) for start, stop in windows]
        launched: list[tuple[list[int], Launched]] = []
        # The longest first: if a batch does not fit, it shows at once, and every later one is smaller.
        waiting = deque(sorted(range(len(pieces)), key=lambda p: -len(pieces[p].samples)))
        while waiting:
            batch = self._next(pieces, waiting)
            try:
                work = self.encoder.launch([pieces[p].samples for p in batch], [pieces[p].moments for p in batch])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._shrink(pieces, batch, error)
                waiting.extendleft(reversed(batch))
                continue
            launched.append((batch, work))
        return partial(self._collect, [len(whole) for whole in samples], [piece.utterance for piece in pieces], launched)

    def _collect(
        self, lengths: Sequence[int], utterances: Sequence[int], launched: Sequence[tuple[list[int], Launched]]
    ) -> list[tuple[Frames, ...]]:
        """Wait for batches of pieces, and return the frames of utterances of so many samples, of which the pieces are."""
        results: dict[int, tuple[Frames, ...]] = {}
        for batch, work in launched:
            results |= zip(batch, work.frames(), strict=True)
        by_utterance: list[list[tuple[Frames, ...]]] = [[] for _ in lengths]
        for p, utterance in enumerate(utterances):
            by_utterance[utterance].append(results[p])
        return [
            tuple(self.spec.stitch(list(parts), length) for parts in zip(*of, strict=True))
            for length, of in zip(lengths, by_utterance, strict=True)
        ]

    def _next(self, pieces: Sequence[_Piece], waiting: deque[int]) -> list[int]:
        """Take the next batch: pieces as long as the first, which is the longest, fit into the budget."""
        batch = [waiting.popleft()]
        if self.budget_s is not None:
            longest_s = self.spec.computed_s(len(pieces[batch[0]].samples))
            while waiting and (len(batch) + 1) * longest_s <= self.budget_s:
                batch.append(waiting.popleft())
        return batch

    def _shrink(self, pieces: Sequence[_Piece], batch: Sequence[int], error: BaseException) -> None:
        """Halve the budget after a batch that did not fit."""
        seconds = len(batch) * self.spec.computed_s(len(pieces[batch[0]].samples))
        if len(batch) == 1:
            raise TfserError(
                f"{self.encoder.device}: {seconds:.0f} s of audio do not fit into its memory by themselves; take another device, "
                "a smaller encoder, --precision bfloat16, or shorter chunks (--set chunk_s=20)"
            ) from error
        _free(self.encoder)
        self.budget_s = seconds / 2
        self.tell(f"{self.encoder.device}: out of memory at {seconds:.0f} s a batch; going on with {self.budget_s:.0f} s")


def _free(encoder: Encoder) -> None:
    """Hand back the memory that a batch which did not fit has left behind."""
    if encoder.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or, as torch words it, on a CPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


_Decoded = tuple[AudioRow, Samples | TfserError]
_Message = tuple[Result | None, BaseException | None]
"""A result, or what stopped a device; (None, None) when a device has nothing left to do."""


def _run(todo: Sequence[Sequence[AudioRow]], load: Load, batchers: Sequence[Batcher], threads: int) -> Iterator[Result]:
    """Yield results as devices finish blocks."""
    # Three kinds of threads: a pool decodes ahead, one thread a device computes, and this one, which the caller
    # drives, hands results to the disk. None waits for a slower one longer than its queue is.
    results = _Results()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        spec = batchers[0].spec
        source = _Source(todo, lambda row: _decode(row, load, spec), pool, ahead=len(batchers) + _AHEAD)

        # Whatever stops a device travels as a message, BaseException too: a thread that dies in silence would
        # leave the reader waiting for ever.
        def work(batcher: Batcher) -> None:
            try:
                for result in _finish(batcher, source.blocks(lambda: results.stopped)):
                    results.put((result, None))
                results.put((None, None))
            except BaseException as error:
                results.put((None, error))

        workers = [threading.Thread(target=work, args=(batcher,), daemon=True) for batcher in batchers]
        for worker in workers:
            worker.start()
        try:
            at_work = len(workers)
            while at_work:
                result, error = results.get()
                if error is not None:
                    raise error
                if result is None:
                    at_work -= 1
                else:
                    yield result
        # Also where the caller stops early (Ctrl-C, a full disk): nothing more is decoded, and threads are
        # joined, so that no encoder is freed while it computes.
        finally:
            results.stop()
            source.cancel()
            for worker in workers:
                worker.join()  # at most the batch that it is at


class _Results:
    """Hands results from the devices to the disk; a device waits while too many bytes of them do."""

    def __init__(self) -> None:
        self.stopped = False
        self._messages: deque[tuple[_Message, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, message: _Message) -> None:
        """Hand a message over, unless nobody listens any more. One alone is taken, however large."""
        result, _ = message
        size = sum(frames.nbytes for frames in result.frames or ()) if result is not None else 0
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or not self._messages or self._bytes + size <= _WAITING_BYTES)
            if not self.stopped:
                self._messages.append((message, size))
                self._bytes += size
                self._changed.notify_all()

    def get(self) -> _Message:
        """Take the next message; wait for it."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._messages))
            message, size = self._messages.popleft()
            self._bytes -= size
            self._changed.notify_all()
        return message

    def stop(self) -> None:
        """Let those who wait go on: nothing is taken any more."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


def _decode(row: AudioRow, load: Load, spec: EncoderSpec) -> _Decoded:
    """Return a row's samples as the encoder takes them: prepared here, since a device waits for whoever feeds it."""
    try:
        samples = load(row)
        return row, spec.prepare(samples) if len(samples) >= spec.minimum_samples else samples
    except MissingExtraError:
        raise
    except TfserError as error:
        return row, error


def _finish(batcher: Batcher, blocks: Iterable[Sequence[_Decoded]]) -> Iterator[Result]:
    """Yield the results of blocks: what was decoded of a block goes through the encoder together.

    A GPU is given the next batches before those that it is at work on are waited for: while they are cut, handed on and the next
    are laid out, it computes.
    """
    # A CPU has nothing to do beside the encoder: there whoever waits gets each utterance as soon as it is done.
    ahead = 1 if batcher.encoder.device.type == "cuda" else 0
    flying: deque[tuple[list[AudioRow], Callable[[], list[tuple[Frames, ...]]]]] = deque()
    for block in blocks:
        heard: list[tuple[AudioRow, Samples]] = []
        for row, samples in block:
            if isinstance(samples, TfserError):
                yield Result(row=row, frames=None, reason=str(samples))
            elif len(samples) < batcher.spec.minimum_samples:
                yield Result(row=row, frames=None, reason=f"{len(samples)} samples, too few for a frame of {batcher.spec.name}")
            else:
                heard.append((row, samples))
        # Where pieces go one by one, so do utterances.
        step = 1 if batcher.budget_s is None else max(1, len(heard))
        for first in range(0, len(heard), step):
            part = heard[first : first + step]
            try:
                wait = batcher.begin([samples for _, samples in part])
            except Exception:
                while flying:  # what was launched before is done, and kept
                    yield from _landed(*flying.popleft())
                raise
            flying.append(([row for row, _ in part], wait))
            if len(flying) > ahead:
                yield from _landed(*flying.popleft())
    while flying:
        yield from _landed(*flying.popleft())


def _landed(rows: Sequence[AudioRow], wait: Callable[[], list[tuple[Frames, ...]]]) -> Iterator[Result]:
    """Yield the results of utterances that went through the encoder together."""
    for row, frames in zip(rows, wait(), strict=True):
        yield Result(row=row, frames=frames)


class _Source:
    """Hands out decoded blocks, a few of them decoded ahead of those who ask."""

    def __init__(
        self, todo: Sequence[Sequence[AudioRow]], decode: Callable[[AudioRow], _Decoded], pool: ThreadPoolExecutor, ahead: int
    ) -> None:
        self._todo, self._decode, self._pool, self._ahead = deque(todo), decode, pool, ahead
        self._pending: deque[tuple[list[Future[_Decoded]], float]] = deque()
        self._ahead_s = 0.0
        self._lock = threading.Lock()
        self._fill()

    def _fill(self) -> None:
        while self._todo and len(self._pending) < self._ahead:
            seconds = sum(row.duration_s for row in self._todo[0])
            if self._pending and self._ahead_s + seconds > _AHEAD_S:
                break
            self._ahead_s += seconds
            self._pending.append(([self._pool.submit(self._decode, row) for row in self._todo.popleft()], seconds))

    def next(self) -> list[_Decoded] | None:
        """Return the next block, decoded; None if there is none left."""
        with self._lock:
            block, seconds = self._pending.popleft() if self._pending else (None, 0.0)
            self._ahead_s -= seconds
            self._fill()
        return None if block is None else [future.result() for future in block]

    def blocks(self, stopped: Callable[[], bool]) -> Iterator[list[_Decoded]]:
        """Yield the blocks that nobody else takes, until somebody says stop."""
        while not stopped() and (block := self.next()) is not None:
            yield block

    def cancel(self) -> None:
        """Drop what is not decoded yet."""
        with self._lock:
            self._todo.clear()
            for block, _ in self._pending:
                for future in block:
                    future.cancel()
            self._pending.clear()
