"""Batches with Grain: shuffled for training, in order for evaluation."""

import dataclasses
import functools
import sys
from typing import Any

import grain
import numpy as np
from absl import flags

from ccl_jax.data.examples import Crop, Decoded, Examples
from ccl_jax.data.views import View

# {"image": u8[B,H,W,C], "label": i32[B]}, and "example": i32[B] in training
Batch = dict[str, np.ndarray]


def train_batches(
  examples: Examples,
  *,
  batch_size: int,
  seed: int,
  view: View | None = None,
  crop: Crop | None = None,
  num_views: int = 1,
  num_workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset[Batch]:
  """Endless batches, shuffled anew each epoch; batch t is a function of (seed, t).

  A batch may end one epoch and open the next: no example is dropped, and each run of
  len(examples) rows, counted from the first, is a permutation.

  Args:
    examples: what to train on.
    batch_size: images of the global batch.
    seed: of the order and of the views.
    view: applied to the images of each batch; see `views`. None leaves them.
    crop: gives each image its size as it is decoded, as `views.random_resized_crop`
      does; None leaves that to the examples.
    num_views: V; each image takes V rows of the batch, side by side, and each row its
      own draw of the view.
    num_workers: processes that read and decode; 0 works in threads of this process.
    process_index: of this process among those that share a batch.
    process_count: how many do. Process p gets its p-th part, batch_size //
      process_count images: together exactly the batch of a single process.

  Returns:
    A dataset of {"image": u8[b,H,W,C], "label": i32[b], "example": i32[b]}, where
    `example` is the place of the row's image in `examples`. `iter` of it has
    `get_state` and `set_state`, to go on in the middle of an epoch.

  Raises:
    ValueError: a batch larger than the data or not divisible by the processes, a label
      outside of 0..K-1, or several views where there is no view to draw.
  """
  if not 0 < batch_size <= len(examples):
    raise ValueError(
      f"batch_size is {batch_size} with {len(examples)} examples: give 1 to"
      f" {len(examples)}"
    )
  rows = _rows_of(batch_size, process_index, process_count)
  if num_views < 1 or (num_views > 1 and view is None):
    raise ValueError(
      f"num_views is {num_views} with view {view}: give 1 or more, and a view where"
      " there are several, or they would all be the same"
    )
  _check_labels(examples)
  steps = grain.MapDataset.range(sys.maxsize).seed(seed)
  load = examples, seed, batch_size, rows, num_views
  if crop is None:
    dataset = steps.map(_Load(*load))
  else:
    dataset = steps.random_map(_LoadCropped(*load, crop))
  if view is not None:
    seen = _of_views(rows, num_views)
    dataset = dataset.random_map(_View(view, batch_size * num_views, seen))
  batches = _prefetched(dataset, examples)
  if num_workers == 0:
    return batches
  if not flags.FLAGS.is_parsed():  # Grain reads one of its flags to start workers.
    flags.FLAGS.mark_as_parsed()
  return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))


