"""Few-shot tasks against their definition, one query at a time in float64."""

import math

import numpy as np
import pytest

from ccl_jax import few_shot

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 8))
_RNG = np.random.default_rng(1)
ROWS = _RNG.normal(size=(96, 5)) + _RNG.normal(size=(12, 5))[LABELS]


def by_definition(rows, tasks, by):
  """Accuracies of tasks, by loops over their queries."""
  rows = [row / math.sqrt(sum(x * x for x in row)) for row in rows.astype(np.float64)]
  found = []
  for support, queries in zip(*tasks, strict=True):
    hits, total = 0, 0
    for own, asked in enumerate(queries):
      for query in asked:
        distances = []
        for shown in support:
          each = [rows[i] for i in shown]
          prototypes = each if by == "nearest" else [sum(each) / len(each)]
          distances.append(min(((rows[query] - p) ** 2).sum() for p in prototypes))
        hits += distances.index(min(distances)) == own
        total += 1
    found.append(hits / total)
  return found


@pytest.mark.parametrize("by", ["mean", "nearest"])
@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 3), (12, 3, 5)])
def test_accuracy_is_that_of_the_definition(by, ways, shots, queries):
  tasks = few_shot.draw(
    LABELS, ways=ways, shots=shots, queries=queries, tasks=20, seed=3
  )
  found = few_shot.accuracy(ROWS, tasks, by=by)
  np.testing.assert_allclose(found, by_definition(ROWS, tasks, by), atol=1e-12)
  assert 0.1 < found.mean() < 0.9 and len(set(found)) > 1


def test_an_embedding_that_is_not_finite_is_named():
  """It would be nearest to the first class, in silence."""
  tasks = few_shot.draw(LABELS, ways=5, shots=1, queries=1, tasks=2, seed=3)
  rows = ROWS.copy()
  rows[7, 2] = np.nan
  with pytest.raises(ValueError, match="embeddings row 7 is not finite"):
    few_shot.accuracy(rows, tasks)


def test_mean_and_nearest_differ_with_several_shots_and_not_with_one():
  for shots, same in ((1, True), (4, False)):
    tasks = few_shot.draw(LABELS, ways=6, shots=shots, queries=4, tasks=50, seed=0)
    means, nearest = (
      few_shot.accuracy(ROWS, tasks, by=by) for by in ("mean", "nearest")
    )
    assert (means == nearest).all() == same


def test_a_task_has_different_classes_and_no_image_twice():
  tasks = few_shot.draw(LABELS, ways=7, shots=3, queries=5, tasks=40, seed=0)
  rows = np.concatenate(tasks, axis=2)
  assert rows.shape == (40, 7, 8)
  classes = LABELS[rows]
  assert (classes == classes[..., :1]).all(), "a row of a task is of one class"
  for task, of_classes in zip(rows, classes[..., 0], strict=True):
    assert len(set(of_classes)) == 7 and len(set(task.ravel())) == 56
  assert len(set(classes[..., 0].ravel())) == 12, "all classes have a turn"
  again = few_shot.draw(LABELS, ways=7, shots=3, queries=5, tasks=40, seed=0)
  np.testing.assert_array_equal(tasks.support, again.support)
  other = few_shot.draw(LABELS, ways=7, shots=3, queries=5, tasks=40, seed=1)
  assert (tasks.support != other.support).any()


def test_small_classes_and_padding_are_never_drawn():
  labels = np.array([0] * 4 + [1] * 3 + [2] * 4 + [-1] * 4)
  tasks = few_shot.draw(labels, ways=2, shots=1, queries=3, tasks=30, seed=0)
  assert set(labels[tasks.queries].ravel()) == {0, 2}


@pytest.mark.parametrize("known", [True, False])
def test_tasks_within_families_have_one_family_and_two_drawers(known):
  # Three families of 2, 4 and 6 classes; each class drawn once by each of 8 drawers.
  families = np.repeat([0, 1, 2], [2, 4, 6])[LABELS]
  drawers = np.empty(96, int)
  for k in range(12):
    drawers[LABELS == k] = np.arange(8)
  tasks = few_shot.draw_within_families(
    LABELS, families, drawers if known else None, ways=4, tasks=60, seed=0
  )
  assert tasks.support.shape == tasks.queries.shape == (60, 4, 1)
  for shown, asked in zip(tasks.support[..., 0], tasks.queries[..., 0], strict=True):
    np.testing.assert_array_equal(LABELS[shown], LABELS[asked])
    assert len(set(LABELS[shown])) == 4 and not set(shown) & set(asked)
    assert len(set(families[shown])) == 1
    if known:
      (one,), (other,) = set(drawers[shown]), set(drawers[asked])
      assert one != other
  seen = np.bincount(families[tasks.support[:, 0, 0]], minlength=3)
  assert seen[0] == 0 and (seen[1:] > 20).all(), (
    "large families alike, small ones never"
  )


def test_the_interval_is_196_standard_errors():
  assert few_shot.interval(np.array([0.0, 1.0, 1.0, 0.0])) == pytest.approx(
    1.96 * math.sqrt(1 / 3) / 2
  )


def test_what_cannot_be_drawn_is_refused():
  labels, families = np.arange(4).repeat(2), np.arange(8) // 4
  with pytest.raises(
    ValueError, match="5-way tasks of 1 . 1 images: 4 classes have so"
  ):
    few_shot.draw(labels, ways=5, shots=1, queries=1, tasks=1, seed=0)
  with pytest.raises(ValueError, match="none has 3 classes of two images"):
    few_shot.draw_within_families(labels, families, ways=3, tasks=1, seed=0)
  with pytest.raises(ValueError, match="no two drew 2 classes"):
    few_shot.draw_within_families(
      labels, families, np.zeros(8, int), ways=2, tasks=1, seed=0
    )
  with pytest.raises(ValueError, match="1 tasks have no interval"):
    few_shot.interval(np.ones(1))


def test_a_zero_embedding_is_finite():
  tasks = few_shot.draw(LABELS, ways=5, shots=2, queries=2, tasks=4, seed=0)
  assert np.isfinite(few_shot.accuracy(np.zeros_like(ROWS), tasks)).all()
