"""UTKFace: faces in one folder, whose file names tell age, gender and ethnicity."""

import os
import pathlib
import re

import numpy as np

from ccl_jax.data.examples import Examples
from ccl_jax.data.sources.folder import Files

# age_gender_ethnicity_time.jpg, as published; extensions may be doubled.
_NAME = re.compile(r"(\d+)_([01])_([0-4])_\d+\.jpg(\.chip\.jpg)?")


def load(
  root: str | os.PathLike, *, image_size: int, channels: int = 3, seed: int = 0
) -> tuple[Examples, Examples]:
  """Train and test examples: the class is the gender, the bias is white or not white.

  A fifth of the images, drawn with the seed, is the test set; this split is our choice.
  A few published files, whose names lack gender or ethnicity, are left out.

  Args:
    root: the folder of the aligned and cropped faces, searched at every depth.
    image_size, channels: as in `Examples`.
    seed: seed of the split.

  Raises:
    FileNotFoundError: if there is no such folder.
    ValueError: if the folder has fewer than ten such files.

  Example:
    >>> import os, tempfile
    >>> from PIL import Image
    >>> from ccl_jax.data.sources import utkface
    >>> with tempfile.TemporaryDirectory() as root:
    ...   for age in range(20, 30):
    ...     name = f"{age}_{age % 2}_{age % 5}_20170116174525125.jpg"
    ...     Image.new("RGB", (200, 200)).save(os.path.join(root, name))
    ...   train, test = utkface.load(root, image_size=64)
    ...   print(len(train), len(test), train.class_names, train.bias_names)
    ...
    8 2 ('male', 'female') ('white', 'not white')
  """
  root = pathlib.Path(root)
  if not root.is_dir():
    raise FileNotFoundError(
      f"{root} is not a folder: give that of UTKFace's aligned and cropped faces"
      " (susanqq.github.io/UTKFace)"
    )
  paths = sorted(path for path in root.rglob("*.jpg") if _NAME.fullmatch(path.name))
  if len(paths) < 10:
    raise ValueError(
      f"{root} holds {len(paths)} files named AGE_GENDER_ETHNICITY_TIME.jpg, expected"
      " 10 or more: give the folder of UTKFace's aligned and cropped faces"
    )
  parts = np.array([path.name.split("_")[1:3] for path in paths], np.int32)
  examples = Examples(
    source=Files(tuple(map(str, paths))),
    indices=np.arange(len(paths)),
    labels=parts[:, 0],
    class_names=("male", "female"),
    image_size=image_size,
    channels=channels,
    bias=(parts[:, 1] != 0).astype(np.int32),
    bias_names=("white", "not white"),
  )
  order = np.random.default_rng(seed).permutation(len(paths))
  cut = len(order) // 5
  return examples.rows(np.sort(order[cut:])), examples.rows(np.sort(order[:cut]))
