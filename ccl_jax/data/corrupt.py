"""Train examples made harder: a long tail of rare classes, and wrong labels."""

import dataclasses

import numpy as np

from ccl_jax.data.examples import Examples

_RANKS, _NOISE, _KEPT = 0, 1, 2  # a stream for each kind of draw


def _stream(seed: int, draw: int) -> np.random.Generator:
  """A separate stream: the seeds `(seed, epoch)` are those of the order of training."""
  return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(draw,)))


def tail_ranks(num_classes: int, *, seed: int) -> np.ndarray:
  """The rank i64[K] of each class in a seed's long tail; rank 0 keeps all images.

  Example:
    >>> from ccl_jax.data import corrupt
    >>> print(corrupt.tail_ranks(4, seed=0))
    [1 0 3 2]
  """
  return _stream(seed, _RANKS).permutation(num_classes)


def long_tailed(
  examples: Examples, ratio: float, *, seed: int, min_images: int = 2
) -> Examples:
  r"""Keeps fewer images of a class, the higher its rank in a random order of classes.

  .. math:: n'_k = \max(n_{min}, \mathrm{round}(n_k \, \rho^{-r_k / (K - 1)}))

  images are kept of the n_k images of class k, whose rank is r_k = 0..K-1
  (`tail_ranks`). The first class keeps all its images, the last a part 1 / rho. The
  exponential is that of the reference, whose classes have one size; here each class
  falls from its own size, which is our choice.

  Args:
    examples: examples of K classes.
    ratio: rho, 1 or more; 1 keeps all images.
    seed: seed of the order of classes and of the images that are kept.
    min_images: a class keeps at least this many images, or all if it has fewer.

  Raises:
    ValueError: if the ratio is below 1.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import corrupt, examples
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> print(corrupt.long_tailed(data, 2.0, seed=0, min_images=1).labels)
    [0 0 1 1 2 3]

  References:
    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
    Section 5.1, https://arxiv.org/abs/1901.05555
  """
  if not ratio >= 1:
    raise ValueError(f"ratio is {ratio}: give 1, which keeps all images, or more")
  if ratio == 1:
    return examples
  ranks = tail_ranks(examples.num_classes, seed=seed)
  shares = ratio ** (-ranks / max(examples.num_classes - 1, 1))
  rng, kept = _stream(seed, _KEPT), []
  for rows, share in zip(examples.rows_of_classes(), shares, strict=True):
    count = max(min_images, round(len(rows) * share))
    kept.append(rng.permutation(rows)[:count])
  return examples.rows(np.sort(np.concatenate(kept)))


def with_label_noise(examples: Examples, fraction: float, *, seed: int) -> Examples:
  """Gives a fraction of the examples a wrong label, each other class equally likely.

  Args:
    examples: N examples of K classes.
    fraction: round(fraction * N) examples get a wrong label.
    seed: seed of the choice of examples and of their labels.

  Raises:
    ValueError: if the fraction is outside of 0..1, or there is no other class.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import corrupt, examples
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> print((corrupt.with_label_noise(data, 0.25, seed=0).labels != labels).sum())
    2
  """
  if not 0 <= fraction <= 1:
    raise ValueError(f"fraction is {fraction}: give 0 to 1")
  if fraction == 0:
    return examples
  if examples.num_classes < 2:
    raise ValueError(
      f"examples of {examples.num_classes} class have no wrong label: give fraction 0"
    )
  rng = _stream(seed, _NOISE)
  total = len(examples)
  wrong = rng.permutation(total)[: round(fraction * total)]
  labels = examples.labels.copy()
  labels[wrong] += rng.integers(1, examples.num_classes, len(wrong), np.int32)
  return dataclasses.replace(examples, labels=labels % np.int32(examples.num_classes))
