"""BiasedGlyphs: digits whose background nearly always tells their class.

A test of what a network looks at, built in like Glyphs: the ten digits of 16 faces,
white on one of ten colors. In training, a share rho of each digit's images has the
digit's own color; in the test, every digit has every color equally often. Protocol and
colors are those of BiasedMNIST (Bahng et al., Learning De-biased Representations with
Biased Representations, ICML 2020, https://arxiv.org/abs/1910.02806); faces, warps and
counts are ours.
"""

import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from ccl_jax.data.examples import Examples
from ccl_jax.data.sources import tfds_images, typefaces

RHOS = (0.999, 0.997, 0.995, 0.99, 0.95)
# From the authors' code (github.com/clovaai/rebias, datasets/colour_mnist.py).
COLORS = {
  "red": (255, 0, 0),
  "green": (0, 255, 0),
  "blue": (0, 0, 255),
  "yellow": (225, 225, 0),
  "magenta": (225, 0, 225),
  "cyan": (0, 255, 255),
  "orange": (255, 128, 0),
  "pink": (255, 0, 128),
  "violet": (128, 0, 255),
  "gray": (128, 128, 128),
}
_DIGITS = "0123456789"
# Numbers of the warps of a (digit, face) pair; train and test share no warp.
_COPIES = {"train": range(128), "test": range(128, 148)}


def choose_colors(labels: np.ndarray, rho: float, *, seed: int) -> np.ndarray:
  """Gives a share rho of each class the color of the class, and the rest other colors.

  The share is exact, as in the authors' code: floor(rho * n) of the n examples of a
  class have its color, and the others take the nine other colors in turn.

  Args:
    labels: [N], classes 0..9.
    rho: the share; 0.1 gives each color to a tenth of each class.
    seed: seed of the choice of examples and of the order of the colors.

  Returns:
    i32[N], a color 0..9 for each example.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data.sources.biased_glyphs import choose_colors
    >>> labels = np.repeat(np.arange(10), 20)
    >>> colors = choose_colors(labels, rho=0.95, seed=0)
    >>> print((colors == labels).mean())
    0.95
  """
  colors = labels.astype(np.int32)
  rng = np.random.default_rng(seed)
  for label in range(len(COLORS)):
    rows = rng.permutation(np.flatnonzero(labels == label))
    # The tolerance keeps 0.95 * 20 from being 18.999...
    conflicting = rows[int(rho * len(rows) + 1e-6) :]
    others = rng.permutation(np.delete(np.arange(len(COLORS)), label))
    colors[conflicting] = np.resize(others, len(conflicting))
  return colors


def paint(foreground: np.ndarray, colors: np.ndarray) -> np.ndarray:
  """RGB images: white where the foreground u8[N,H,W] is 255, colored where it is 0.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data.sources.biased_glyphs import paint
    >>> drawn = np.array([[[0, 255]]], np.uint8)  # one picture of two pixels
    >>> print(paint(drawn, np.array([6]))[0, 0])  # orange, white
    [[255 128   0]
     [255 255 255]]
  """
  palette = np.array(list(COLORS.values()), np.float32)
  share = foreground[..., None].astype(np.float32) / 255
  background = palette[colors][:, None, None, :]
  return (share * 255 + (1 - share) * background + 0.5).astype(np.uint8)


