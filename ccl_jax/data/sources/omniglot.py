"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic
program induction, Science 350, 2015; read through TFDS, by its own splits or by a list.
"""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ccl_jax.data.examples import Decoded, Examples
from ccl_jax.data.sources import tfds_images

# Characters and drawings: of the 30 background and of the 20 evaluation alphabets.
COUNTS = {"train": (964, 19_280), "test": (659, 13_180)}
_LISTS = ("trainval.txt", "test.txt")


def load(
  data_dir: str | os.PathLike | None = None,
  *,
  lists: str | os.PathLike | None = None,
  image_size: int = 28,
) -> tuple[Examples, Examples]:
  """Train and test drawings, gray and in memory, of characters that differ.

  Ink is white and paper black, the other way around than in the files: what a view or
  a convolution adds at the border is 0, which then is paper.

  A class is named `Alphabet/characterNN`. Where the prepared copy tells who drew an
  image (TFDS's own does not), `bias` is the drawer.

  Args:
    data_dir: where TFDS keeps `omniglot`; None honours TFDS_DATA_DIR.
    lists: a folder with trainval.txt and test.txt, whose lines begin with
      `Alphabet/characterNN`, as few-shot papers share them (Vinyals et al. 2016); None:
      the alphabets of TFDS's splits, 964 characters and 659.
    image_size: side of the images; those of another size are resized.

  Raises:
    ValueError, OSError: a dataset that is not whole, or a list that is missing or names
      characters that the dataset lacks.

  Example:
    >>> from ccl_jax.data.sources import omniglot
    >>> train, test = omniglot.load("datasets")
    >>> print(train.class_names[0], train[0]["image"].shape)
    Greek/character01 (28, 28, 1)
  """
  wanted = None if lists is None else [_listed(Path(lists, name)) for name in _LISTS]
  prepared = tfds_images.open_builder("omniglot", data_dir).data_dir
  # Read anew from the folder: TFDS's own class would hide features beyond its own.
  builder = tfds.builder_from_directory(prepared)
  train, test = (_read(builder, split, image_size) for split in COUNTS)
  if lists is None or wanted is None:
    return train, test
  both = _joined(train, test)
  places = {name: k for k, name in enumerate(both.class_names)}
  for path, names in zip(_LISTS, wanted, strict=True):
    if unknown := [name for name in names if name not in places]:
      raise ValueError(
        f"{Path(lists, path)} names {unknown[0]}, which Omniglot does not have:"
        " expected lines such as Greek/character01/rot000"
      )
  if shared := set(wanted[0]) & set(wanted[1]):
    raise ValueError(
      f"{lists} lists {min(shared)} in {_LISTS[0]} and {_LISTS[1]}: a character either"
      " trains or tests; remove it from one"
    )
  listed, tested = ([places[name] for name in names] for names in wanted)
  return both.subset(listed), both.subset(tested)


def _read(builder, split: str, image_size: int) -> Examples:
  """A split with classes of its own, numbered from 0."""
  examples = tfds_images.read(builder, split, image_size=image_size, channels=1)
  classes = np.unique(examples.labels)
  found = len(classes), len(examples)
  if found != COUNTS[split]:
    raise ValueError(
      f"{builder.data_dir} has {found[0]:,} characters and {found[1]:,} images in"
      f" {split}, expected {COUNTS[split][0]:,} and {COUNTS[split][1]:,}: remove the"
      " folder and prepare the dataset again"
    )
  drawers = None
  if "drawer" in (builder.info.features or ()):
    drawers = tfds_images.values(builder, split, ["drawer"])["drawer"]
  names = [_character(name) for name in examples.class_names]
  images = tfds_images.in_memory(builder, split, examples).take(
    np.arange(len(examples))
  )
  return dataclasses.replace(
    examples,
    source=Decoded(255 - images["image"]),
    bias=drawers,
    bias_names=() if drawers is None else tuple(map(str, range(drawers.max() + 1))),
    class_names=tuple(names),
  ).subset(classes)


def _character(name: str) -> str:
  """Greek_0, as TFDS calls it, and Greek/character01, as the files do, are one."""
  if found := re.fullmatch(r"(.+)_(\d+)", name):
    return f"{found[1]}/character{int(found[2]) + 1:02}"
  return name


def _joined(one: Examples, other: Examples) -> Examples:
  """The examples of both, which share no class."""
  images = [split.take(np.arange(len(split)))["image"] for split in (one, other)]
  drawers = [split.bias for split in (one, other) if split.bias is not None]
  return dataclasses.replace(
    one,
    source=Decoded(np.concatenate(images)),
    indices=np.arange(len(one) + len(other)),
    labels=np.concatenate([one.labels, other.labels + np.int32(one.num_classes)]),
    class_names=one.class_names + other.class_names,
    bias=np.concatenate(drawers) if len(drawers) == 2 else None,
  )


def _listed(path: Path) -> list[str]:
  """The characters of a list, each once, in order."""
  if not path.is_file():
    raise ValueError(
      f"{path} is missing: give a folder with {' and '.join(_LISTS)}, the lists of"
      " characters that few-shot papers share"
    )
  lines = path.read_text().split()
  return list(dict.fromkeys("/".join(line.split("/")[:2]) for line in lines))
