"""Error rates of thresholds, against loops over all pairs and scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from ccl_jax import thresholds


def rates_by_loops(cosines, same, levels):
  """False accept and false reject rates, counted pair by pair."""
  far, frr = [], []
  for threshold in levels:
    accepted = [c >= threshold for c in cosines]
    wrong = sum(a and not s for a, s in zip(accepted, same, strict=True))
    missed = sum(s and not a for a, s in zip(accepted, same, strict=True))
    far.append(wrong / (len(same) - sum(same)))
    frr.append(missed / sum(same))
  return far, frr


def pairs_of(rows, labels, columns=None, column_labels=None):
  """Cosines by float64 loops, and whether the classes are the same."""
  unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  if columns is None:
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    columns, column_labels = unit, labels
  else:
    columns = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
  cosines = [float(unit[i] @ columns[j]) for i, j in pairs]
  return cosines, [bool(labels[i] == column_labels[j]) for i, j in pairs]


@pytest.mark.parametrize("block", [4, 64])
@pytest.mark.parametrize("with_gallery", [False, True])
def test_error_rates_are_those_of_all_pairs(with_gallery, block, monkeypatch):
  monkeypatch.setattr(thresholds, "_PAIRS_BLOCK", block)
  rng = np.random.default_rng(0)
  rows, columns = rng.normal(size=(17, 5)), rng.normal(size=(9, 5))
  labels, column_labels = rng.integers(0, 3, 17), rng.integers(0, 3, 9)
  others = (columns, column_labels) if with_gallery else ()
  found = thresholds.calibrate(rows, labels, *others)
  cosines, same = pairs_of(rows, labels, *others)
  assert (found.same, found.other) == (sum(same), len(same) - sum(same))
  # Far from the borders of cells, where float32 and float64 may round apart.
  some = [
    t
    for t in found.thresholds[::997].tolist()
    if min(abs(t - c) for c in cosines) > 1e-6
  ]
  at = np.searchsorted(found.thresholds, np.array(some, np.float32))
  far, frr = rates_by_loops(cosines, same, some)
  np.testing.assert_allclose(found.far[at], far)
  np.testing.assert_allclose(found.frr[at], frr)
  assert found.far[0] == 1 and found.frr[0] == 0
  assert found.far[-1] == 0 and found.frr[-1] == 1


def test_a_pair_at_the_threshold_is_accepted_and_padding_is_no_pair():
  rows = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0], [3, 3]])
  found = thresholds.calibrate(rows, np.array([0, 0, 1, 1, -1]))
  assert (found.same, found.other) == (2, 4)
  # One class: cosines 1 and 0; two classes: 0, -1, 0, -1.
  for cosine, far, frr in ((-1, 1, 0), (0, 0.5, 0), (1, 0, 0.5)):
    at = int(np.searchsorted(found.thresholds, cosine))
    assert found.thresholds[at] == cosine
    assert (found.far[at], found.frr[at]) == (far, frr)
  assert found.at_far(0.5)[1] == 0 and -1 < found.at_far(0.5)[0] <= 0
  assert found.at_far(0.3)[0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("decimals", [1, 6])
def test_rates_of_pairs_and_the_eer_are_those_of_scikit_learn(decimals):
  rng = np.random.default_rng(1)
  same = rng.random(300) < 0.3
  similarities = np.round(rng.normal(size=300) + same, decimals)  # with ties, or none
  found = thresholds.calibrate_pairs(similarities, same)
  far, recall, levels = roc_curve(same, similarities, drop_intermediate=False)
  np.testing.assert_array_equal(found.thresholds[:-1], levels[:0:-1])
  np.testing.assert_allclose(found.far, far[::-1])
  np.testing.assert_allclose(found.frr, 1 - recall[::-1], atol=1e-12)
  crossing = brentq(lambda x: 1 - x - np.interp(x, far, recall), 0, 1)
  assert found.eer == pytest.approx(crossing, abs=1e-9)
  threshold, missed = found.at_far(0.1)
  lowest = min(t for t, f in zip(levels, far, strict=True) if f <= 0.1)
  assert threshold == lowest
  assert missed == pytest.approx(np.mean(similarities[same] < threshold))


@pytest.mark.parametrize(
  ("call", "told"),
  [
    (lambda: thresholds.calibrate(np.eye(3), np.arange(3)), "no pair of one class"),
    (lambda: thresholds.calibrate(np.eye(3), np.zeros(3, int)), "no pair of two"),
    (
      lambda: thresholds.calibrate_pairs(
        np.array([0.1, np.nan]), np.array([False, True])
      ),
      "similarity 1 is nan",
    ),
    (
      lambda: thresholds.calibrate_pairs(np.arange(3.0), np.arange(3) > 1).at_far(0.1),
      "far=0.1 of 2 pairs of two classes: give 0.5 to 1",
    ),
  ],
)
def test_what_cannot_be_calibrated_is_named(call, told):
  with pytest.raises(ValueError, match=told):
    call()
