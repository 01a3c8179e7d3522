"""What frozen features tell about classes: probes, neighbors, bias and clusters.

A probe is fitted on the features of the train images and predicts the classes of other
images of the same classes. `by_cell` tells apart whether a prediction follows the class
or an attribute that goes along with it. `clusters` scores how well k-means finds the
classes again.
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


def linear(
  features: Float[np.ndarray, "N D"],
  labels: Int[np.ndarray, " N"],
  queries: Float[np.ndarray, "Q D"],
  *,
  inverse_decay: float = 1.0,
  max_iterations: int = 200,
) -> Int[np.ndarray, " Q"]:
  """Predicts by multinomial logistic regression, fitted to the end by L-BFGS.

  Features are scaled to mean 0 and variance 1 over the N rows. The decay is our choice.

  Args:
    features: of the train images.
    labels: their classes.
    queries: features to classify.
    inverse_decay: C of scikit-learn, the inverse weight of the squared coefficients.
    max_iterations: of L-BFGS; a fit that needs more is good enough.
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

  SGD with momentum 0.9 and no decay; the rate falls to a fifth after 60, 75 and 90
  hundredths of the epochs. Theirs sees the images anew each epoch, augmented; ours sees
  frozen features, scaled to mean 0 and a length of about 1, since so high a rate would
  otherwise hang on the scale of the features.

  Args:
    features: of the train images.
    labels: their classes.
    queries: features to classify.
    key: of the order of the rows.
    batch_size: rows a step; at most all.
    learning_rate: at the start.
    epochs: passes over the rows; what is left of a pass is dropped.
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
    return x @ params["kernel"] + params["bias"]

  def loss(params, some):
    values = optax.softmax_cross_entropy_with_integer_labels(
      logits(params, rows[some]), classes[some]
    )
    return values.mean()

  def step(carry, some):
    params, state = carry
    updates, state = optimizer.update(jax.grad(loss)(params, some), state)
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
  """Predicts the class of most of the k nearest rows, by cosine.

  Of classes with as many, the one whose rows are more similar in all.
  """
  cosines, found = retrieval.search(queries, features, k=min(k, len(features)))
  votes = np.zeros((len(queries), int(labels.max()) + 1))
  query = np.arange(len(queries))[:, None]
  # Similarities of k rows add up to at most half a vote.
  np.add.at(votes, (query, labels[found]), 1 + cosines / (2 * k + 1))
  return votes.argmax(axis=1).astype(labels.dtype)


def by_cell(
  predicted: Int[np.ndarray, " Q"],
  labels: Int[np.ndarray, " Q"],
  bias: Int[np.ndarray, " Q"],
  shape: tuple[int, int],
) -> Float[np.ndarray, "K A"]:
  """Accuracy f64 of each (class, attribute) cell; NaN where a cell is empty."""
  right, total = np.zeros(shape), np.zeros(shape)
  np.add.at(total, (labels, bias), 1)
  np.add.at(right, (labels, bias), predicted == labels)
  return np.divide(right, total, out=np.full(shape, np.nan), where=total > 0)


def aligned_cells(
  labels: Int[np.ndarray, " N"], bias: Int[np.ndarray, " N"], shape: tuple[int, int]
) -> np.ndarray:
  """Bool [K, A]: the attribute that most train images of a class have."""
  counts = np.zeros(shape, np.int64)
  np.add.at(counts, (labels, bias), 1)
  return np.arange(shape[1]) == counts.argmax(axis=1)[:, None]


def bias_metrics(
  cells: Float[np.ndarray, "K A"], aligned: np.ndarray
) -> dict[str, float]:
  """Means over cells: all, those of the attribute a class mostly has, and the others.

  Every cell weighs the same, however many images it holds; empty cells are left out.
  The mean over all is the unbiased accuracy of Bahng et al., ICML 2020,
  https://arxiv.org/abs/1910.02806.
  """
  parts = {"unbiased": True, "aligned": aligned, "conflicting": ~aligned}
  known = ~np.isnan(cells)
  return {name: float(cells[known & part].mean()) for name, part in parts.items()}


def clusters(
  embeddings: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], *, seed: int
) -> dict[str, float]:
  r"""How well k-means finds the classes again: NMI and AMI.

  The embeddings are scaled to unit length and parted into as many groups as they have
  classes.

  .. math::
    \text{NMI} = \frac{2\, I(G; Y)}{H(G) + H(Y)} \qquad
    \text{AMI} = \frac{I - \mathbb{E} I}{(H(G) + H(Y)) / 2 - \mathbb{E} I}

  with G the groups, Y the classes, and the expectation over groups of the same sizes
  drawn at random. NMI rises with the number of classes whatever the embeddings are; AMI
  does not. One run of k-means, from k-means++ centers, is our choice; papers differ. It
  takes time and memory of the order of N x K.

  Args:
    embeddings: any length; a zero row stays zero.
    labels: class of each.
    seed: of k-means.

  Returns:
    Python floats under `nmi` and `ami`.

  Source: Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452 (NMI); Vinh, Epps,
  Bailey, JMLR 11, 2010 (AMI).
  """
  rows = np.asarray(embeddings, np.float32)
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows / np.where(lengths > 0, lengths, 1)
  count = len(np.unique(labels))
  make: Any = KMeans  # whose types are guessed from its defaults
  groups = make(count, n_init=1, random_state=seed).fit_predict(rows)
  return {
    "nmi": float(normalized_mutual_info_score(labels, groups)),
    "ami": float(adjusted_mutual_info_score(labels, groups)),
  }


def _scale(features):
  mean, deviation = features.mean(axis=0), features.std(axis=0)
  # A feature that never moves says nothing: it stays 0.
  inverse = np.divide(
    1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6
  )
  return lambda rows: (rows - mean) * inverse
