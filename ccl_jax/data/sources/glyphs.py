"""Glyphs: recognize characters never seen in training, across typefaces.

The built-in benchmark: it is drawn from fonts in seconds, with nothing to download. A
class is a character, drawn by several faces; half of the classes train, half test.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image, features

from ccl_jax.data.examples import Decoded, Examples
from ccl_jax.data.sources import tfds_images, typefaces

# Counts for the default faces, as Pillow 13.0 with FreeType 2.14 draws them.
DEFAULT_COUNTS = {"classes": 3464, "train": 42336, "test": 21420}
_COPIES = {"train": 2, "test": 1}  # images of a (character, face) pair
_SEED = 0  # seed of the class split


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, which warns of a config that it does not list: any set of fonts."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


class Glyphs(tfds.core.GeneratorBasedBuilder):
  """Characters of many faces, each drawn white on black and warped at random.

  The fonts are those that matplotlib ships, or a folder of fonts. Characters that have
  the same bitmap in any face (Latin A, Greek Alpha, Cyrillic A) are one class. The name
  of the config has a checksum of the fonts, so that two sets never share a folder.

  Example:
    >>> import tempfile
    >>> from ccl_jax.data.sources import glyphs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   print(glyphs.Glyphs(data_dir=folder).info.config_name[:9])
    ...
    faces_16_
  """

  VERSION = tfds.core.Version("1.0.0")
  # TFDS would find it by a package that it does not install; only downloads use it.
  code_path: Any = None

  def __init__(
    self,
    *,
    fonts: str | os.PathLike | None = None,
    min_faces: int = 6,
    data_dir: str | os.PathLike | None = None,
  ):
    """Draws nothing yet: images are drawn when TFDS prepares the dataset.

    Args:
      fonts: folder of .ttf, .otf or .ttc files; None takes the 16 default faces.
      min_faces: a character is kept if at least this many faces have it.
      data_dir: where TFDS keeps datasets; None: TFDS's own default.

    Raises:
      ValueError: if there are no usable fonts, or fewer faces than min_faces.
    """
    self._faces = (
      typefaces.default_faces() if fonts is None else typefaces.find_faces(fonts)
    )
    self._min_faces = min_faces
    self._default = fonts is None and min_faces == 6
    if len(self._faces) < min_faces:
      raise ValueError(
        f"found {len(self._faces)} faces, and a class needs {min_faces}: add fonts, or"
        " lower min_faces"
      )
    parts = [f"{f.name}#{f.index}={f.digest}" for f in self._faces] + [str(min_faces)]
    checksum = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    with _quiet():
      super().__init__(
        data_dir=data_dir,
        config=tfds.core.BuilderConfig(name=f"faces_{len(self._faces)}_{checksum}"),
        file_format="array_record",
      )
    # What TFDS passes to __init__ when a copy is unpickled.
    self._original_state = dict(fonts=fonts, min_faces=min_faces, data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(typefaces.SIZE, typefaces.SIZE, 1), encoding_format="png"
          ),
          "label": tfds.features.ClassLabel(),
          "character": tfds.features.Text(),
          "face": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
      metadata=tfds.core.MetadataDict(
        fonts={face.name: face.digest for face in self._faces},
        pillow=Image.__version__,
        freetype=features.version("freetype2"),
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing to download.
    drawings = typefaces.draw(self._faces, self._min_faces)
    classes = typefaces.look_alikes(drawings)
    if len(classes) < 4:
      raise ValueError(
        f"the fonts share {len(classes)} classes of characters, expected at least 4:"
        " add fonts that cover more, or lower min_faces"
      )
    half = len(classes) // 2
    order = np.random.default_rng(_SEED).permutation(len(classes))
    train, test = np.sort(order[:half]), np.sort(order[half:])
    # Train classes come first: their labels are 0..half-1.
    classes = [classes[c] for c in (*train, *test)]
    info: Any = self.info  # TFDS types its features as optional.
    info.features["label"].names = [f"U+{chars[0]:04X}" for chars in classes]
    members = {"train": classes[:half], "test": classes[half:]}
    counts = {"classes": len(classes)}
    for split, copies in _COPIES.items():
      chars = {char for chars in members[split] for char in chars}
      counts[split] = copies * sum(len(chars & drawn.keys()) for drawn in drawings)
    info.metadata["counts"] = counts
    if self._default and counts != DEFAULT_COUNTS:
      warnings.warn(
        f"the default fonts gave {counts}, and the benchmark has {DEFAULT_COUNTS}:"
        f" Pillow {Image.__version__} with FreeType {features.version('freetype2')}"
        " draws them differently, so results will differ a little too",
        stacklevel=2,
      )
    labels = {char: label for label, chars in enumerate(classes) for char in chars}
    return {
      split: self._generate_examples(drawings, labels, members[split], copies)
      for split, copies in _COPIES.items()
    }

  def _generate_examples(self, drawings, labels, classes, copies):
    wanted = sorted(char for chars in classes for char in chars)
    for face, drawn in zip(self._faces, drawings, strict=True):
      chars = [char for char in wanted if char in drawn]
      for start in range(0, len(chars), 512):
        chunk = chars[start : start + 512]
        for copy in range(copies):
          images = typefaces.warp([drawn[char] for char in chunk], chunk, face, copy)
          for char, image in zip(chunk, images, strict=True):
            example = {
              "image": io.BytesIO(typefaces.png(image)),
              "label": labels[char],
              "character": chr(char),
              "face": face.name,
            }
            yield f"{face.name}#{face.index} {char} {copy}", example


def load(
  data_dir: str | os.PathLike | None = None,
  *,
  fonts: str | os.PathLike | None = None,
) -> tuple[Examples, Examples]:
  """Train and test examples of Glyphs, built first if they are not on disk.

  Args:
    data_dir: where TFDS keeps datasets; None: TFDS_DATA_DIR, or TFDS's own default.
    fonts: folder of fonts to draw; None takes the 16 default faces.

  Returns:
    (train, test): disjoint classes, gray images 32 x 32, decoded in memory. The
    copies of a (character, face) pair form a group.

  Example:
    >>> import os, pathlib, shutil, tempfile
    >>> import matplotlib
    >>> from ccl_jax.data.sources import glyphs
    >>> shipped = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   fonts = pathlib.Path(folder, "fonts")
    ...   fonts.mkdir()
    ...   for path in shipped.glob("STIXSiz*.ttf"):  # nine faces of a few brackets
    ...     path = shutil.copy(path, fonts)
    ...   train, test = glyphs.load(folder, fonts=fonts)
    ...
    >>> print(train.num_classes, test.num_classes, train[0]["image"].shape)
    7 7 (32, 32, 1)
  """
  with tfds_images.named_when_damaged(data_dir, Glyphs.name):
    builder = Glyphs(fonts=fonts, data_dir=data_dir)
    tfds_images.prepare(builder)
    return _read(builder, "train"), _read(builder, "test")


def _read(builder: Glyphs, split: str) -> Examples:
  """All examples of a split, from a decoded copy kept next to the records."""
  path = pathlib.Path(builder.data_dir, f"{split}.decoded.npz")
  names = "images", "labels", "drawings"  # a copy of an earlier version lacks the last
  arrays = tfds_images.kept(path, names, lambda: _decode(builder, split))
  info: Any = builder.info
  examples = Examples(
    source=Decoded(arrays["images"]),
    indices=np.arange(len(arrays["images"])),
    labels=arrays["labels"],
    class_names=tuple(info.features["label"].names),
    image_size=typefaces.SIZE,
    channels=1,
    groups=arrays["drawings"],
  )
  return examples.subset(np.unique(examples.labels))


def _decode(builder: Glyphs, split: str) -> dict[str, np.ndarray]:
  """Reads all records: images u8[N,32,32,1], labels i32[N], and drawings i32[N].

  Copies of a (character, face) pair have the same number in `drawings`.
  """
  records = tfds_images.open_records(builder, split)
  images = np.empty((len(records), typefaces.SIZE, typefaces.SIZE, 1), np.uint8)
  labels = np.empty(len(records), np.int32)
  drawings = np.empty(len(records), np.int32)
  numbers: dict[tuple[bytes, bytes], int] = {}
  for i, record in tfds_images.enumerate_records(records, f"Decoding {split} glyphs"):
    images[i, ..., 0] = np.asarray(Image.open(io.BytesIO(record["image"])))
    labels[i] = record["label"]
    drawn = record["character"], record["face"]
    drawings[i] = numbers.setdefault(drawn, len(numbers))
  return {"images": images, "labels": labels, "drawings": drawings}