class BiasedGlyphs(tfds.core.GeneratorBasedBuilder):
  """Digits of 16 faces, warped and white, on a color that agrees with their class.

  There is a config for each rho, the share of train images whose color agrees. All
  configs have the same test split: every (digit, color) cell holds every face equally
  often.

  Example:
    >>> import tempfile
    >>> from ccl_jax.data.sources.biased_glyphs import BiasedGlyphs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   print(BiasedGlyphs(rho=0.95, data_dir=folder).info.full_name)
    ...
    biased_glyphs/rho_0.95/2.0.0
  """

  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES = {
    "1.0.0": "First version.",
    "2.0.0": "The feature `colour` is named `color`; the images are the same.",
  }
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"rho_{rho}") for rho in RHOS]
  # TFDS would find it by a package that it does not install; only downloads use it.
  code_path: Any = None

  def __init__(self, *, rho: float, data_dir: str | os.PathLike | None = None):
    """Draws nothing yet: images are drawn when TFDS prepares the dataset.

    Raises:
      ValueError: if rho is not in RHOS, or the fonts are not those of the benchmark.
    """
    if rho not in RHOS:
      raise ValueError(f"rho={rho}: expected one of {', '.join(map(str, RHOS))}")
    self._rho = rho
    self._faces = typefaces.default_faces()
    super().__init__(data_dir=data_dir, config=f"rho_{rho}", file_format="array_record")
    # What TFDS passes to __init__ when a copy is unpickled.
    self._original_state = dict(rho=rho, data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(typefaces.SIZE, typefaces.SIZE, 3), encoding_format="png"
          ),
          "label": tfds.features.ClassLabel(names=list(_DIGITS)),
          "color": tfds.features.ClassLabel(names=list(COLORS)),
          "face": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing to download.
    drawings = typefaces.draw(self._faces, 1, only=_DIGITS)
    return {split: self._generate_examples(drawings, split) for split in _COPIES}

  def _generate_examples(self, drawings, split):
    copies, faces = _COPIES[split], len(self._faces)
    # Images [face, copy, digit], so that a digit's rows go through faces and copies.
    labels = np.broadcast_to(np.arange(10), (faces, len(copies), 10))
    if split == "train":
      colors = choose_colors(labels.reshape(-1), self._rho, seed=0)
      colors = colors.reshape(labels.shape)
    else:
      turn = np.arange(len(copies)) % len(COLORS)
      colors = np.broadcast_to(turn[None, :, None], labels.shape)
    chars = [ord(digit) for digit in _DIGITS]
    for f, face in enumerate(self._faces):
      drawn = [drawings[f][char] for char in chars]
      for c, copy in enumerate(copies):
        images = paint(typefaces.warp(drawn, chars, face, copy), colors[f, c])
        for label, image in enumerate(images):
          encoded = io.BytesIO()
          Image.fromarray(image).save(encoded, "png", compress_level=1)
          encoded.seek(0)
          example = {
            "image": encoded,
            "label": label,
            "color": int(colors[f, c, label]),
            "face": face.name,
          }
          yield f"{face.name} {label} {copy}", example


def load(
  data_dir: str | os.PathLike | None = None,
  *,
  rho: float,
  image_size: int = typefaces.SIZE,
) -> tuple[Examples, Examples]:
  """Train and test examples, built first if they are not on disk.

  Args:
    data_dir: where TFDS keeps datasets; None: TFDS_DATA_DIR, or TFDS's own default.
    rho: the share of the train images whose color agrees with the digit, from RHOS.
    image_size: side of the images, which are drawn at 32 pixels and resized.

  Returns:
    (train, test): 20,480 and 3,200 RGB images, decoded in memory, of the same
    ten classes; `bias` is the color.

  Example:
    >>> from ccl_jax.data.sources import biased_glyphs
    >>> train, test = biased_glyphs.load("datasets", rho=0.95)
    >>> print(train.class_names[:2], train.bias_names[:2])
    ('0', '1') ('red', 'green')
    >>> print(f"{(train.labels == train.bias).mean():.2f}")
    0.95
  """

  def read(builder, split):
    examples = tfds_images.read(builder, split, bias="color", image_size=image_size)
    return tfds_images.in_memory(builder, split, examples)

  with tfds_images.named_when_damaged(data_dir, BiasedGlyphs.name):
    builder = BiasedGlyphs(rho=rho, data_dir=data_dir)
    tfds_images.prepare(builder)
    return read(builder, "train"), read(builder, "test")
