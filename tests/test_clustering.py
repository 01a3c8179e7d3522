"""NMI and AMI of k-means, beside the formulas."""

import itertools
import math

import numpy as np
import pytest

from ccl_jax import clustering

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
def test_values_are_those_of_the_formulas(labels):
  groups = [0, 0, 0, 1, 1, 2]
  found = clustering.evaluate(embeddings_of(groups), np.array(labels))
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
  found = clustering.evaluate(rows, np.arange(200) % 40)
  assert abs(found["ami"]) < 0.05 < 0.5 < found["nmi"]


def test_the_seed_decides():
  rows = np.random.default_rng(1).standard_normal((100, 4))
  labels = np.arange(100) % 20
  one, same, other = (clustering.evaluate(rows, labels, seed=s) for s in (0, 0, 1))
  assert one == same != other
