"""The images of a run, as its config names them."""

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ccl_jax.data import corrupt, turned_classes
from ccl_jax.data.examples import Examples
from ccl_jax.data.sources import (
  biased_glyphs,
  biased_mnist,
  cars,
  cub,
  features,
  folder,
  glyphs,
  inshop,
  omniglot,
  published,
  sop,
  tfds_images,
  utkface,
)
from ccl_jax.data.splits import (
  hold_out_classes,
  hold_out_images,
  hold_out_of_classes,
)
from configs.base import Config

FEW_SHOT_QUERIES = 15  # of each class of a task: our choice; papers take 5 to 19
BENCHMARKS = {
  "cub": cub.Cub2002011ZeroShot,
  "cars": cars.Cars196ZeroShot,
  "sop": sop.StanfordOnlineProductsZeroShot,
  "inshop": inshop.InShopRetrieval,
}


class Data(NamedTuple):
  """The images of a run, by the use that is made of them."""

  train: Examples
  validation: Examples | None  # classes, or images, held out of the train ones
  test: Examples  # that no choice was made on; where a gallery is, the queries
  gallery: Examples | None = None  # what they are searched in; None: among each other
  seen: Examples | None = None  # images of the train classes, set aside
  tail_ranks: np.ndarray | None = None  # [K], of each class; the last is the rarest


def load_data(config: Config) -> Data:
  """Builds or finds the images, and checks that they can be read.

  Raises:
    ValueError, OSError: naming what is missing or unreadable, and what to do.
  """
  train, test, *gallery = (
    dataclasses.replace(examples, shorter_side=config.data.shorter_side)
    for examples in _load_splits(config)
  )
  if config.data.unseen_classes:
    train, test = _of_unseen_classes(train, test)
  if config.probe != "none" and train.class_names != test.class_names:
    raise ValueError(
      f"probe={config.probe} needs test images of the train classes: give --config."
      "probe=none, or a dataset whose classes are the same in both"
    )
  hold_out = hold_out_classes if config.probe == "none" else hold_out_images
  fraction = config.data.validation_fraction
  try:
    train, validation = hold_out(train, fraction, seed=config.seed)
  except ValueError as error:
    told = f"--config.data.validation_fraction={fraction}: {error}"
    raise ValueError(told) from error
  # Test images have no second picture of the same drawing that is easy to find.
  validation = validation and validation.one_of_each_group()
  if config.data.turned_classes != "none":
    # After the split: a character and its turned copies train, or are held out.
    train = turned_classes.with_turned_classes(train)
  if config.data.turned_classes == "all":
    validation = validation and turned_classes.with_turned_classes(validation)
    test = turned_classes.with_turned_classes(test)
  seen = None
  if config.data.seen_fraction:
    train, seen = hold_out_of_classes(
      train, config.data.seen_fraction, seed=config.seed
    )
    seen = seen.one_of_each_group()
  train = corrupt.long_tailed(train, config.data.imbalance, seed=config.seed)
  train = corrupt.with_label_noise(train, config.data.label_noise, seed=config.seed)
  ranks = corrupt.tail_ranks(train.num_classes, seed=config.seed)
  data = Data(train, validation, test, *gallery)._replace(seen=seen, tail_ranks=ranks)
  _check_depths(config, data)
  if config.few_shot_tasks and not few_shot_kinds(data.test):
    raise ValueError(
      f"few_shot_tasks={config.few_shot_tasks}: fewer than 5 test classes have"
      f" {1 + FEW_SHOT_QUERIES} images; give 0, or more images"
    )
  return data


def _of_unseen_classes(train: Examples, test: Examples) -> tuple[Examples, Examples]:
  """Train images of the first half of the classes, test images of the others."""
  if train.class_names != test.class_names:
    raise ValueError(
      "data.unseen_classes=true, but the test classes are not the train classes: give"
      " false, the test is on unseen classes already"
    )
  classes, half = np.arange(train.num_classes), train.num_classes // 2
  return train.subset(classes[:half]), test.subset(classes[half:])


