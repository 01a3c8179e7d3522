"""Any TFDS dataset of labeled images, prepared in a format of random access."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from ccl_jax.data.examples import Decoded, Examples

_FEATURES = "tensorflow_datasets.core.features."


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """The encoded images of a split, as a source.

  Example:
    >>> from ccl_jax.data.sources.tfds_images import Records
    >>> print(Records([{"image": b"encoded", "label": 3}])[0])
    {'image': b'encoded'}
  """

  records: Any  # what TFDS calls a data source
  paths: tuple[str, ...] | None = None  # published names of the images, if any

  def __getitem__(self, index: int) -> dict[str, bytes]:
    return {"image": self.records[index]["image"]}


def load(
  name: str,
  data_dir: str | os.PathLike | None = None,
  *,
  train: str = "train",
  test: str = "test",
  label: str = "label",
  bias: str | None = None,
  image_size: int | None = None,
  channels: int = 3,
) -> tuple[Examples, Examples]:
  """Train and test examples of a dataset that TFDS knows, or that lies in its folder.

  Args:
    name: as TFDS spells it: `cifar10`, `celeb_a`, `my_dataset/my_config:1.0.0`.
    data_dir: where TFDS keeps datasets; None honours TFDS_DATA_DIR.
    train: split of the train images, as TFDS spells it.
    test: split of the test images.
    label: the feature that is the class, `outer/inner` where it is nested; class
      labels, integers from 0 or truth values.
    bias: likewise, an attribute that may stand in for the label; None: there is none.
    image_size: side of the (square) images; see `Examples`.
    channels: 1 (gray) or 3 (RGB).

  Raises:
    ValueError: if TFDS can neither find nor prepare it; the message says how to.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> train, test = tfds_images.load("mnist", "datasets", channels=1)
    >>> print(train[0]["image"].shape, train.class_names[:2])
    (28, 28, 1) ('0', '1')
  """
  builder = open_builder(name, data_dir)
  reader = functools.partial(
    read, builder, label=label, bias=bias, image_size=image_size, channels=channels
  )
  with named_when_damaged(data_dir, builder.name):
    return reader(train), reader(test)


def open_builder(
  name: str, data_dir: str | os.PathLike | None = None
) -> tfds.core.DatasetBuilder:
  """The dataset of a name, prepared where it is not; errors are those of `load`.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> print(builder.info.features["label"].num_classes)
    10
  """
  root: Any = data_dir or tfds.core.constants.DATA_DIR  # pyright: ignore
  check_features(pathlib.Path(root, name.split(":")[0].split("/")[0]))
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    # Without this, TFDS would open its download folder for a dataset it only reads.
    if not any(builder.info.splits or ()):
      prepare(builder)
  except Exception as error:  # of the network, TensorFlow, the format, the name
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    raise ValueError(
      f"TFDS cannot prepare {name} in {place} ({str(error).splitlines()[0][:200]}):"
      f" run `tfds build {name} --file_format=array_record` where its download and"
      " TensorFlow (which encodes the images of some datasets) are to be had, and put"
      " the folder it makes there"
    ) from error
  return builder


def check_features(folder: pathlib.Path) -> None:
  """Refuses a dataset that would import code, before TFDS reads it.

  A features.json names the Python class of each feature, and TFDS imports its module.
  Those of TFDS itself are all that its datasets and ours need.

  Raises:
    ValueError: naming the file and the first class of another package.

  Example:
    >>> import pathlib, tempfile
    >>> from ccl_jax.data.sources import tfds_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   features = pathlib.Path(folder, "features.json")
    ...   size = features.write_text('{"pythonClassName": "theirs.Feature"}')
    ...   try:
    ...     tfds_images.check_features(pathlib.Path(folder))
    ...   except ValueError as error:
    ...     print("names theirs.Feature, which is no feature" in str(error))
    ...
    True
  """
  for path in folder.expanduser().rglob("features.json"):

    def check(pairs: list[tuple[str, Any]], path: pathlib.Path = path) -> None:
      for key, value in pairs:
        is_class = key in ("type", "pythonClassName", "python_class_name")
        if is_class and isinstance(value, str) and not value.startswith(_FEATURES):
          raise ValueError(
            f"{path} names {value}, which is no feature of tensorflow_datasets, and to"
            " read it would run that code: make the dataset anew from its images"
          )

    try:
      # As pairs, since a name given twice would hide the first.
      json.loads(path.read_bytes(), object_pairs_hook=check)
    except (json.JSONDecodeError, UnicodeDecodeError):
      continue  # TFDS refuses it too, and says how to mend it


def read(
  builder: tfds.core.DatasetBuilder,
  split: str,
  *,
  label: str = "label",
  bias: str | None = None,
  image_size: int | None = None,
  channels: int = 3,
) -> Examples:
  """Examples of a split that is on disk; see `load` for the arguments.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> print(tfds_images.read(builder, "test", channels=1).num_classes)
    10
  """
  known = builder.info.splits or {}
  if split.split("[")[0] not in known:
    raise ValueError(
      f"{builder.info.full_name} has no split {split}: expected one of {list(known)}"
    )
  names = {path: _names(builder, path) for path in (label, bias) if path is not None}
  found = values(builder, split, list(names))
  records = open_records(builder, split)
  return Examples(
    source=Records(records),
    indices=np.arange(len(records)),
    labels=found[label],
    class_names=names[label],
    image_size=image_size,
    channels=channels,
    bias=None if bias is None else found[bias],
    bias_names=() if bias is None else names[bias],
  )


def open_records(builder: tfds.core.DatasetBuilder, split: str) -> Any:
  """The records of a split, their images encoded: what TFDS calls a data source.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> record = tfds_images.open_records(builder, "train")[0]
    >>> print(record["image"][1:4])
    b'PNG'
  """
  open_split: Any = builder.as_data_source  # TFDS hides its signature.
  return open_split(split, decoders={"image": tfds.decode.SkipDecoding()})


@contextlib.contextmanager
def named_when_damaged(data_dir: str | os.PathLike | None, name: str) -> Iterator[None]:
  """Says which folder to delete where what TFDS once wrote cannot be read.

  Its readers raise many kinds: of protocol buffers, of array_record, of an index that
  is out of bounds. What is missing or wrong in the user's own input is a ValueError or
  an OSError, and passes.

  Raises:
    ValueError: naming the folder of the dataset.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> try:
    ...   with tfds_images.named_when_damaged("datasets", "mnist"):
    ...     raise IndexError("of a record")
    ... except ValueError as error:
    ...   print(str(error)[:33])
    ...
    the dataset in datasets/mnist can
  """
  try:
    yield
  except Exception as error:
    if type(error) is ValueError or isinstance(error, OSError):
      raise
    root: Any = data_dir or tfds.core.constants.DATA_DIR  # pyright: ignore
    folder = pathlib.Path(root, name)
    told = " ".join(str(error).split())[:200]
    raise ValueError(
      f"the dataset in {folder} cannot be read ({type(error).__name__}: {told}): delete"
      " that folder, and the same command builds it anew"
    ) from error


def prepare(builder: tfds.core.DatasetBuilder) -> None:
  """Writes a dataset to its folder, unless it is there.

  Raises:
    ValueError: if nothing can be written there, before anything is made.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> tfds_images.prepare(builder)  # it is there: nothing is done
  """
  _sweep(builder)
  folder = pathlib.Path(builder.data_dir)
  if not folder.exists():
    while not folder.exists() and folder != folder.parent:
      folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
      raise ValueError(
        f"{folder} is no folder that can be written to, and {builder.name} is to be"
        " built there: give another data_dir"
      )
  builder.download_and_prepare()


def _sweep(builder: tfds.core.DatasetBuilder) -> None:
  """Deletes what builds left behind that were killed more than a day ago."""
  yesterday = time.time() - 24 * 3600
  for path in pathlib.Path(builder.data_dir).parent.glob("incomplete.*"):
    with contextlib.suppress(OSError):
      if path.stat().st_mtime < yesterday:
        shutil.rmtree(path)


def enumerate_records(records: Any, doing: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number, record) of all, read a thousand at a time; `doing` is what is shown.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> records = tfds_images.open_records(builder, "train")
    >>> for number, record in tfds_images.enumerate_records(records, "Counting"):
    ...   last = number
    ...
    >>> print(last + 1 == len(records))
    True
  """
  for start in tqdm(range(0, len(records), 1024), doing):
    some = range(start, min(start + 1024, len(records)))
    yield from zip(some, records.__getitems__(list(some)), strict=True)


