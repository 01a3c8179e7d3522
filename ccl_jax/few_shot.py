"""Few-shot classification by embeddings: tasks, their accuracy, and its interval.

A task has W classes that the network was never trained on. S images of each class, the
support, are shown with their labels; Q other images of each, the queries, are given the
class whose support they are nearest to.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ccl_jax.vectors import unit_rows

__all__ = ["Tasks", "accuracy", "draw", "draw_within_families", "interval"]


class Tasks(NamedTuple):
  """Rows of the embeddings that E tasks show and ask for, by class.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import few_shot
    >>> support, queries = np.array([[[0], [2]]]), np.array([[[1], [3]]])
    >>> tasks = few_shot.Tasks(support, queries)
    >>> print(tasks.support.shape)  # one task, two ways, one shot
    (1, 2, 1)
  """

  support: Int[np.ndarray, "E W S"]
  queries: Int[np.ndarray, "E W Q"]


def draw(
  labels: Int[np.ndarray, " N"],
  *,
  ways: int,
  shots: int,
  queries: int,
  tasks: int,
  seed: int,
) -> Tasks:
  """Draws tasks: classes of enough images, and images of each, none of them twice.

  Args:
    labels: class of each row; rows with a label < 0 are padding and are ignored.
    ways: W, classes of a task.
    shots: S, images of each class that are shown.
    queries: Q, other images of each class that are asked for.
    tasks: E, how many.
    seed: of the draws.

  Raises:
    ValueError: labels that are no vector; fewer than W classes with S + Q images.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import few_shot
    >>> labels = np.repeat(np.arange(6), 4)
    >>> tasks = few_shot.draw(labels, ways=5, shots=1, queries=2, tasks=10, seed=0)
    >>> print(tasks.support.shape, tasks.queries.shape)
    (10, 5, 1) (10, 5, 2)
  """
  rows_of = _rows_of(labels, shots + queries)
  if len(rows_of) < ways:
    raise ValueError(
      f"{ways}-way tasks of {shots} + {queries} images: {len(rows_of)} classes have so"
      " many; give fewer ways, or fewer images"
    )
  rng = np.random.default_rng(seed)
  drawn = np.empty((tasks, ways, shots + queries), np.int64)
  for task in drawn:
    for place, which in enumerate(rng.permutation(len(rows_of))[:ways]):
      task[place] = rng.permutation(rows_of[which])[: shots + queries]
  return Tasks(drawn[..., :shots], drawn[..., shots:])


def draw_within_families(
  labels: Int[np.ndarray, " N"],
  families: Int[np.ndarray, " N"],
  drawers: Int[np.ndarray, " N"] | None = None,
  *,
  ways: int,
  tasks: int,
  seed: int,
) -> Tasks:
  """Draws one-shot tasks with one query of each class, all classes of one family.

  Each family with enough classes is as likely as any other. The support of a task is
  by one drawer and its queries by another, as in the one-shot classification of Lake et
  al. 2015 (Science 350, supplement, Section 6.1), where who drew what is known.

  Args:
    labels: class of each row.
    families: of each row, as the alphabet of a character.
    drawers: who made the picture; None: two images of a class at random.
    ways: W, classes of a task.
    tasks: E, how many.
    seed: of the draws.

  Raises:
    ValueError: no family with W classes that two drawers drew.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import few_shot
    >>> labels = np.repeat(np.arange(6), 4)
    >>> alphabets, drawers = labels // 3, np.arange(24) % 4
    >>> tasks = few_shot.draw_within_families(
    ...   labels, alphabets, drawers, ways=3, tasks=2, seed=0
    ... )
    >>> print(tasks.support.shape, np.unique(alphabets[tasks.support[0]]).size)
    (2, 3, 1) 1
  """
  rng = np.random.default_rng(seed)
  pools = [np.flatnonzero(families == family) for family in np.unique(families)]
  pools = [rows for rows in pools if len(_rows_of(labels[rows], 2)) >= ways]
  if not pools:
    raise ValueError(
      f"{ways}-way tasks within a family: none has {ways} classes of two images; give"
      " fewer ways"
    )
  support, queries = np.empty((2, tasks, ways, 1), np.int64)
  for task in range(tasks):
    rows = pools[rng.integers(len(pools))]
    if drawers is None:
      one = draw(
        labels[rows],
        ways=ways,
        shots=1,
        queries=1,
        tasks=1,
        seed=int(rng.integers(2**63)),
      )
      support[task], queries[task] = rows[one.support[0]], rows[one.queries[0]]
    else:
      support[task, :, 0], queries[task, :, 0] = _by_two_drawers(
        rows, labels[rows], drawers[rows], ways, rng
      )
  return Tasks(support, queries)


def _by_two_drawers(
  rows: np.ndarray,
  labels: np.ndarray,
  drawers: np.ndarray,
  ways: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """A row [W] by one drawer and by another of each class, of classes that both drew."""
  present = np.unique(drawers)
  for _ in range(100):
    two = rng.permutation(present)[:2]
    of = [{labels[i]: i for i in np.flatnonzero(drawers == who)} for who in two]
    shared = np.array(sorted(of[0].keys() & of[-1].keys()))
    if len(two) == 2 and len(shared) >= ways:
      classes = rng.permutation(shared)[:ways]
      shown, asked = ([int(by[k]) for k in classes] for by in of)
      return rows[shown], rows[asked]
  raise ValueError(
    f"{ways}-way tasks by two drawers: no two drew {ways} classes of one family; give"
    " fewer ways"
  )


def accuracy(
  embeddings: Float[np.ndarray, "N D"],
  tasks: Tasks,
  *,
  by: Literal["mean", "nearest"] = "mean",
) -> Float[np.ndarray, " E"]:
  """The share of each task's queries that get their own class.

  Embeddings are scaled to unit length first. Of classes that are equally near, the
  first of the task is taken.

  Args:
    embeddings: rows that the tasks index.
    tasks: what to classify.
    by: "mean": the class whose support has the nearest mean, by Euclidean distance
      (Snell et al. 2017, arXiv 1703.05175, Equations 1 and 2); "nearest": the class of
      the nearest image of the support. With one shot they are the same.

  Raises:
    ValueError: if an embedding is not finite.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import few_shot
    >>> labels = np.repeat(np.arange(6), 4)
    >>> tasks = few_shot.draw(labels, ways=5, shots=1, queries=2, tasks=3, seed=0)
    >>> print(few_shot.accuracy(np.eye(6)[labels], tasks))
    [1. 1. 1.]
  """
  rows = unit_rows(embeddings, "embeddings")
  correct = np.empty(len(tasks.support))
  for task, (shown, asked) in enumerate(zip(*tasks, strict=True)):
    support, queries = rows[shown], rows[asked]  # [W, S, D], [W, Q, D]
    if by == "mean":
      means = support.mean(axis=1)
      # Of |q - m|^2 the part that depends on the class, halved and negated.
      near = queries @ means.T - (means**2).sum(axis=1) / 2
    else:
      near = np.einsum("aqd,wsd->aqws", queries, support).max(axis=3)
    found = near.argmax(axis=2)
    correct[task] = (found == np.arange(len(shown))[:, None]).mean()
  return correct


def interval(accuracies: Float[np.ndarray, " E"]) -> float:
  """Half of the 95% interval of a mean over tasks: 1.96 standard errors.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import few_shot
    >>> print(f"{few_shot.interval(np.array([0.7, 0.8, 0.9])):.3f}")
    0.113
  """
  if len(accuracies) < 2:
    raise ValueError(f"{len(accuracies)} tasks have no interval: give 2 or more")
  return 1.96 * float(np.std(accuracies, ddof=1)) / math.sqrt(len(accuracies))


def _rows_of(labels: np.ndarray, least: int) -> list[np.ndarray]:
  """The rows of each class that has so many."""
  if np.ndim(labels) != 1:
    raise ValueError(f"labels {np.shape(labels)}: expected [N], a class for each row")
  order = np.argsort(labels, kind="stable")
  order = order[labels[order] >= 0]
  cuts = np.flatnonzero(np.diff(labels[order])) + 1
  return [rows for rows in np.split(order, cuts) if len(rows) >= least]
