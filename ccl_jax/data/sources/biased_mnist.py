"""BiasedMNIST: the `mnist` of TFDS with the colors of BiasedGlyphs."""

import dataclasses
import os

import numpy as np

from ccl_jax.data.examples import Decoded, Examples
from ccl_jax.data.sources import biased_glyphs, tfds_images


def load(
  data_dir: str | os.PathLike | None = None, *, rho: float
) -> tuple[Examples, Examples]:
  """Train and test examples; a pixel that is not 0 becomes white, as published.

  Protocol and colors are those of Bahng et al. (see `biased_glyphs`); the choice of the
  images that take a color is drawn here. A black frame of 2 pixels makes the pictures
  32 x 32 before they are painted.

  Args:
    data_dir: where TFDS keeps `mnist`; None honours TFDS_DATA_DIR.
    rho: the share of the train images whose color agrees with the digit; a tenth of
      the test images has each color.

  Raises:
    ValueError: if TFDS can neither find nor prepare `mnist`; the message says how.

  Example:
    >>> from ccl_jax.data.sources import biased_mnist
    >>> train, test = biased_mnist.load("datasets", rho=0.95)
    >>> print(train[0]["image"].shape, train.bias_names[:2])
    (32, 32, 3) ('red', 'green')
  """
  train, test = tfds_images.load("mnist", data_dir, channels=1)
  return _painted(train, rho, seed=0), _painted(test, 0.1, seed=1)


def _painted(examples: Examples, rho: float, *, seed: int) -> Examples:
  digits = examples.take(np.arange(len(examples)))["image"][..., 0]
  digits = np.pad(digits, ((0, 0), (2, 2), (2, 2)))
  colors = biased_glyphs.choose_colors(examples.labels, rho, seed=seed)
  images = biased_glyphs.paint(255 * (digits != 0).astype(np.uint8), colors)
  return dataclasses.replace(
    examples,
    source=Decoded(images),
    indices=np.arange(len(images)),
    channels=3,
    bias=colors,
    bias_names=tuple(biased_glyphs.COLORS),
  )