def kept(
  path: pathlib.Path,
  names: Iterable[str],
  make: Callable[[], Mapping[str, np.ndarray]],
) -> Mapping[str, np.ndarray]:
  """Arrays from an .npz file; made, and stored there, where it lacks some name.

  Going through tens of thousands of records takes ten seconds and through a million
  minutes, reading the file none.

  Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from ccl_jax.data.sources.tfds_images import kept
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "labels.npz")
    ...   made = kept(path, ["labels"], lambda: {"labels": np.arange(3)})
    ...   again = kept(path, ["labels"], lambda: {"labels": "not asked for"})
    ...
    >>> print(again["labels"])
    [0 1 2]
  """
  # Whatever is wrong with it, it is a copy: zip files have a checksum of each array.
  with contextlib.suppress(Exception), path.open("rb") as file, np.load(file) as saved:
    if set(names) <= set(saved):
      return dict(saved)
  arrays: Any = make()
  # It has its name only when complete; without the right to write, there is none.
  with contextlib.suppress(OSError):
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
  return arrays


def in_memory(
  builder: tfds.core.DatasetBuilder, split: str, examples: Examples
) -> Examples:
  """The examples of a small split, decoded, from a copy kept next to the records.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> examples = tfds_images.read(builder, "test", channels=1)
    >>> print(tfds_images.in_memory(builder, "test", examples).source.images.dtype)
    uint8
  """
  side = examples.image_size or "own"
  path = pathlib.Path(builder.data_dir, f"{split}_{side}_{examples.channels}.npz")

  def decode() -> dict[str, np.ndarray]:
    return {"images": examples.take(np.arange(len(examples)))["image"]}

  arrays = kept(path, ["images"], decode)
  return dataclasses.replace(examples, source=Decoded(arrays["images"]))


