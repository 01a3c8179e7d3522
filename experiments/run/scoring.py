"""Scores a trained state by retrieval, clusters and probes of its embeddings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax import few_shot, probe, retrieval, thresholds, vectors
from ccl_jax.data.examples import Examples
from ccl_jax.training import step
from configs.base import Config
from experiments.run.datasets import FEW_SHOT_QUERIES, Data, few_shot_kinds

NEIGHBORS = 5  # kept for each test example, for the report
FALSE_ACCEPTS = (0.1, 0.01, 0.001, 0.0001)  # for which a threshold is chosen
CALIBRATED = 10_000  # the most rows whose pairs the report counts

Embed = Callable[[step.TrainState, Examples], tuple[np.ndarray, np.ndarray]]


class Embedded(NamedTuple):
  """Embeddings and labels of the test examples and of the gallery, if any, in order."""

  queries: np.ndarray  # [Q, D]
  labels: np.ndarray  # [Q]
  gallery: np.ndarray | None = None  # [N, D]
  gallery_labels: np.ndarray | None = None  # [N]


class Tested(NamedTuple):
  """The result of a trained state on test images, which no choice has seen."""

  metrics: dict[str, float]
  embedded: Embedded
  neighbors: retrieval.Neighbors  # one row for each test example, in order
  cells: np.ndarray | None  # accuracy of the linear probe [K, A], if there is a bias


def embed_test(embed: Embed, state: step.TrainState, data: Data) -> Embedded:
  """Embeds the test examples, and the gallery where there is one."""
  gallery = embed(state, data.gallery) if data.gallery else ()
  return Embedded(*embed(state, data.test), *gallery)


def score(config: Config, embedded: Embedded) -> dict[str, float]:
  """Recall@K, MAP@R and R-precision; without a gallery, among the other rows."""
  return retrieval.evaluate(*embedded, ks=config.recall_at)


def score_with_neighbors(
  config: Config, embedded: Embedded
) -> tuple[dict[str, float], retrieval.Neighbors]:
  """The metrics of `score` and the nearest rows of each test example, by one search."""
  among = embedded.gallery is None
  rows = len(embedded.queries) - 1 if among else len(embedded.gallery)
  return retrieval.evaluate_with_neighbors(
    *embedded, ks=config.recall_at, k=min(NEIGHBORS, rows)
  )


def calibrate(config: Config, embedded: Embedded) -> thresholds.Calibration | None:
  """Error rates of thresholds on the test pairs, of rows drawn where they are many.

  None where the test examples have no pair of one class, or none of two.
  """
  rng = np.random.default_rng(config.seed)

  def few(rows, labels):
    taken = np.sort(rng.permutation(len(rows))[:CALIBRATED])
    return rows[taken], labels[taken]

  gallery = embedded.gallery is not None and few(*embedded[2:])
  try:
    return thresholds.calibrate(*few(*embedded[:2]), *(gallery or ()))
  except ValueError:
    return None


def chosen(calibration: thresholds.Calibration) -> dict[float, tuple[float, float]]:
  """For each false accept rate that the pairs can tell: threshold, false rejects."""
  rates = [far for far in FALSE_ACCEPTS if far * calibration.other >= 1]
  return {far: calibration.at_far(far) for far in rates}


def score_clusters(config: Config, embedded: Embedded) -> dict[str, float]:
  """NMI and AMI of k-means over all test embeddings and the gallery."""
  embeddings, labels = embedded.queries, embedded.labels
  if embedded.gallery is not None and embedded.gallery_labels is not None:
    embeddings = np.concatenate([embeddings, embedded.gallery])
    labels = np.concatenate([labels, embedded.gallery_labels])
  return probe.clusters(embeddings, labels, seed=config.seed)


def test(config: Config, embed: Embed, state: step.TrainState, data: Data) -> Tested:
  """Retrieval among the test examples, and the probes, if any."""
  embedded, cells = embed_test(embed, state, data), None
  metrics, neighbors = score_with_neighbors(config, embedded)
  if config.probe != "none":
    fitted, _ = embed(state, data.train)
    probed, cells = _probe(config, data.train, fitted, data.test, embedded.queries)
    metrics |= probed
  if config.few_shot_tasks:
    metrics |= score_few_shot(config, data.test, embedded.queries)
  if data.seen is not None:
    assert data.tail_ranks is not None
    metrics |= score_by_rank(*embed(state, data.seen), data.tail_ranks)
  return Tested(metrics, embedded, neighbors, cells)


def score_few_shot(
  config: Config, examples: Examples, embeddings: np.ndarray
) -> dict[str, float]:
  """Accuracy of few-shot tasks over all classes, and within families of classes.

  A kind of task for which there are too few classes is left out. The family of a class
  is what its name has before the last `/`; the drawers are the examples' `bias`.
  """
  drawn: dict[str, few_shot.Tasks] = {}
  for ways, shots in few_shot_kinds(examples):
    drawn[f"{ways}-way {shots}-shot"] = few_shot.draw(
      examples.labels,
      ways=ways,
      shots=shots,
      queries=FEW_SHOT_QUERIES,
      tasks=config.few_shot_tasks,
      seed=config.seed,
    )
  names = [name.rpartition("/")[0] for name in examples.class_names]
  families, sizes = np.unique(names, return_counts=True)
  if len(families) > 1 and sizes.max() >= 20:
    family_of = np.searchsorted(families, names)
    drawn["within a family, 20-way 1-shot"] = few_shot.draw_within_families(
      examples.labels,
      family_of[examples.labels],
      examples.bias,
      ways=20,
      tasks=config.few_shot_tasks,
      seed=config.seed,
    )
  metrics = {}
  for name, tasks in drawn.items():
    several = tasks.support.shape[2] > 1
    for by in ("mean", "nearest") if several else ("mean",):
      found = few_shot.accuracy(embeddings, tasks, by=by)
      kind = f"{name} by nearest" if by == "nearest" else name
      metrics[f"{kind} accuracy"] = float(found.mean())
      metrics[f"{kind} interval"] = few_shot.interval(found)
  return metrics


def score_by_rank(
  embeddings: np.ndarray, labels: np.ndarray, tail_ranks: np.ndarray
) -> dict[str, float]:
  """Recall@1 among all rows, for the rare, medium and frequent thirds of the classes.

  Classes are grouped by rank, not by their number of images. So a third holds the same
  classes for every imbalance, and its metric shows what the imbalance costs.

  Args:
    embeddings: [N, D]; each row is searched among the others.
    labels: [N]; a row that is alone in its class is no query.
    tail_ranks: [K], 0..K-1, the rank of each class in the long tail; the highest rank
      is the rarest class.
  """
  _, nearest = retrieval.search(embeddings, k=1)
  hits = labels[nearest[:, 0]] == labels
  has_match = np.bincount(labels)[labels] > 1
  thirds = np.array_split(np.argsort(-tail_ranks), 3)
  metrics = {}
  for name, classes in zip(("rare", "medium", "frequent"), thirds, strict=True):
    rows = np.isin(labels, classes) & has_match
    if rows.any():
      metrics[f"seen {name} recall@1"] = float(hits[rows].mean())
  return metrics


def _probe(
  config: Config,
  train: Examples,
  train_embeddings: np.ndarray,
  examples: Examples,
  embeddings: np.ndarray,
) -> tuple[dict[str, float], np.ndarray | None]:
  """Accuracy of a linear probe and of nearest neighbors; the probe's also by cell."""
  fitted = train_embeddings, train.labels, embeddings
  if config.probe == "lbfgs":
    by_line = probe.linear(*fitted)
  else:
    key = jax.random.key(config.seed)
    by_line = probe.linear_as_published(*fitted, key=key)
  predicted = {
    "probe": by_line,
    "neighbors": probe.neighbors(*fitted, k=config.neighbors),
  }
  metrics, cells = {}, None
  for name, classes in predicted.items():
    metrics[f"{name} accuracy"] = float(np.mean(classes == examples.labels))
    if train.bias is not None and examples.bias is not None:
      shape = train.num_classes, len(train.bias_names)
      found = probe.by_cell(classes, examples.labels, examples.bias, shape)
      aligned = probe.aligned_cells(train.labels, train.bias, shape)
      parts = probe.bias_metrics(found, aligned)
      metrics |= {f"{name} {part}": value for part, value in parts.items()}
      cells = found if name == "probe" else cells
  return metrics, cells


def describe_cells(examples: Examples, cells: np.ndarray) -> dict[str, Any]:
  """Accuracy by class and attribute, for JSON; None for a cell without images."""
  return {
    "classes": list(examples.class_names),
    "attributes": list(examples.bias_names),
    "accuracy": [[None if np.isnan(x) else float(x) for x in row] for row in cells],
  }


def class_centers(class_vectors: jax.Array, classes: np.ndarray) -> np.ndarray:
  """The vectors [n, D] of n classes, scaled to unit length.

  If the bank is split over devices, only these rows are copied to each device.
  """
  mesh = getattr(class_vectors.sharding, "mesh", None)
  everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None

  def pick(rows):
    return vectors.unit(rows[classes])

  return np.asarray(jax.jit(pick, out_shardings=everywhere)(class_vectors))
