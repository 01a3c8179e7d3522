"""Quarter turns of pictures as further classes: four classes of one."""

import dataclasses

import numpy as np

from ccl_jax.data.examples import Decoded, Examples


def with_turned_classes(examples: Examples) -> Examples:
  """Adds each class turned by 90, 180 and 270 degrees, as three more classes.

  A turned letter is another letter, so few-shot papers have four times the classes of
  Omniglot (Santoro et al. 2016, arXiv 1605.06065). Class k, turned t times, is class
  t K + k; its name begins with `rot090/`, say.

  Args:
    examples: of K classes, square pictures, which are decoded into memory.

  Returns:
    Examples of 4 K classes.

  Raises:
    ValueError: pictures that are not square, which a turn would give another shape.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data import examples, turned_classes
    >>> images, labels = np.zeros((8, 4, 4, 1), np.uint8), np.repeat(np.arange(4), 2)
    >>> data = examples.from_arrays(images, labels)
    >>> print(turned_classes.with_turned_classes(data).class_names[3:6])
    ('rot000/3', 'rot090/0', 'rot090/1')
  """
  examples = examples.decoded()
  images = examples.take(np.arange(len(examples)))["image"]
  if images.shape[1] != images.shape[2]:
    raise ValueError(
      f"images are {images.shape[1]} x {images.shape[2]}: give image_size, since only"
      " squares can be turned"
    )
  turns = range(4)
  return dataclasses.replace(
    examples,
    source=Decoded(np.concatenate([np.rot90(images, t, (1, 2)) for t in turns])),
    indices=np.arange(4 * len(examples)),
    labels=_further(examples.labels, examples.num_classes),
    class_names=tuple(
      f"rot{90 * t:03}/{n}" for t in turns for n in examples.class_names
    ),
    bias=None if examples.bias is None else np.tile(examples.bias, 4),
    groups=None if examples.groups is None else _further(examples.groups),
  )


def _further(numbers: np.ndarray, count: int | None = None) -> np.ndarray:
  """Numbers below `count` (their maximum, by default), and each turn's beyond them."""
  count = int(numbers.max()) + 1 if count is None else count
  turns = np.arange(4, dtype=numbers.dtype)[:, None]
  return (numbers + turns * numbers.dtype.type(count)).reshape(-1)
