"""Parts of the train examples that are held out, by class or by image."""

import numpy as np

from ccl_jax.data.examples import Examples

__all__ = ["hold_out_classes", "hold_out_images", "hold_out_of_classes"]


def hold_out_images(
  examples: Examples, fraction: float, *, seed: int
) -> tuple[Examples, Examples | None]:
  """Splits off validation images, where train and test images share their classes.

  Args:
    examples: train examples.
    fraction: share of the images to hold out, round(fraction * N) images.
    seed: seed of the permutation of the images.

  Returns:
    (kept, held out), each of all classes; held out is None at fraction 0.

  Raises:
    ValueError: if a side has fewer than two images.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples, splits
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> kept, held = splits.hold_out_images(data, 0.25, seed=0)
    >>> print(len(kept), len(held))
    6 2
  """
  if fraction == 0:
    return examples, None
  kept, held = _hold_out(len(examples), "images", fraction, seed)
  return examples.rows(kept), examples.rows(held)


def hold_out_of_classes(
  examples: Examples, fraction: float, *, seed: int
) -> tuple[Examples, Examples]:
  """Splits off a part of each class; examples of one group stay together.

  Args:
    examples: train examples.
    fraction: share of each class to hold out, round(fraction * n) of its n groups.
    seed: seed of the choice.

  Returns:
    (kept, held out), each of all classes.

  Raises:
    ValueError: if a side is empty.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples, splits
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> kept, held = splits.hold_out_of_classes(data, 0.5, seed=0)
    >>> print(kept.labels, held.labels)
    [0 1 2 3] [0 1 2 3]
  """
  groups = np.arange(len(examples)) if examples.groups is None else examples.groups
  rng = np.random.default_rng(seed)
  out = np.zeros(len(examples), bool)
  for rows in examples.rows_of_classes():
    own = rng.permutation(np.unique(groups[rows]))
    out[rows] = np.isin(groups[rows], own[: round(fraction * len(own))])
  if out.all() or not out.any():
    raise ValueError(
      f"fraction {fraction} of each class holds out {out.sum()} of {len(out)} images:"
      " change the fraction, or add images"
    )
  return examples.rows(np.flatnonzero(~out)), examples.rows(np.flatnonzero(out))


def hold_out_classes(
  examples: Examples, fraction: float, *, seed: int
) -> tuple[Examples, Examples | None]:
  """Splits off validation classes, to choose models without the test classes.

  Args:
    examples: train examples of K classes.
    fraction: share of the classes to hold out, round(fraction * K) classes.
    seed: seed of the permutation of the classes.

  Returns:
    (kept, held out), each with its own labels from 0; held out is None at fraction 0.

  Raises:
    ValueError: if a side has fewer than two classes.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples, splits
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> kept, held = splits.hold_out_classes(data, 0.5, seed=0)
    >>> print(kept.class_names, held.class_names)
    ('1', '3') ('0', '2')
  """
  if fraction == 0:
    return examples, None
  kept, held = _hold_out(examples.num_classes, "classes", fraction, seed)
  return examples.subset(kept), examples.subset(held)


def _hold_out(
  total: int, what: str, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits 0..total-1 into (kept, held out), each in order."""
  held = round(fraction * total)
  if not 2 <= held <= total - 2:
    raise ValueError(
      f"fraction {fraction} of {total} {what} holds out {held} and keeps"
      f" {total - held}: both sides need at least 2; change the fraction, or give 0"
    )
  order = np.random.default_rng(seed).permutation(total)
  return np.sort(order[held:]), np.sort(order[:held])
