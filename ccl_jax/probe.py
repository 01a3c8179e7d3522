"""What frozen features say about classes: probes, neighbors, bias and clusters.

A probe is fitted on the features of train images and predicts the classes of other
images of the same classes. `by_cell` shows whether a prediction follows the class or a
misleading attribute. `clusters` scores how well k-means recovers the classes.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from ccl_jax import retrieval
from ccl_jax.vectors import unit_rows


def linear(
  features: Float[np.ndarray, "N D"],
  labels: Int[np.ndarray, " N"],
  queries: Float[np.ndarray, "Q D"],
  *,
  inverse_decay: float = 1.0,
  max_iterations: int = 200,
) -> Int[np.ndarray, " Q"]:
  """Predicts by multinomial logistic regression, fitted by L-BFGS.

  Features are scaled to mean 0 and variance 1 over the N rows. The decay is our choice.

  Args:
    features: features of the train images.
    labels: classes of the train images.
    queries: features to classify.
    inverse_decay: C of scikit-learn, the inverse weight of the squared coefficients.
    max_iterations: most iterations of L-BFGS; a fit that would need more is used as it
      is, without a warning.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import probe
    >>> features = np.array([[0.0], [0.1], [0.9], [1.0]])
    >>> labels = np.array([0, 0, 1, 1])
    >>> print(probe.linear(features, labels, np.array([[0.2], [0.8]])))
    [0 1]
  """
  scale = _scale(features)
  model = LogisticRegression(C=inverse_decay, max_iter=max_iterations)
  with warnings.catch_warnings(), threadpool_limits(1):
    warnings.simplefilter("ignore", ConvergenceWarning)
    model.fit(scale(features), labels)
  return np.asarray(model.predict(scale(queries)), labels.dtype)


def linear_as_published(
  features: Float[np.ndarray, "N D"],
  labels: Int[np.ndarray, " N"],
  queries: Float[np.ndarray, "Q D"],
  *,
  key: Array,
  batch_size: int = 512,
  learning_rate: float = 5.0,
  epochs: int = 100,
) -> Int[np.ndarray, " Q"]:
  """Predicts by a linear classifier trained with SGD, as the authors of ConTeX do.

  SGD has momentum 0.9 and no decay; the rate falls to a fifth after 60, 75 and 90
  percent of the epochs. Their classifier sees newly augmented images each epoch; ours
  sees frozen features, scaled to mean 0 and a length of about 1, since so high a rate
  suits only one scale of features.

  Args:
    features, labels, queries: as in `linear`.
    key: draws the order of the rows.
    batch_size: rows of a step, at most N.
    learning_rate: the rate at the start.
    epochs: passes over the rows; rows that do not fill a batch are dropped.

  Example:
    >>> import jax, numpy as np
    >>> from ccl_jax import probe
    >>> features = np.array([[0.0], [0.1], [0.9], [1.0]], np.float32)
    >>> labels, queries = np.array([0, 0, 1, 1]), np.array([[0.2], [0.8]], np.float32)
    >>> key = jax.random.key(0)
    >>> predict = probe.linear_as_published
    >>> print(predict(features, labels, queries, key=key, epochs=10))
    [0 1]
  """
  scale = _scale(features)
  width = features.shape[1]
  rows, classes = jnp.asarray(scale(features) / width**0.5), jnp.asarray(labels)
  num_classes = int(labels.max()) + 1
  batch_size = min(batch_size, len(rows))
  steps = len(rows) // batch_size
  schedule = optax.piecewise_constant_schedule(
    learning_rate, {int(epochs * part) * steps: 0.2 for part in (0.6, 0.75, 0.9)}
  )
  optimizer = optax.sgd(schedule, momentum=0.9)

  def logits(params, x):
    return x @ params["kernel"] + params["bias"][None, :]

  def loss(params, batch):
    values = optax.softmax_cross_entropy_with_integer_labels(
      logits(params, rows[batch]), classes[batch]
    )
    return values.mean()

  def step(carry, batch):
    params, state = carry
    updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def train(key):
    params = {"kernel": jnp.zeros((width, num_classes)), "bias": jnp.zeros(num_classes)}

    def epoch(carry, key):
      order = jax.random.permutation(key, len(rows))[: steps * batch_size]
      return jax.lax.scan(step, carry, order.reshape(steps, batch_size))

    carry = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(epoch, carry, jax.random.split(key, epochs))
    return params

  found = logits(train(key), jnp.asarray(scale(queries) / width**0.5))
  return np.asarray(found.argmax(axis=1)).astype(labels.dtype)


def neighbors(
  features: Float[np.ndarray, "N D"],
  labels: Int[np.ndarray, " N"],
  queries: Float[np.ndarray, "Q D"],
  *,
  k: int,
) -> Int[np.ndarray, " Q"]:
  """Predicts the class that most of the k nearest rows have, by cosine.

  Where classes have equally many, the larger sum of similarities wins.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import probe
    >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> labels = np.array([0, 0, 1])
    >>> print(probe.neighbors(features, labels, np.array([[1.0, 0.3]]), k=2))
    [0]
  """
  cosines, found = retrieval.search(queries, features, k=min(k, len(features)))
  votes = np.zeros((len(queries), int(labels.max()) + 1))
  query = np.arange(len(queries))[:, None]
  # The similarities of k rows add up to less than half a vote, so they only break ties.
  np.add.at(votes, (query, labels[found]), 1 + cosines / (2 * k + 1))
  return votes.argmax(axis=1).astype(labels.dtype)


def by_cell(
  predicted: Int[np.ndarray, " Q"],
  labels: Int[np.ndarray, " Q"],
  bias: Int[np.ndarray, " Q"],
  shape: tuple[int, int],
) -> Float[np.ndarray, "K A"]:
  """Accuracy f64 of each (class, attribute) cell; NaN where a cell is empty.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import probe
    >>> predicted, labels, colors = np.array([[0, 1, 1], [0, 0, 1], [0, 1, 0]])
    >>> print(probe.by_cell(predicted, labels, colors, shape=(2, 2)))
    [[ 1.  0.]
     [ 1. nan]]
  """
  right, total = np.zeros(shape), np.zeros(shape)
  np.add.at(total, (labels, bias), 1)
  np.add.at(right, (labels, bias), predicted == labels)
  return np.divide(right, total, out=np.full(shape, np.nan), where=total > 0)


def aligned_cells(
  labels: Int[np.ndarray, " N"], bias: Int[np.ndarray, " N"], shape: tuple[int, int]
) -> np.ndarray:
  """Bool [K, A], true at the attribute that most train images of a class have.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import probe
    >>> labels, colors = np.array([0, 0, 0, 1]), np.array([1, 1, 0, 0])
    >>> print(probe.aligned_cells(labels, colors, shape=(2, 2)))
    [[False  True]
     [ True False]]
  """
  counts = np.zeros(shape, np.int64)
  np.add.at(counts, (labels, bias), 1)
  return np.arange(shape[1]) == counts.argmax(axis=1)[:, None]


def bias_metrics(
  cells: Float[np.ndarray, "K A"], aligned: np.ndarray
) -> dict[str, float]:
  """Mean accuracy of all cells, of the aligned cells, and of the others.

  Every cell has one weight, however many images it holds; empty cells do not count.
  The mean over all is the unbiased accuracy of Bahng et al., ICML 2020,
  https://arxiv.org/abs/1910.02806.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import probe
    >>> cells = np.array([[1.0, 0.5], [0.0, np.nan]])
    >>> print(probe.bias_metrics(cells, np.eye(2, dtype=bool)))
    {'unbiased': 0.5, 'aligned': 1.0, 'conflicting': 0.25}
  """
  parts = {"unbiased": True, "aligned": aligned, "conflicting": ~aligned}
  known = ~np.isnan(cells)
  return {name: float(cells[known & part].mean()) for name, part in parts.items()}


def clusters(
  embeddings: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], *, seed: int
) -> dict[str, float]:
  r"""How well k-means recovers the classes: NMI and AMI.

  The embeddings are scaled to unit length and grouped into as many groups as there are
  classes.

  .. math::
    \text{NMI} = \frac{2\, I(G; Y)}{H(G) + H(Y)} \qquad
    \text{AMI} = \frac{I - \mathbb{E} I}{(H(G) + H(Y)) / 2 - \mathbb{E} I}

  with G the groups, Y the classes, and the expectation over random groups of the same
  sizes. NMI rises with the number of classes whatever the embeddings are; AMI does not.
  One run of k-means, from k-means++ centers, is our choice; papers differ. Time and
  memory are of the order of N x K.

  Args:
    embeddings: rows of any length; a zero row stays zero.
    labels: class of each row.
    seed: seed of k-means.

  Returns:
    Python floats under `nmi` and `ami`.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import probe
    >>> labels = np.array([0, 0, 1, 1])
    >>> scores = probe.clusters(np.eye(2)[labels], labels, seed=0)
    >>> print({name: round(value, 3) for name, value in scores.items()})
    {'nmi': 1.0, 'ami': 1.0}

  Source: Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452 (NMI); Vinh, Epps,
  Bailey, JMLR 11, 2010 (AMI).
  """
  rows = unit_rows(embeddings, "embeddings")
  count = len(np.unique(labels))
  make: Any = KMeans  # pyright would infer its types from its defaults
  groups = make(count, n_init=1, random_state=seed).fit_predict(rows)
  return {
    "nmi": float(normalized_mutual_info_score(labels, groups)),
    "ami": float(adjusted_mutual_info_score(labels, groups)),
  }


def _scale(features):
  mean, deviation = features.mean(axis=0), features.std(axis=0)
  # A constant feature says nothing: it becomes 0.
  inverse = np.divide(
    1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6
  )
  return lambda rows: (rows - mean) * inverse
