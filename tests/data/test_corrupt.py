"""A long tail keeps what its formula says, and noise changes no more than it should."""

import math

import numpy as np
import pytest

from ccl_jax.data import corrupt, pipeline
from tests.data.test_examples import of_labels

SIZES = [40, 7, 100, 3, 1, 60, 20, 2, 55, 31]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), SIZES))


@pytest.mark.parametrize("ratio", [1.0, 7.5, 100.0])
def test_a_long_tail_falls_exponentially_over_a_random_order_of_classes(ratio):
  examples = of_labels(LABELS % 10, 10)
  kept = corrupt.long_tailed(examples, ratio, seed=4)
  counts = np.bincount(kept.labels, minlength=10).tolist()
  # Each class has a rank of its own that explains how many it keeps.
  possible = [
    {
      rank
      for rank in range(10)
      if min(size, max(2, round(size * ratio ** (-rank / 9)))) == count
    }
    for size, count in zip(SIZES, counts, strict=True)
  ]

  def assigned(left, used):
    if not left:
      return True
    first, *others = left
    return any(assigned(others, used | {rank}) for rank in first - used)

  assert assigned(sorted(possible, key=len), frozenset())
  # In their order, each with its label, none twice.
  assert (np.diff(kept.indices) > 0).all()
  np.testing.assert_array_equal(kept.labels, LABELS[kept.indices])
  assert kept.class_names == examples.class_names
  if ratio == 1:
    assert counts == SIZES


def test_the_tail_and_its_images_are_random_by_the_seed():
  examples = of_labels(np.repeat(np.arange(10), 50), 10)
  first, again, other = (
    corrupt.long_tailed(examples, 25.0, seed=seed) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first.indices, again.indices)
  counts = [np.bincount(some.labels).tolist() for some in (first, other)]
  expected = sorted(round(50 * 25 ** (-rank / 9)) for rank in range(10))
  assert counts[0] != counts[1] and sorted(counts[0]) == sorted(counts[1]) == expected
  assert sorted(counts[0]) != counts[0], "ranks are not in the order of labels"
  # Not the first images of a class: a class of 25 or fewer has some past the 25th.
  assert (first.indices % 50 >= 25).sum() > 0.3 * len(first)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_noise_gives_a_fraction_the_label_of_any_other_class(fraction):
  examples = of_labels(LABELS.repeat(50), 10)
  noisy = corrupt.with_label_noise(examples, fraction, seed=3)
  total = len(examples)
  changed = noisy.labels != examples.labels
  assert changed.sum() == round(fraction * total)
  assert noisy.labels.dtype == np.int32 and noisy.labels.min() >= 0
  np.testing.assert_array_equal(noisy.indices, examples.indices)
  np.testing.assert_array_equal(examples.labels, LABELS.repeat(50))  # as they were
  if fraction == 0:
    return
  # Each of the nine others as likely: within five deviations of a binomial.
  shift = (noisy.labels - examples.labels)[changed] % 10
  counts, draws = np.bincount(shift, minlength=10)[1:], changed.sum()
  assert np.abs(counts - draws / 9).max() < 5 * math.sqrt(draws * 8 / 81)
  # Whatever the class and the place.
  for label in range(10):
    own = changed[examples.labels == label]
    slack = 5 * math.sqrt(len(own) * fraction * (1 - fraction)) + 1e-9
    assert abs(own.sum() - fraction * len(own)) <= slack
  # And not those that some epoch of training begins with.
  for epoch in range(4):
    first = pipeline._permutation(3, epoch, total)[: changed.sum()]
    assert fraction == 1 or changed[first].mean() < fraction + 0.2
  other = corrupt.with_label_noise(examples, fraction, seed=5)
  assert (other.labels != noisy.labels).any()
  again = corrupt.with_label_noise(examples, fraction, seed=3)
  np.testing.assert_array_equal(again.labels, noisy.labels)


def test_what_cannot_be_is_refused():
  examples = of_labels([0, 0, 1], 2)
  with pytest.raises(ValueError, match="ratio is 0.5: give 1, which keeps all"):
    corrupt.long_tailed(examples, 0.5, seed=0)
  with pytest.raises(ValueError, match="fraction is 1.5: give 0 to 1"):
    corrupt.with_label_noise(examples, 1.5, seed=0)
  with pytest.raises(ValueError, match="of 1 class have no wrong label"):
    corrupt.with_label_noise(of_labels([0, 0], 1), 0.5, seed=0)
