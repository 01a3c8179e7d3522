"""Batches: order, splits over processes, saved iterators, padding."""

import collections
import dataclasses
import itertools
import time
from functools import partial

import numpy as np
import pytest

from ccl_jax.data import pipeline, views
from ccl_jax.data.examples import Decoded, Examples
from ccl_jax.data.pipeline import eval_batches, train_batches


def numbered(total=23, num_classes=5, source=Decoded):
  """Examples whose image says which one it is, in its upper left pixel."""
  images = np.zeros((total, 6, 6, 1), np.uint8)
  images[:, 0, 0, 0] = np.arange(total)
  images[:, 2:4, 2:4] = 200
  return Examples(
    source=source(images),
    indices=np.arange(total),
    labels=np.arange(total, dtype=np.int32) % num_classes,
    class_names=tuple("abcde"[:num_classes]),
    channels=1,
  )


def undecoded(images):
  return [{"image": image} for image in images]


def first(batches, count):
  return list(itertools.islice(batches, count))


def rows(batches):
  return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])


def assert_equal(some, others):
  assert len(some) == len(others)
  for one, other in zip(some, others, strict=True):
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["label"], other["label"])


@pytest.mark.parametrize("source", [Decoded, undecoded])
def test_every_epoch_is_a_permutation_and_no_two_are_alike(source):
  # 23 batches of 5 are 5 epochs of 23: most epochs end within a batch.
  batches = first(train_batches(numbered(source=source), batch_size=5, seed=0), 23)
  for batch in batches:
    assert batch["image"].shape == (5, 6, 6, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 5)
  epochs = rows(batches).reshape(5, 23)
  for epoch in epochs:
    assert sorted(epoch) == list(range(23))
  assert len({tuple(epoch) for epoch in epochs}) == 5


def test_batches_are_a_function_of_seed_and_step():
  def run(seed, view=None):
    pipeline._permutation.cache_clear()  # as in another process
    return first(train_batches(numbered(), batch_size=5, seed=seed, view=view), 9)

  assert_equal(run(7, views.warp), run(7, views.warp))
  assert (rows(run(7)) != rows(run(8))).any()


def test_views_are_drawn_anew_for_each_batch_and_seed():
  def run(seed):
    one = numbered(total=1, num_classes=1)  # the same batch at every step
    return first(train_batches(one, batch_size=1, seed=seed, view=views.noise), 3)

  images = [batch["image"].tobytes() for seed in (0, 1) for batch in run(seed)]
  assert len(set(images)) == 6