def few_shot_kinds(examples: Examples) -> list[tuple[int, int]]:
  """The (ways, shots) of few-shot tasks for which there are enough classes."""
  sizes = np.bincount(examples.labels)
  return [
    (ways, shots)
    for ways, shots in itertools.product((5, 20), (1, 5))
    if (sizes >= shots + FEW_SHOT_QUERIES).sum() >= ways
  ]


def _load_splits(config: Config) -> tuple[Examples, ...]:
  """Train and test examples, and a gallery where the benchmark has one."""
  pixels = {"image_size": config.data.image_size, "channels": config.data.channels}
  if config.data.name == "glyphs":
    return glyphs.load(config.data.data_dir, fonts=config.data.fonts)
  if config.data.name in BENCHMARKS:
    return published.load(
      BENCHMARKS[config.data.name],
      config.data.data_dir,
      images=config.data.images,
      classes=config.data.classes,
      **pixels,
    )
  if config.data.name == "biased_glyphs":
    return biased_glyphs.load(
      config.data.data_dir, rho=config.data.rho, image_size=config.data.image_size
    )
  if config.data.name == "biased_mnist":
    return biased_mnist.load(config.data.data_dir, rho=config.data.rho)
  if config.data.name == "omniglot":
    return omniglot.load(
      config.data.data_dir,
      lists=config.data.lists,
      image_size=config.data.image_size,
    )
  if config.data.name == "tfds":
    if config.data.tfds_name is None:
      raise ValueError(
        "data.name=tfds needs a name: add --config.data.tfds_name=cifar10"
      )
    return tfds_images.load(
      config.data.tfds_name,
      config.data.data_dir,
      train=config.data.tfds_train,
      test=config.data.tfds_test,
      label=config.data.label,
      bias=config.data.bias,
      **pixels,
    )
  if config.data.name == "features":
    if config.data.features is None:
      raise ValueError(
        "data.name=features needs embeddings: add --config.data.features=FILE.npz, or"
        " the folder that experiments.evaluate --save-embeddings wrote"
      )
    return features.load(config.data.features, seed=config.seed)
  if config.data.images is None:
    raise ValueError(
      f"data.name={config.data.name} needs images: add --config.data.images=FOLDER,"
      " which holds "
      + (
        "a subfolder of images for each class"
        if config.data.name == "folder"
        else "them"
      )
    )
  load = folder.load if config.data.name == "folder" else utkface.load
  train, test = load(config.data.images, seed=config.seed, **pixels)
  kept = _checked(config.data.images)
  folder.verify(train, kept)
  folder.verify(test, kept)
  return train, test


def _checked(images: str | Path) -> Path:
  """The file of the user's cache that remembers which images of a folder decoded."""
  cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  name = hashlib.sha256(os.fsencode(Path(images).resolve())).hexdigest()[:16]
  return Path(cache, "ccl_jax", "checked", f"{name}.npy")


def _check_depths(config: Config, data: Data) -> None:
  """Refuses a Recall@K that asks for more neighbors than a split has."""
  found = [len(data.gallery) if data.gallery else len(data.test) - 1]
  found += [len(data.validation) - 1] if data.validation else []
  if max(config.recall_at) > min(found):
    raise ValueError(
      f"recall_at={config.recall_at} with {min(found)} images to find: give a smaller"
      " K, or more images"
    )


def load_pictures(config: Config, path: Path) -> Examples:
  """A picture, or all below a folder, as the run's model is to see them.

  Raises:
    ValueError, OSError: naming what is missing or unreadable, and what to do.
  """
  if config.data.name == "features":
    raise ValueError(
      f"{path}: the run's model is a head on embeddings, and sees no pictures; search"
      " --embeddings=FOLDER by the id of a row"
    )
  pictures = folder.unlabeled(
    path, image_size=config.data.image_size, channels=config.data.channels
  )
  folder.verify(pictures, _checked(path))
  return dataclasses.replace(pictures, shorter_side=config.data.shorter_side)
