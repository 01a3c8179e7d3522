"""The host's loop: next batch, step, log, evaluate, save."""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.placement import Placement
from ccl_jax.training.run_log import RunLog
from ccl_jax.training.step import Batch, TrainState, TrainStep


@runtime_checkable
class BatchIterator(Protocol):
  """Iterates over this process's rows of the batches, as Grain does.

  Its position can be saved and restored.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import train_batches
    >>> from ccl_jax.data.examples import from_arrays
    >>> from ccl_jax.training.loop import BatchIterator
    >>> images, labels = np.ones((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = from_arrays(images, labels)
    >>> batches = iter(train_batches(data, batch_size=8, seed=0))
    >>> print(isinstance(batches, BatchIterator))
    True
  """

  def __next__(self) -> Batch: ...
  def get_state(self) -> Any: ...
  def set_state(self, state: Any) -> None: ...


class NonFiniteLoss(RuntimeError):
  """The loss was NaN or infinite; the message names the step.

  Example:
    >>> from ccl_jax.training.loop import NonFiniteLoss
    >>> print(NonFiniteLoss("the loss of step 7 is nan"))
    the loss of step 7 is nan
  """


class Stopped(RuntimeError):
  """The run was asked to stop, and has saved; `step` says where.

  Example:
    >>> import signal
    >>> from ccl_jax.training.loop import Stopped
    >>> print(Stopped(7, signal.SIGTERM))
    stopped by SIGTERM at step 7
  """

  def __init__(self, step: int, signal_number: int):
    super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step}")
    self.step, self.signal_number = step, signal_number


class _StopRequest:
  """Remembers the first Ctrl-C or SIGTERM; a second signal stops at once."""

  def __init__(self):
    self.signal_number: int | None = None

  def __call__(self, signal_number: int, frame: FrameType | None):
    if self.signal_number is not None:
      raise KeyboardInterrupt
    self.signal_number = signal_number
    print("\nstopping after this step; once more to stop at once", file=sys.stderr)

  def reached(self, step: int) -> int | None:
    """The signal that asks to stop after this step, the same in all processes."""
    if jax.process_count() == 1:
      return self.signal_number
    # All processes must stop at the same step, though only one may get the signal.
    stopping = multihost_utils.reached_preemption_sync_point(step)
    return signal.SIGTERM if stopping else None


@contextlib.contextmanager
def _stop_request() -> Iterator[_StopRequest]:
  request = _StopRequest()
  if jax.process_count() > 1:  # JAX's own handler tells the other processes of SIGTERM
    yield request
    return
  before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield request
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


class Step(NamedTuple):
  """What one step leaves behind.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.training.loop import Step
    >>> step = Step(7, {"label": np.arange(2)}, None, {"loss": np.ones(())})
    >>> print(step.number, step.metrics["loss"])
    7 1.0
  """

  number: int  # counted from 1
  batch: Batch  # this process's rows, as NumPy
  state: TrainState  # donated to the next step: read it before the next step is taken
  metrics: dict[str, Array]


