"""Probes of frozen features, and what follows an attribute instead of the class."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from ccl_jax import probe


@pytest.fixture(scope="module")
def clouds():
  """Three clouds of rows, one far from unit scale and one feature that never moves."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 700).astype(np.int32)
  middles = np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4]])
  rows = middles[labels] + rng.normal(size=(700, 3))
  rows = np.concatenate([1000 + 50 * rows, np.full((700, 1), 7.0)], axis=1)
  return rows.astype(np.float32), labels


@pytest.mark.parametrize("how", ["lbfgs", "sgd"])
def test_a_linear_probe_finds_what_lies_apart(how, clouds):
  rows, labels = clouds
  fitted = rows[:600], labels[:600], rows[600:]
  if how == "lbfgs":
    found = probe.linear(*fitted)
  else:
    found = probe.linear_as_published(*fitted, key=jax.random.key(0), batch_size=64)
  assert found.dtype == labels.dtype
  assert np.mean(found == labels[600:]) > 0.98
  # Of rows of noise, no more than chance.
  noise = np.random.default_rng(1).normal(size=(700, 4)).astype(np.float32)
  assert (
    np.mean(probe.linear(noise[:600], labels[:600], noise[600:]) == labels[600:]) < 0.5
  )


def test_neighbours_vote_as_scikit_learn_has_it(clouds):
  rows, labels = clouds
  noisy = rows[:, :3] - 1000
  unit = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
  # By squared distance of unit rows, the order is that of their cosines; k is odd and
  # a vote over two classes has no tie.
  two = labels < 2
  peer = KNeighborsClassifier(7).fit(unit[two], labels[two])
  expected = peer.predict(unit[~two])
  found = probe.neighbours(noisy[two], labels[two], noisy[~two], k=7)
  np.testing.assert_array_equal(found, expected)
  assert 0.1 < found.mean() < 0.9


def test_of_classes_with_as_many_votes_the_nearer_wins():
  rows = np.array([[1, 0], [0.8, 0.6], [0.9, 0.1], [0.1, 0.9]], np.float32)
  labels = np.array([2, 0, 2, 0], np.int32)
  query = np.array([[1, 0]], np.float32)
  assert probe.neighbours(rows, labels, query, k=4) == [2]
  assert probe.neighbours(rows, 2 - labels, query, k=4) == [0]
  # A third vote counts more than any nearness.
  more = np.concatenate([rows, [[-1, 0.1]]]).astype(np.float32)
  assert probe.neighbours(more, np.append(labels, 0).astype(np.int32), query, k=5) == [
    0
  ]


def test_cells_count_each_class_with_each_attribute():
  labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
  bias = np.array([0, 0, 1, 1, 1, 0], np.int32)
  predicted = np.array([0, 1, 1, 1, 1, 0], np.int32)
  cells = probe.by_cell(predicted, labels, bias, (2, 3))
  np.testing.assert_array_equal(cells, [[0.5, 0, np.nan], [0, 1, np.nan]])
  aligned = probe.aligned_cells(labels, bias, (2, 3))
  assert aligned.tolist() == [[True, False, False], [False, True, False]]
  assert probe.bias_metrics(cells, aligned) == {
    "unbiased": pytest.approx((0.5 + 0 + 0 + 1) / 4),
    "aligned": pytest.approx((0.5 + 1) / 2),
    "conflicting": pytest.approx(0.0),
  }


def test_a_prediction_of_the_attribute_is_right_where_they_agree_alone():
  """The unbiased accuracy of a model that sees the colour is that of chance."""
  labels, bias = np.divmod(np.arange(100), 10)
  labels, bias = labels.astype(np.int32), bias.astype(np.int32)
  cells = probe.by_cell(bias, labels, bias, (10, 10))
  metrics = probe.bias_metrics(cells, np.eye(10, dtype=bool))
  assert metrics == {"unbiased": pytest.approx(0.1), "aligned": 1.0, "conflicting": 0.0}
