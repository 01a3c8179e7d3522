"""What is held out, set aside and made harder, and how rare classes are scored."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.data.examples import Decoded, Examples
from configs import base
from configs.base import Config, Data
from experiments.run import datasets, scoring

CLASSES, DRAWINGS = 20, 9
TAIL = {"imbalance": 2.0, "seen_fraction": 1 / 3}


def of_drawings(copies, prefix):
  """Classes of nine drawings, each in some copies, in a mixed order.

  The first pixel tells the class, the second the drawing.
  """
  labels = np.arange(CLASSES).repeat(DRAWINGS * copies)
  drawings = np.arange(CLASSES * DRAWINGS).repeat(copies)
  order = np.random.default_rng(0).permutation(len(labels))
  images = np.stack([labels, drawings % DRAWINGS], axis=1)[order].astype(np.uint8)
  return Examples(
    source=Decoded(images.reshape(-1, 1, 2, 1)),
    indices=np.arange(len(labels)),
    labels=labels[order].astype(np.int32),
    class_names=tuple(f"{prefix}{k}" for k in range(CLASSES)),
    channels=1,
    groups=drawings[order].astype(np.int32),
  )


@pytest.fixture
def load(monkeypatch):
  splits = of_drawings(2, "train"), of_drawings(1, "test")
  monkeypatch.setattr(datasets, "_load_splits", lambda config: splits)
  return lambda **fields: datasets.load_data(
    Config(data=Data(**{"validation_fraction": 0.2, **fields}))
  )


def drawn(examples):
  """(class, drawing) of each example, from its picture."""
  images = examples.take(np.arange(len(examples)))["image"]
  return [tuple(pixels.ravel().tolist()) for pixels in images]


def test_validation_has_one_copy_of_a_drawing_as_the_test_has(load):
  data = load()
  assert data.seen is None and len(data.train) == 16 * 18 and len(data.test) == 180
  validation = drawn(data.validation)
  assert len(validation) == len(set(validation)) == 4 * 9
  assert not {label for label, _ in validation} & {
    label for label, _ in drawn(data.train)
  }
  # No more than pictures of a drawing go: without groups, all stay.
  plain = dataclasses.replace(data.train, groups=None)
  assert plain.one_of_each_group() is plain


def test_a_long_tail_sets_seen_images_aside_and_spares_validation_and_test(load):
  before, data = load(), load(imbalance=8.0, seen_fraction=1 / 3)
  for split in ("validation", "test"):
    assert drawn(getattr(data, split)) == drawn(getattr(before, split))
  seen, train = drawn(data.seen), drawn(data.train)
  # A third of each class's drawings, one picture each; no copy of them trains.
  assert len(seen) == len(set(seen)) == 16 * 3 and not set(seen) & set(train)
  assert {label for label, _ in seen} == {label for label, _ in train}
  assert data.seen.class_names == data.train.class_names == before.train.class_names
  np.testing.assert_array_equal(np.bincount(data.seen.labels), 3)
  expected = sorted(max(2, round(12 * 8 ** (-rank / 15))) for rank in range(16))
  assert sorted(np.bincount(data.train.labels)) == expected
  for examples in (data.seen, data.train):  # a label is still its picture's
    names = [f"train{label}" for label, _ in drawn(examples)]
    assert [examples.class_names[label] for label in examples.labels] == names


def test_seen_images_are_set_aside_without_a_long_tail_too(load):
  data = load(seen_fraction=1 / 3)
  assert len(data.seen) == 16 * 3 and len(data.train) == 16 * 12


def test_half_of_the_classes_of_a_classification_set_are_tested_on_unseen(monkeypatch):
  splits = of_drawings(2, "class"), of_drawings(1, "class")
  monkeypatch.setattr(datasets, "_load_splits", lambda config: splits)
  fields = {"unseen_classes": True, "validation_fraction": 0.0}
  data = datasets.load_data(Config(data=Data(**fields)))
  assert data.train.class_names == tuple(f"class{k}" for k in range(10))
  assert data.test.class_names == tuple(f"class{k}" for k in range(10, 20))
  assert {label for label, _ in drawn(data.train)} == set(range(10))
  assert {label for label, _ in drawn(data.test)} == set(range(10, 20))
  assert (len(data.train), len(data.test)) == (180, 90)


def test_test_classes_that_are_unseen_already_cannot_be_halved(load):
  with pytest.raises(ValueError, match="unseen_classes=true, but the test classes"):
    load(unseen_classes=True)


def test_label_noise_reaches_the_train_labels_alone(load):
  before, data = load(**TAIL), load(**TAIL, label_noise=0.25)
  for split in ("train", "validation", "test", "seen"):
    clean, noisy = getattr(before, split), getattr(data, split)
    np.testing.assert_array_equal(noisy.indices, clean.indices)
    wrong = round(0.25 * len(clean)) if split == "train" else 0
    assert (noisy.labels != clean.labels).sum() == wrong


@pytest.mark.parametrize(
  ("fields", "says"),
  [
    ({"data.imbalance": 0.5}, "imbalance=0.5: expected 1 or more"),
    ({"data.label_noise": -0.1}, "label_noise=-0.1: expected 0 to 1"),
  ],
)
def test_what_no_run_can_use_is_refused(fields, says):
  with pytest.raises(ValueError, match=says):
    base.replace(Config(), fields)


def test_recall_of_seen_images_is_told_by_how_frequent_their_class_is(load):
  """Each is searched among all of them; the drawn classes are all of one size."""
  data = load(imbalance=8.0, seen_fraction=1 / 3, label_noise=0.5)
  rng = np.random.default_rng(1)

  def embed(state, examples):
    rows = rng.normal(size=(len(examples), 16)) + 2 * np.eye(20, 16)[examples.labels]
    made[len(examples)] = rows
    return rows.astype(np.float32), examples.labels

  made = {}
  metrics = scoring.test(Config(recall_at=(1,)), embed, None, data).metrics
  rows, labels = made[len(data.seen)], data.seen.labels.tolist()
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  # A class is as frequent as it was before its labels were spoilt.
  clean = load(imbalance=8.0, seen_fraction=1 / 3).train.labels
  counts = [int((clean == k).sum()) for k in range(16)]
  assert (np.diff(np.array(counts)[np.argsort(data.tail_ranks)]) <= 0).all()
  ranked = np.argsort(-data.tail_ranks).tolist()
  for name, classes in {
    "rare": ranked[:6],
    "medium": ranked[6:11],
    "frequent": ranked[11:],
  }.items():
    hits = []
    for i, label in enumerate(labels):
      if label in classes:
        others = [j for j in range(len(labels)) if j != i]
        nearest = max(others, key=lambda j: float(rows[i] @ rows[j]))
        hits.append(labels[nearest] == label)
    assert len(hits) == 3 * len(classes)
    assert metrics[f"seen {name} recall@1"] == pytest.approx(sum(hits) / len(hits))
  assert 0 < sum(v for k, v in metrics.items() if k.startswith("seen")) < 3


def test_the_thirds_are_the_same_classes_without_the_tail(load):
  plain, tailed = load(seen_fraction=1 / 3), load(imbalance=8.0, seen_fraction=1 / 3)
  np.testing.assert_array_equal(plain.tail_ranks, tailed.tail_ranks)
  np.testing.assert_array_equal(plain.seen.labels, tailed.seen.labels)
  assert sorted(plain.tail_ranks) == [*range(16)] != plain.tail_ranks.tolist()


def test_a_class_with_one_seen_image_is_no_query():
  labels = np.array([0, 0, 1, 2, 2, 3])
  metrics = scoring.score_by_rank(
    np.eye(4, dtype=np.float32)[labels], labels, np.array([3, 1, 0, 2])
  )
  # Rare: 0 and 3, which is alone; medium: 1, alone; frequent: 2.
  assert metrics == {"seen rare recall@1": 1.0, "seen frequent recall@1": 1.0}