def _names(builder: tfds.core.DatasetBuilder, path: str) -> tuple[str, ...]:
  """Of the values of a feature; for a truth value, no and yes."""
  feature: Any = builder.info.features
  for part in path.split("/"):
    if part not in feature:
      raise ValueError(
        f"{builder.info.full_name} has no feature {path}: expected one of"
        f" {sorted(feature)}"
      )
    feature = feature[part]
  if feature.np_dtype == np.bool_:
    return (f"not {part}", part)
  names = getattr(feature, "names", None)
  if names is None:
    raise ValueError(
      f"{path} of {builder.info.full_name} is {feature}: expected a class label or a"
      " truth value"
    )
  return tuple(names)


def values(
  builder: tfds.core.DatasetBuilder, split: str, features: list[str]
) -> dict[str, np.ndarray]:
  """Values i32[N] of some features, from a copy kept next to the records.

  Example:
    >>> from ccl_jax.data.sources import tfds_images
    >>> builder = tfds_images.open_builder("mnist", "datasets")
    >>> print(tfds_images.values(builder, "test", ["label"])["label"].dtype)
    int32
  """
  key = hashlib.sha256(repr((split, features)).encode()).hexdigest()[:12]
  path = pathlib.Path(builder.data_dir, f"labels_{key}.npz")
  stored = {feature: feature.replace("/", ".") for feature in features}

  def collect() -> dict[str, np.ndarray]:
    records = open_records(builder, split)
    found = {name: np.empty(len(records), np.int32) for name in stored.values()}
    for i, record in enumerate_records(records, f"Reading {split} labels"):
      for feature, name in stored.items():
        value: Any = record
        for part in feature.split("/"):
          value = value[part]
        found[name][i] = value
    return found

  arrays = kept(path, stored.values(), collect)
  return {feature: arrays[name] for feature, name in stored.items()}
