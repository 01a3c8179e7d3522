"""Batches with Grain: shuffled for training, in order for evaluation."""

import dataclasses
import functools
import sys
from collections.abc import Callable

import grain
import numpy as np
from absl import flags

from ccl_jax.data.draws import RowDraws
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
  images_per_class: int | None = None,
  first_images_per_class: int | None = None,
  num_workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset[Batch]:
  """Endless batches, shuffled anew each epoch; batch t is a function of (seed, t).

  A batch may end one epoch and begin the next: no example is dropped, and each epoch is
  a permutation of all examples.

  With `images_per_class` M, a batch has P = batch_size / M classes with M images each,
  side by side. Every ceil(K / P) batches visit all K classes that have images. Where P
  does not divide K, the last of these batches is filled up with classes that were
  visited before, in rotation. A class shows its images in the same way, M at each
  visit: no image is repeated before all were shown. A class of fewer than M images
  shows all of them at each visit, and repeats images until there are M.

  Args:
    examples: the examples to train on.
    batch_size: images of the global batch.
    seed: seed of the order and of the views.
    view: a function that alters the images of a batch; see `views`. None: no change.
    crop: cuts each image to its size while it is decoded, as
      `views.random_resized_crop`; None leaves the size to the examples.
    num_views: V; each image takes V rows of the batch, side by side, and the view is
      drawn anew for each row.
    images_per_class: M; None shuffles the examples whatever their classes.
    first_images_per_class: M of the first ceil(K / P) batches, which visit each class
      once and lie outside of any epoch; None: the first batches are like the others.
    num_workers: processes that read and decode; 0 uses threads of this process.
    process_index: this process's number among the processes that share a batch.
    process_count: number of these processes. Process p gets the p-th part of a batch,
      batch_size // process_count images; together they get the batch of one process.

  Returns:
    A dataset of {"image": u8[b,H,W,C], "label": i32[b], "example": i32[b]}, where
    `example` is the row of the image in `examples`. Its iterator has `get_state` and
    `set_state`, which resume it in the middle of an epoch.

  Raises:
    ValueError: if the batch is larger than the data, does not divide among the
      processes, or cannot hold P different classes with M images each; if a label is
      outside of 0..K-1; or if there are several views and no view to draw.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples, pipeline
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> batches = iter(pipeline.train_batches(data, batch_size=4, seed=0))
    >>> batch = next(batches)
    >>> print(batch["image"].shape, batch["label"])
    (4, 4, 4, 1) [1 2 1 3]
    >>> print(batches.get_state())
    {'next_index': 1}
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
  if images_per_class is None:
    order = _Shuffled(seed, batch_size, len(examples))
  else:
    order = _by_class(examples, seed, batch_size, "images_per_class", images_per_class)
  if first_images_per_class is not None:
    setting = "first_images_per_class"
    first = _by_class(examples, seed, batch_size, setting, first_images_per_class)
    order = _AfterOneRound(first, order)
  load = examples, order, rows, num_views
  if crop is None:
    dataset = steps.map(_Load(*load))
  else:
    dataset = steps.random_map(_LoadCropped(*load, batch_size, crop))
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
  view: View | None = None,
  seed: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset[Batch]:
  """Each example once, in order, in batches of one size.

  Args:
    examples: the examples to embed.
    batch_size: rows of each global batch.
    view: changes the images, as in `train_batches`; None: no change.
    seed: of the view.
    process_index, process_count: as in `train_batches`.

  Returns:
    A dataset of {"image": u8[b,H,W,C], "label": i32[b]}. The last batch is filled up
    with black images, or rows of zeros, of label -1.

  Raises:
    ValueError: if there are no examples, batch_size is below 1 or does not divide among
      the processes, or a label is outside of 0..K-1.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples, pipeline
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> for batch in pipeline.eval_batches(data, batch_size=5):
    ...   print(batch["image"].shape)
    ...
    (5, 4, 4, 1)
    (5, 4, 4, 1)
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
    batch["image"][~real] = 0
    return {
      "image": batch["image"],
      "label": np.where(real, batch["label"], np.int32(-1)),
    }

  steps = grain.MapDataset.range(-(-len(examples) // batch_size)).seed(seed)
  dataset = steps.map(load)
  if view is not None:
    dataset = dataset.random_map(_View(view, batch_size, rows))
  return _prefetched(dataset, examples)


def _rows_of(batch_size: int, process_index: int, process_count: int) -> slice:
  """The rows of a global batch that one process gets; all get equally many."""
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
  # Several threads only help to decode, since Pillow releases the interpreter's lock.
  threads = 1 if isinstance(examples.source, Decoded) else 8
  return dataset.to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Load:
  """Maps a step to one process's rows of its batch; pickled for worker processes."""

  examples: Examples
  order: Callable[[int], np.ndarray]  # maps a step to the examples of its global batch
  rows: slice
  num_views: int

  def __call__(self, step: int) -> Batch:
    order = self.order(step)[self.rows]
    batch = self.examples.take(order) | {"example": order.astype(np.int32)}
    if self.num_views == 1:
      return batch
    return {name: rows.repeat(self.num_views, axis=0) for name, rows in batch.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _LoadCropped(_Load):
  """Does the same, and crops images as they are decoded, by one draw for each view."""

  batch_size: int
  crop: Crop

  def __call__(self, step: int, rng: np.random.Generator) -> Batch:
    order = self.order(step)[self.rows].repeat(self.num_views)
    seen = _of_views(self.rows, self.num_views)
    part = RowDraws(rng, seen, self.batch_size * self.num_views)
    batch = self.examples.take(order, self.crop, part)
    return batch | {"example": order.astype(np.int32)}


def _of_views(rows: slice, num_views: int) -> slice:
  """The rows that the views of a range of images take, where views lie side by side."""
  return slice(rows.start * num_views, rows.stop * num_views)


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
  """Applies a view to one process's rows of a batch; pickled for worker processes."""

  view: View
  batch_size: int
  rows: slice

  def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
    part = RowDraws(rng, self.rows, self.batch_size)
    return batch | {"image": self.view(batch["image"], part)}


@dataclasses.dataclass(frozen=True)
class _Shuffled:
  """Maps a step to shuffled rows i64[batch_size]; pickled for worker processes.

  It permutes a whole epoch at once: Grain's own shuffle looks rows up one by one, which
  costs as much as a step of a small network.
  """

  seed: int
  batch_size: int
  total: int

  def __call__(self, step: int) -> np.ndarray:
    places = np.arange(self.batch_size) + step * self.batch_size
    epochs, places = np.divmod(places, self.total)
    return np.concatenate(
      [
        _permutation(self.seed, int(epoch), self.total)[places[epochs == epoch]]
        for epoch in np.unique(epochs)
      ]
    )


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, total: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(total)


def _by_class(
  examples: Examples, seed: int, batch_size: int, setting: str, num_images: int
) -> "_ByClass":
  """Batches with `num_images` images a class, a number that errors call `setting`."""
  if num_images < 1 or batch_size % num_images:
    raise ValueError(
      f"batch_size is {batch_size} with {setting} {num_images}: give"
      f" {setting} of 1 or more that divides it"
    )
  rows_of = tuple(rows for rows in examples.rows_of_classes() if len(rows))
  wanted = batch_size // num_images
  if wanted > len(rows_of):
    raise ValueError(
      f"batch_size {batch_size} with {setting} {num_images} takes"
      f" {wanted} classes and {len(rows_of)} have images: give a batch_size of at most"
      f" {len(rows_of) * num_images}, or more images of a class"
    )
  return _ByClass(seed, wanted, num_images, rows_of)


@dataclasses.dataclass(frozen=True, eq=False)
class _ByClass:
  """Maps a step to rows i64[P * M] of P classes; pickled for worker processes."""

  seed: int
  num_classes: int  # P, classes in a batch
  num_images: int  # M, images of a class in a batch
  rows_of: tuple[np.ndarray, ...]  # the rows of each class that has images

  def __call__(self, step: int) -> np.ndarray:
    turn = _turn((self.seed, 0), len(self.rows_of), self.num_classes, step)
    return np.concatenate(
      [self._visit(*place) for place in zip(*map(np.ndarray.tolist, turn), strict=True)]
    )

  def _visit(self, place: int, visit: int) -> np.ndarray:
    """The M rows of a class at one of its visits."""
    rows = self.rows_of[place]
    distinct = min(self.num_images, len(rows))
    taken, _ = _turn((self.seed, 1 + place), len(rows), distinct, visit)
    return rows[np.resize(taken, self.num_images)]


@dataclasses.dataclass(frozen=True, eq=False)
class _AfterOneRound:
  """Maps a step to rows: first a round over all classes, then by another order."""

  first: _ByClass
  then: Callable[[int], np.ndarray]

  def __call__(self, step: int) -> np.ndarray:
    round_steps = -(-len(self.first.rows_of) // self.first.num_classes)
    if step < round_steps:
      return self.first(step)
    return self.then(step - round_steps)


def _turn(
  key: tuple[int, ...], total: int, size: int, turn: int
) -> tuple[np.ndarray, np.ndarray]:
  """The `size` items, of 0..total-1, that have a turn; and how many turns each had.

  A round is ceil(total / size) turns. Each item has one turn in a round; the last turn
  also holds `extra` items for a second time, which fill it up. Over the rounds, second
  turns go to items in rotation: 0, 1, 2, ... So the number of earlier turns of an item
  is a formula, and a resumed run need not replay the rounds before.
  """
  turns = -(-total // size)
  number, place = divmod(turn, turns)
  extra = turns * size - total
  taken = _round(key, total, size, number)[place * size : (place + 1) * size]
  # One turn in each earlier round, and the second turns: the rotation has gone through
  # number * extra items, and item i was every total-th of them, from the i-th on.
  times = number + (number * extra + total - 1 - taken) // total
  if place == turns - 1:
    times[size - extra :] += 1
  return taken, times


# The next visit of a class reads its round again, so the cache holds one per class.
@functools.lru_cache(maxsize=2**14)
def _round(key: tuple[int, ...], total: int, size: int, number: int) -> np.ndarray:
  """The items of a round, in the order of their turns."""
  order = np.random.default_rng((*key, number)).permutation(total)
  extra = -total % size
  twice = (number * extra + np.arange(extra)) % total
  # The last turn holds the items of `twice` for the second time. A turn has different
  # items, so their first time must be in an earlier turn.
  last = order[~np.isin(order, twice)][: size - extra]
  early = order[~np.isin(order, last)]
  return np.concatenate([early, last, twice])


def _check_labels(examples: Examples) -> None:
  wrong = (examples.labels < 0) | (examples.labels >= examples.num_classes)
  if wrong.any():
    row = int(wrong.argmax())
    raise ValueError(
      f"example {row} has label {examples.labels[row]}, expected 0 to"
      f" {examples.num_classes - 1} (K = {examples.num_classes}): correct the labels,"
      " or add the missing class names"
    )