def steps(
  state: TrainState,
  train_step: TrainStep,
  batches: BatchIterator,
  *,
  placement: Placement,
  num_steps: int,
  waiting: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Iterator[Step]:
  """Takes the steps after `state.step`, up to number `num_steps`.

  Args:
    state: fresh or restored, as `placement.make_state` lays it out; donated.
    train_step: the step, which the placement compiles.
    batches: this process's rows of each batch, from the same step on.
    placement: where state and batches live.
    num_steps: the number of the last step.
    waiting: makes the context of waiting for the next batch, to measure it.

  Example:
    >>> import jax.numpy as jnp, numpy as np
    >>> from ccl_jax.data import train_batches
    >>> from ccl_jax.data.examples import from_arrays
    >>> from ccl_jax.training import placement
    >>> from ccl_jax.training.loop import steps
    >>> from ccl_jax.training.step import TrainState
    >>> def train_step(state, batch):  # in place of `step.make_train_step`
    ...   return state.replace(step=state.step + 1), {"loss": batch["image"].mean()}
    ...
    >>> data = from_arrays(np.ones((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2))
    >>> batches = iter(train_batches(data, batch_size=8, seed=0))
    >>> place = placement.with_jit()
    >>> state = place.make_state(lambda: TrainState(jnp.int32(0), {}, {}, {}, {}))
    >>> for step in steps(state, train_step, batches, placement=place, num_steps=3):
    ...   print(step.number, step.metrics["loss"])
    ...
    1 1.0
    2 1.0
    3 1.0
  """
  compiled_step = placement.compile_step(train_step)
  for number in range(int(state.step) + 1, num_steps + 1):
    with waiting():
      batch = next(batches)
      placed = placement.put_batch(batch)
    state, metrics = compiled_step(state, placed)
    yield Step(number, batch, state, metrics)


def fit(
  state: TrainState,
  train_step: TrainStep,
  batches: BatchIterator,
  *,
  placement: Placement,
  num_steps: int,
  batch_size: int,
  learning_rate: Callable[[int], Any],
  evaluate: Callable[[TrainState], dict[str, float]] | None,
  log: RunLog,
  checkpoints: Checkpoints,
  log_every: int,
  eval_every: int,
  checkpoint_every: int,
  profile_steps: int = 0,
) -> TrainState:
  """Trains from `state.step` to `num_steps`, and leaves a checkpoint of the last step.

  Args:
    state, train_step, batches, placement: as in `steps`.
    num_steps: steps of the whole run, not of this session.
    batch_size: examples in the global batch, for the rate.
    learning_rate: the rate as a function of the steps before, to be logged.
    evaluate: maps a state to metrics of the validation classes; None: no evaluation.
    log: records `train` and `validation` events.
    checkpoints: keeps the state and the position of `batches`.
    log_every: steps between `train` events. An event holds the values of its own step,
      not of a window, so that a resumed run writes the same values.
    eval_every: steps between evaluations; the last step is always evaluated.
    checkpoint_every: steps between checkpoints; the last step is always saved.
    profile_steps: steps that are traced for TensorBoard, from the third on of this
      process, since the first ones compile.

  Returns:
    The trained state.

  Raises:
    NonFiniteLoss: if a loss is not finite; the message names the first such step. No
      state from then on is saved, so the newest checkpoint is good.
    Stopped: after Ctrl-C or SIGTERM, once the state is saved. With several processes, a
      SIGTERM to any process stops all of them at the same step; Ctrl-C ends them
      without saving.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp, numpy as np
    >>> from ccl_jax.data import train_batches
    >>> from ccl_jax.data.examples import from_arrays
    >>> from ccl_jax.training import placement
    >>> from ccl_jax.training.checkpoint import Checkpoints
    >>> from ccl_jax.training.loop import fit
    >>> from ccl_jax.training.run_log import RunLog
    >>> from ccl_jax.training.step import TrainState
    >>> def start():  # a model of one number, in place of `step.init_state`
    ...   return TrainState(jnp.int32(0), {"total": jnp.zeros(())}, {}, {}, {})
    ...
    >>> def train_step(state, batch):  # in place of `step.make_train_step`
    ...   total = state.params["total"] + batch["image"].mean()
    ...   state = state.replace(step=state.step + 1, params={"total": total})
    ...   return state, {"loss": total}
    ...
    >>> images, labels = np.ones((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = from_arrays(images, labels)
    >>> batches = iter(train_batches(data, batch_size=8, seed=0))
    >>> place = placement.with_jit()
    >>> with (
    ...   tempfile.TemporaryDirectory() as folder,
    ...   Checkpoints(f"{folder}/checkpoints") as saved,
    ...   RunLog(folder, step=0) as log,
    ... ):
    ...   state = fit(
    ...     place.make_state(start),
    ...     train_step,
    ...     batches,
    ...     placement=place,
    ...     num_steps=4,
    ...     batch_size=8,
    ...     learning_rate=lambda step: 0.1,
    ...     evaluate=lambda state: {"recall@1": 0.5},
    ...     log=log,
    ...     checkpoints=saved,
    ...     log_every=2,
    ...     eval_every=4,
    ...     checkpoint_every=4,
    ...   )
    ...   for event in log.events:
    ...     print(event["event"], event["step"])
    ...
    train 2
    train 4
    validation 4
  """
  first = int(state.step)
  pending: list[tuple[int, Any]] = []
  clock = _Clock(log.seconds)

  def flush() -> dict[str, float]:
    """Waits for the steps so far and returns the last one's metrics."""
    for number, metrics in jax.device_get(pending):
      last = {k: float(v) for k, v in metrics.items()}
      if not math.isfinite(last["loss"]):
        raise NonFiniteLoss(
          f"the loss of step {number} is {last['loss']}; the newest checkpoint is from "
          "before it. Lower the learning rate, or look at the labels and images"
        )
    pending.clear()
    return last

  progress = tqdm(
    total=num_steps,
    initial=first,
    unit="step",
    disable=jax.process_index() > 0,
    mininterval=1 if sys.stderr.isatty() else 20,
    desc="the first step compiles",
  )
  taken = steps(
    state,
    train_step,
    batches,
    placement=placement,
    num_steps=num_steps,
    waiting=clock.waiting,
  )
  with _stop_request() as request, progress, _Profile(log, profile_steps) as profile:
    for step, _, state, metrics in taken:
      pending.append((step, metrics))
      if step == first + 1:
        progress.set_description("training")
      progress.update()
      profile.after(step - first, metrics)

      if step % log_every == 0:
        values = flush()
        rates = clock.lap(batch_size * log_every)
        rate = {"learning_rate": float(learning_rate(step - 1))}
        log.write("train", step, values | rate | rates)
        progress.set_postfix(
          loss=f"{values['loss']:.3f}", images_s=f"{rates['images_per_second']:.0f}"
        )
      if evaluate is not None and (step % eval_every == 0 or step == num_steps):
        if pending:
          flush()
        with clock.paused():
          values = evaluate(state)
        log.write("validation", step, values)
        shown = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
        if not progress.disable:
          progress.write(f"step {step}: validation {shown}", file=sys.stderr)
      stopping = request.reached(step)
      if step % checkpoint_every == 0 or step == num_steps or stopping is not None:
        if pending:
          flush()
        checkpoints.save(step, state, batches.get_state())
      if stopping is not None:
        raise Stopped(step, stopping)
  return state


class _Profile:
  """Traces some steps into the log's folder; a context manager."""

  def __init__(self, log: RunLog, num_steps: int):
    self._folder = log.board_folder if num_steps else None
    self._last, self._is_on = 2 + num_steps, False

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    if self._is_on:
      jax.profiler.stop_trace()

  def after(self, step: int, metrics: PyTree) -> None:
    """To be called after each step, numbered from 1; its metrics are waited for."""
    if self._folder and step in (2, self._last):
      jax.block_until_ready(metrics)
      self._is_on = step == 2
      if self._is_on:
        jax.profiler.start_trace(str(self._folder))
      else:
        jax.profiler.stop_trace()


class _Clock:
  """Measures the time of training, and the part of it that waits for data."""

  def __init__(self, seconds: float):
    self._seconds, self._waited = seconds, 0.0
    self._lap_start = time.perf_counter()

  @contextlib.contextmanager
  def waiting(self):
    start = time.perf_counter()
    yield
    self._waited += time.perf_counter() - start

  @contextlib.contextmanager
  def paused(self):
    start = time.perf_counter()
    yield
    self._lap_start += time.perf_counter() - start

  def lap(self, images: int) -> dict[str, float]:
    """Rates since the last lap."""
    now = time.perf_counter()
    elapsed, waited = now - self._lap_start, self._waited
    self._lap_start, self._waited = now, 0.0
    self._seconds += elapsed
    return {
      "images_per_second": round(images / elapsed, 1),
      "waiting_for_data": round(waited / elapsed, 4),
      "seconds": round(self._seconds, 3),
    }


def embed(
  embed_step: Callable[[TrainState, np.ndarray], np.ndarray],
  state: TrainState,
  batches: Iterable[Batch],
  num_examples: int,
) -> Float[np.ndarray, "N D"]:
  """Embeds every example once, in order.

  Args:
    embed_step: from `Placement.compile_embed`.
    state: as the placement lays it out.
    batches: this process's rows of each batch, all of one size.
    num_examples: N; rows beyond it pad the last batch and are dropped.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.training.loop import embed
    >>> from ccl_jax.training.step import TrainState
    >>> state = TrainState(0, {}, {}, {}, {})
    >>> def embed_step(state, images):  # in place of `Placement.compile_embed`
    ...   return images.reshape(len(images), -1) / 255
    ...
    >>> batches = [{"image": np.full((2, 1, 3), i)} for i in (0, 51, 255)]
    >>> print(embed(embed_step, state, batches, num_examples=5)[:, 0])
    [0.  0.  0.2 0.2 1. ]
  """
  quiet = jax.process_index() > 0
  shown = tqdm(batches, "embedding", delay=10, leave=False, disable=quiet)
  embeddings = [embed_step(state, batch["image"]) for batch in shown]
  return np.concatenate(embeddings)[:num_examples]