@pytest.mark.parametrize("consumed", [0, 1, 7])
def test_a_restored_iterator_goes_on_as_if_never_stopped(consumed):
  batches = train_batches(numbered(), batch_size=5, seed=1, view=views.warp)
  whole = first(batches, consumed + 6)
  iterator = iter(batches)
  first(iterator, consumed)
  time.sleep(0.05)  # let it read ahead: what is read is not yet consumed
  state = iterator.get_state()
  first(iterator, 2)
  fresh = iter(train_batches(numbered(), batch_size=5, seed=1, view=views.warp))
  fresh.set_state(state)
  assert_equal(first(fresh, 6), whole[consumed:])


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize(
  "view",
  [
    None,
    views.warp,
    views.crop_and_flip,
    views.noise,
    views.color_jitter,
    partial(views.gray, probability=0.5),
  ],
)
def test_processes_together_see_the_batch_of_one(processes, view):
  def run(**place):
    batches = train_batches(numbered(), batch_size=12, seed=2, view=view, **place)
    return first(batches, 5)

  parts = [run(process_index=p, process_count=processes) for p in range(processes)]
  joined = [
    {field: np.concatenate([part[field] for part in step]) for field in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert parts[0][0]["image"].shape[0] == 12 // processes
  assert_equal(joined, run())


@pytest.mark.parametrize("source", [Decoded, undecoded])
def test_crops_are_a_function_of_seed_and_step_however_the_batch_is_split(source):
  # Every image is the same, so that two crops that are alike were drawn alike.
  examples = numbered(total=24, source=source)
  images = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 1), np.uint8)
  examples = dataclasses.replace(examples, source=source(np.repeat(images, 24, 0)))
  crop = partial(views.random_resized_crop, size=4)

  def run(**options):
    batches = train_batches(
      examples, batch_size=12, seed=2, crop=crop, view=views.flip, **options
    )
    return first(batches, 3)

  whole = run()
  assert whole[0]["image"].shape == (12, 4, 4, 1)
  assert len({image.tobytes() for batch in whole for image in batch["image"]}) > 30
  assert_equal(run(), whole)
  parts = [run(process_index=p, process_count=3) for p in range(3)]
  joined = [
    {field: np.concatenate([part[step][field] for part in parts]) for field in whole[0]}
    for step in range(3)
  ]
  assert_equal(joined, whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_image_takes_a_row_for_each_of_its_views(processes):
  """Side by side, each its own draw; processes together see the batch of one."""

  def run(**place):
    batches = train_batches(
      numbered(), batch_size=6, seed=4, view=views.noise, num_views=3, **place
    )
    return first(batches, 2)

  whole = run()
  parts = [run(process_index=p, process_count=processes) for p in range(processes)]
  plain = first(train_batches(numbered(), batch_size=6, seed=4), 2)
  for step, batch in enumerate(whole):
    assert batch["image"].shape == (18, 6, 6, 1)
    for field in ("example", "label"):
      np.testing.assert_array_equal(batch[field], plain[step][field].repeat(3))
    np.testing.assert_array_equal(plain[step]["example"], rows([plain[step]]))
    assert len({image.tobytes() for image in batch["image"]}) == 18
    for field, values in batch.items():
      joined = np.concatenate([part[step][field] for part in parts])
      np.testing.assert_array_equal(joined, values)


def test_several_views_need_a_view():
  with pytest.raises(ValueError, match="num_views is 2 with view None"):
    train_batches(numbered(), batch_size=4, seed=0, num_views=2)


def test_a_view_must_draw_a_row_for_each_image():
  def careless(images, rng):
    return images + rng.integers(2)

  with pytest.raises(TypeError, match="size"):
    next(iter(train_batches(numbered(), batch_size=4, seed=0, view=careless)))


def of_sizes(*sizes):
  """Examples of classes of some sizes, in a mixed order."""
  labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  labels = np.random.default_rng(0).permutation(labels)
  return dataclasses.replace(
    numbered(sum(sizes)),
    labels=labels,
    class_names=tuple(f"class {k}" for k in range(len(sizes))),
  )


# Where P divides the classes and where not, down to P = K; empty and small classes.
BY_CLASS = [
  (of_sizes(5, 4, 9, 6, 7, 4, 5, 8), 4, 2),
  (of_sizes(5, 4, 9, 6, 7, 11, 5), 3, 3),
  (of_sizes(12, 7, 10, 9, 5), 4, 4),
  (of_sizes(6, 13, 8), 3, 5),
  (of_sizes(9, 0, 1, 2, 5, 0, 3), 2, 4),
  (of_sizes(3, 3, 3, 4, 5), 3, 1),
]


def assert_fair(taken, total, size):
  """A round of `taken` has each of `total` before any again; each as often as others.

  A round ends with the draw of `size` in which the last of them comes up.
  """
  counts = collections.Counter()
  whole = -(-total // size) * size
  rounds = [taken[i : i + whole] for i in range(0, len(taken) - whole + 1, whole)]
  for one in rounds:
    assert len(set(one[:total])) == total
    counts.update(one)
    assert len(counts) == total and max(counts.values()) - min(counts.values()) <= 1
  return {tuple(one[:total]) for one in rounds}


@pytest.mark.parametrize(("examples", "classes", "images"), BY_CLASS)
def test_a_batch_has_some_images_of_some_classes_and_all_have_their_turn(
  examples, classes, images
):
  sizes = collections.Counter(examples.labels.tolist())
  batches = train_batches(
    examples, batch_size=classes * images, seed=3, images_per_class=images
  )
  visited, shown = [], collections.defaultdict(list)
  for batch in first(batches, 60 * -(-len(sizes) // classes)):
    np.testing.assert_array_equal(batch["label"], examples.labels[batch["example"]])
    labels = batch["label"].reshape(classes, images)
    assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == classes
    visited += labels[:, 0].tolist()
    for label, some in zip(
      labels[:, 0].tolist(), batch["example"].reshape(classes, images), strict=True
    ):
      assert len(set(some)) == min(images, sizes[label])
      shown[label] += some.tolist()
  assert len(assert_fair(visited, len(sizes), classes)) > 3, "in an order of its own"
  orders = {
    # Of fewer than M, all are shown at each visit.
    label: len(assert_fair(shown[label], size, min(images, size)))
    for label, size in sizes.items()
    if size >= images
  }
  assert all(number > 5 for label, number in orders.items() if sizes[label] > 3)
  for label, size in sizes.items():
    if size < images:
      for start in range(0, len(shown[label]), images):
        counts = collections.Counter(shown[label][start : start + images]).values()
        assert len(counts) == size and max(counts) - min(counts) <= 1


def run_by_class(seed=2, examples=BY_CLASS[1][0], **options):
  pipeline._round.cache_clear()  # as in another process
  return train_batches(
    examples, batch_size=12, seed=seed, images_per_class=3, view=views.noise, **options
  )


def first_shown(batches):
  """The images of each class at its first visit."""
  shown = {}
  for batch in batches:
    for label, images in zip(
      batch["label"][::3].tolist(), batch["example"].reshape(-1, 3), strict=True
    ):
      shown.setdefault(label, images.tolist())
  return shown


def test_batches_by_class_are_a_function_of_seed_and_step():
  whole = first(run_by_class(), 9)
  assert_equal(first(run_by_class(), 9), whole)
  others = first(run_by_class(seed=3), 9)
  assert (others[0]["label"] != whole[0]["label"]).any()
  assert first_shown(others) != first_shown(whole)
  for step in (8, 0, 5):  # in any order, from nothing but the step
    pipeline._round.cache_clear()
    iterator = iter(run_by_class())
    iterator.set_state(iterator.get_state() | {"next_index": step})
    assert_equal([next(iterator)], whole[step : step + 1])


def test_batches_by_class_are_the_same_from_workers_and_of_several_processes():
  whole = first(run_by_class(num_views=2), 4)
  parts = [
    first(run_by_class(num_views=2, process_index=p, process_count=4), 4)
    for p in range(4)
  ]
  for step, batch in enumerate(whole):
    assert len(batch["label"]) == 24
    for field, values in batch.items():
      joined = np.concatenate([part[step][field] for part in parts])
      np.testing.assert_array_equal(joined, values)
  iterator = iter(run_by_class(num_views=2, num_workers=2))
  try:
    assert_equal(first(iterator, 4), whole)
  finally:
    iterator.close()


@pytest.mark.parametrize("later", [None, 3])
def test_the_first_batches_visit_each_class_once(later):
  examples = BY_CLASS[1][0]
  sizes = collections.Counter(examples.labels.tolist())

  def run(**options):
    return train_batches(examples, batch_size=12, seed=5, view=views.noise, **options)

  whole = run(images_per_class=later, first_images_per_class=4)
  steps = -(-len(sizes) // 3)
  rounds = first(whole, steps + 4)
  visited = [
    label for batch in rounds[:steps] for label in batch["label"][::4].tolist()
  ]
  assert set(visited) == set(sizes) and len(visited) - len(sizes) < 3
  by_class = first(run(images_per_class=4), steps)
  plain = first(run(images_per_class=later), 4)
  for found, expected in zip(rounds, by_class + plain, strict=True):
    np.testing.assert_array_equal(found["example"], expected["example"])
  iterator = iter(whole)  # from nothing but the step
  iterator.set_state(iterator.get_state() | {"next_index": steps - 1})
  assert_equal([next(iterator), next(iterator)], rounds[steps - 1 : steps + 1])


@pytest.mark.parametrize(
  ("batch_size", "images", "message"),
  [
    (8, 3, "batch_size is 8 with images_per_class 3: give images_per_class of 1 or"),
    (8, 0, "batch_size is 8 with images_per_class 0: give images_per_class of 1 or"),
    (12, 2, "takes 6 classes and 5 have images: give a batch_size of at most 10"),
  ],
)
def test_a_batch_that_the_classes_cannot_fill(batch_size, images, message):
  batches = {"examples": numbered(), "batch_size": batch_size, "seed": 0}
  with pytest.raises(ValueError, match=message):
    train_batches(**batches, images_per_class=images)
  of_first = message.replace("images_per_class", "first_images_per_class")
  with pytest.raises(ValueError, match=of_first):
    train_batches(**batches, first_images_per_class=images)


def test_worker_processes_give_the_same_batches():
  def run(**workers):
    return train_batches(numbered(), batch_size=5, seed=3, view=views.warp, **workers)

  iterator = iter(run(num_workers=1))
  try:
    assert_equal(first(iterator, 3), first(run(), 3))
    state = iterator.get_state()
  finally:
    iterator.close()
  assert state


@pytest.mark.parametrize("total,batch_size,padded", [(23, 5, 2), (20, 5, 0), (3, 8, 5)])
def test_evaluation_sees_each_example_once_in_batches_of_one_size(
  total, batch_size, padded
):
  batches = list(eval_batches(numbered(total), batch_size=batch_size))
  assert all(batch["image"].shape == (batch_size, 6, 6, 1) for batch in batches)
  assert all(batch["image"].dtype == np.uint8 for batch in batches)
  labels = np.concatenate([batch["label"] for batch in batches])
  assert labels.dtype == np.int32 and (labels == -1).sum() == padded
  np.testing.assert_array_equal(rows(batches)[labels >= 0], np.arange(total))
  np.testing.assert_array_equal(labels[:total], np.arange(total) % 5)


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_sees_the_same_views_in_every_call(processes):
  def run(seed, view=views.noise, process=0, count=1):
    place = {"process_index": process, "process_count": count}
    return eval_batches(numbered(7), batch_size=4, view=view, seed=seed, **place)

  whole = [batch["image"] for batch in run(1)]
  parts = [
    [batch["image"] for batch in run(1, process=p, count=processes)]
    for p in range(processes)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
  plain = [batch["image"] for batch in run(1, view=None)]
  for other in (plain, [batch["image"] for batch in run(2)]):
    assert all((a != b).any() for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_that_the_data_cannot_fill(batch_size):
  message = f"batch_size is {batch_size} with 23 examples: give 1 to 23"
  with pytest.raises(ValueError, match=message):
    train_batches(numbered(), batch_size=batch_size, seed=0)


def test_a_batch_that_does_not_divide():
  with pytest.raises(ValueError, match="10 does not divide among 4 .* such as 8"):
    train_batches(numbered(), batch_size=10, seed=0, process_count=4)
  with pytest.raises(
    ValueError, match="process_index is 2 of 2 processes: give 0 to 1"
  ):
    train_batches(numbered(), batch_size=4, seed=0, process_index=2, process_count=2)


def test_evaluation_needs_examples():
  empty = numbered().subset([])
  with pytest.raises(ValueError, match="batch_size is 4 with 0 examples"):
    eval_batches(empty, batch_size=4)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_of_the_classes_is_named(label):
  examples = numbered()
  examples.labels[11] = label
  expected = rf"example 11 has label {label}, expected 0 to 4 \(K = 5\)"
  with pytest.raises(ValueError, match=expected):
    train_batches(examples, batch_size=4, seed=0)
  with pytest.raises(ValueError, match=expected):
    eval_batches(examples, batch_size=4)