def eval_batches(
  examples: Examples,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset[Batch]:
  """Each example once, in order, in batches of one size.

  Args:
    examples: what to embed.
    batch_size: rows of each global batch.
    process_index: of this process among those that share a batch.
    process_count: how many do. Process p gets its p-th part.

  Returns:
    A dataset of {"image": u8[b,H,W,C], "label": i32[b]}. The last batch is filled up
    with black images of label -1.

  Raises:
    ValueError: no examples, a batch_size below 1 or not divisible by the processes, or
      a label outside of 0..K-1.
  """
  if batch_size < 1 or not len(examples):
    raise ValueError(
      f"batch_size is {batch_size} with {len(examples)} examples: expected 1 or more"
    )
  rows = _rows_of(batch_size, process_index, process_count)
  _check_labels(examples)

  def load(step: int) -> Batch:
    indices = np.arange(batch_size)[rows] + step * batch_size
    batch = examples.take(np.minimum(indices, len(examples) - 1))
    real = indices < len(examples)
    return {
      "image": np.where(real[:, None, None, None], batch["image"], np.uint8(0)),
      "label": np.where(real, batch["label"], np.int32(-1)),
    }

  steps = grain.MapDataset.range(-(-len(examples) // batch_size))
  return _prefetched(steps.map(load), examples)


def _rows_of(batch_size: int, process_index: int, process_count: int) -> slice:
  """A process's rows of a batch that the processes share evenly."""
  if batch_size % process_count:
    fits = max(batch_size // process_count, 1) * process_count
    raise ValueError(
      f"batch_size {batch_size} does not divide among {process_count} processes: give"
      f" a multiple of {process_count}, such as {fits}"
    )
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index is {process_index} of {process_count} processes: give 0 to"
      f" {process_count - 1}"
    )
  share = batch_size // process_count
  return slice(process_index * share, (process_index + 1) * share)


def _prefetched(
  dataset: grain.MapDataset[Batch], examples: Examples
) -> grain.IterDataset[Batch]:
  # More threads than one only help to decode: Pillow lets go of the interpreter there.
  threads = 1 if isinstance(examples.source, Decoded) else 8
  return dataset.to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Load:
  """From a step to one process's rows of its batch; travels to workers."""

  examples: Examples
  seed: int
  batch_size: int
  rows: slice
  num_views: int

  def __call__(self, step: int) -> Batch:
    order = _order(self.seed, step, self.batch_size, len(self.examples))[self.rows]
    batch = self.examples.take(order) | {"example": order.astype(np.int32)}
    if self.num_views == 1:
      return batch
    return {name: rows.repeat(self.num_views, axis=0) for name, rows in batch.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _LoadCropped(_Load):
  """The same, with images cropped as they are decoded, each view for itself."""

  crop: Crop

  def __call__(self, step: int, rng: np.random.Generator) -> Batch:
    order = _order(self.seed, step, self.batch_size, len(self.examples))
    order = order[self.rows].repeat(self.num_views)
    seen = _of_views(self.rows, self.num_views)
    part = _RowsOf(rng, seen, self.batch_size * self.num_views)
    batch = self.examples.take(order, self.crop, part)
    return batch | {"example": order.astype(np.int32)}


def _of_views(rows: slice, num_views: int) -> slice:
  """The rows of a batch that the views of some of its images take."""
  return slice(rows.start * num_views, rows.stop * num_views)


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
  """Applies a view to one process's rows of a batch; travels to workers."""

  view: View
  batch_size: int
  rows: slice

  def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
    part = _RowsOf(rng, self.rows, self.batch_size)
    return batch | {"image": self.view(batch["image"], part)}


def _order(seed: int, step: int, batch_size: int, total: int) -> np.ndarray:
  """Rows i64[batch_size] of a step.

  Whole epochs are permuted at once: Grain's own shuffle looks rows up one by one, which
  costs as much as a small network's step.
  """
  epochs, places = np.divmod(np.arange(batch_size) + step * batch_size, total)
  return np.concatenate(
    [
      _permutation(seed, int(epoch), total)[places[epochs == epoch]]
      for epoch in np.unique(epochs)
    ]
  )


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, total: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(total)


class _RowsOf(np.random.Generator):
  """A generator that draws for a whole batch, and hands out one process's rows."""

  def __init__(self, rng: np.random.Generator, rows: slice, total: int):
    super().__init__(rng.bit_generator)
    self._rows, self._total = rows, total

  def __getattribute__(self, name: str) -> Any:
    value: Any = super().__getattribute__(name)
    if name.startswith("_") or not callable(value):
      return value

    # A draw without a row for each image would differ between processes: size is
    # required, by name.
    def draw(*args: Any, size: tuple[int, ...], **kwargs: Any) -> np.ndarray:
      drawn = value(*args, size=(self._total, *size[1:]), **kwargs)
      return np.asarray(drawn)[self._rows]

    return draw


def _check_labels(examples: Examples) -> None:
  wrong = (examples.labels < 0) | (examples.labels >= examples.num_classes)
  if wrong.any():
    row = int(wrong.argmax())
    raise ValueError(
      f"example {row} has label {examples.labels[row]}, expected 0 to"
      f" {examples.num_classes - 1} (K = {examples.num_classes}): correct the labels,"
      " or add the missing class names"
    )
