"""Probes of frozen features, their clusters, and what follows an attribute instead."""

import itertools
import math

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


def test_neighbors_vote_as_scikit_learn_has_it(clouds):
  rows, labels = clouds
  noisy = rows[:, :3] - 1000
  unit = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
  # By squared distance of unit rows, the order is that of their cosines; k is odd and
  # a vote over two classes has no tie.
  two = labels < 2
  peer = KNeighborsClassifier(7).fit(unit[two], labels[two])
  expected = peer.predict(unit[~two])
  found = probe.neighbors(noisy[two], labels[two], noisy[~two], k=7)
  np.testing.assert_array_equal(found, expected)
  assert 0.1 < found.mean() < 0.9


def test_of_classes_with_as_many_votes_the_nearer_wins():
  rows = np.array([[1, 0], [0.8, 0.6], [0.9, 0.1], [0.1, 0.9]], np.float32)
  labels = np.array([2, 0, 2, 0], np.int32)
  query = np.array([[1, 0]], np.float32)
  assert probe.neighbors(rows, labels, query, k=4) == [2]
  assert probe.neighbors(rows, 2 - labels, query, k=4) == [0]
  # A third vote counts more than any nearness.
  more = np.concatenate([rows, [[-1, 0.1]]]).astype(np.float32)
  assert probe.neighbors(more, np.append(labels, 0).astype(np.int32), query, k=5) == [0]


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
  """The unbiased accuracy of a model that sees the color is that of chance."""
  labels, bias = np.divmod(np.arange(100), 10)
  labels, bias = labels.astype(np.int32), bias.astype(np.int32)
  cells = probe.by_cell(bias, labels, bias, (10, 10))
  metrics = probe.bias_metrics(cells, np.eye(10, dtype=bool))
  assert metrics == {"unbiased": pytest.approx(0.1), "aligned": 1.0, "conflicting": 0.0}


# Groups so far apart that k-means finds no others.
CORNERS = np.eye(3, 8)


def embeddings_of(groups):
  rng = np.random.default_rng(0)
  rows = CORNERS[groups] + 0.01 * rng.standard_normal((len(groups), 8))
  return rows * rng.uniform(0.1, 10, (len(groups), 1))  # of any length


def entropy(labels):
  shares = [labels.count(label) / len(labels) for label in set(labels)]
  return -sum(share * math.log(share) for share in shares)


def information(groups, labels):
  together = list(zip(groups, labels, strict=True))
  return entropy(groups) + entropy(labels) - entropy(together)


@pytest.mark.parametrize(
  "labels", [[0, 0, 0, 1, 1, 2], [0, 1, 0, 1, 2, 2], [2, 1, 0, 0, 1, 2]]
)
def test_nmi_and_ami_are_those_of_the_formulas(labels):
  groups = [0, 0, 0, 1, 1, 2]
  found = probe.clusters(embeddings_of(groups), np.array(labels), seed=0)
  shared, half = information(groups, labels), (entropy(groups) + entropy(labels)) / 2
  # The expectation, over every way to give the groups to the rows.
  expected = np.mean(
    [information(list(order), labels) for order in itertools.permutations(groups)]
  )
  assert found["nmi"] == pytest.approx(shared / half, abs=1e-6)
  assert found["ami"] == pytest.approx(
    (shared - expected) / (half - expected), abs=1e-6
  )


def test_embeddings_without_classes_have_no_ami_but_some_nmi():
  rows = np.random.default_rng(1).standard_normal((200, 4))
  found = probe.clusters(rows, np.arange(200) % 40, seed=0)
  assert abs(found["ami"]) < 0.05 < 0.5 < found["nmi"]


def test_the_seed_decides_the_clusters():
  rows = np.random.default_rng(1).standard_normal((100, 4))
  labels = np.arange(100) % 20
  one, same, other = (probe.clusters(rows, labels, seed=s) for s in (0, 0, 1))
  assert one == same != other
