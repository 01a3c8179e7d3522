"""Any TFDS dataset of labelled images, prepared in a format of random access."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm.auto import tqdm

from ccl_jax.data.examples import Decoded, Examples


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """The encoded images of a split, as a source."""

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
    channels: 1 (grey) or 3 (RGB).

  Raises:
    ValueError: if TFDS can neither find nor prepare it; the message says how to.
  """
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    # Without this, TFDS would open its download folder for a dataset it only reads.
    if not any(builder.info.splits or ()):
      builder.download_and_prepare()
  except Exception as error:  # of the network, TensorFlow, the format, the name
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    raise ValueError(
      f"TFDS cannot prepare {name} in {place} ({str(error).splitlines()[0][:200]}):"
      f" run `tfds build {name} --file_format=array_record` where its download and"
      " TensorFlow (which encodes the images of some datasets) are to be had, and put"
      " the folder it makes there"
    ) from error
  reader = functools.partial(
    read, builder, label=label, bias=bias, image_size=image_size, channels=channels
  )
  return reader(train), reader(test)


def read(
  builder: tfds.core.DatasetBuilder,
  split: str,
  *,
  label: str = "label",
  bias: str | None = None,
  image_size: int | None = None,
  channels: int = 3,
) -> Examples:
  """Examples of a split that is on disk; see `load` for the arguments."""
  known = builder.info.splits or {}
  if split.split("[")[0] not in known:
    raise ValueError(
      f"{builder.info.full_name} has no split {split}: expected one of {list(known)}"
    )
  names = {path: _names(builder, path) for path in (label, bias) if path is not None}
  values = _values(builder, split, list(names))
  open_records: Any = builder.as_data_source  # TFDS hides its signature.
  records = open_records(split, decoders={"image": tfds.decode.SkipDecoding()})
  return Examples(
    source=Records(records),
    indices=np.arange(len(records)),
    labels=values[label],
    class_names=names[label],
    image_size=image_size,
    channels=channels,
    bias=None if bias is None else values[bias],
    bias_names=() if bias is None else names[bias],
  )


def in_memory(
  builder: tfds.core.DatasetBuilder, split: str, examples: Examples
) -> Examples:
  """The examples of a small split, decoded, from a copy kept next to the records.

  Decoding tens of thousands of records takes ten seconds, reading the copy none.
  """
  side = examples.image_size or "own"
  path = pathlib.Path(builder.data_dir, f"{split}_{side}_{examples.channels}.npy")
  if path.exists():
    images = np.load(path)
    return dataclasses.replace(examples, source=Decoded(images))
  images = examples.take(np.arange(len(examples)))["image"]
  _store(path, lambda partial: np.save(partial, images))
  return dataclasses.replace(examples, source=Decoded(images))


def _store(path: pathlib.Path, save: Callable[[pathlib.Path], None]) -> None:
  """Gives a file its name only when complete; without the right to write, none."""
  with contextlib.suppress(OSError):
    partial = path.with_suffix(f".{os.getpid()}{path.suffix}")
    save(partial)
    partial.replace(path)


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


def _values(
  builder: tfds.core.DatasetBuilder, split: str, paths: list[str]
) -> dict[str, np.ndarray]:
  """Values i32[N] of some features, from a copy kept next to the records.

  Going through the records takes minutes for a million of them, reading the copy none.
  """
  key = hashlib.sha256(repr((split, paths)).encode()).hexdigest()[:12]
  path = pathlib.Path(builder.data_dir, f"labels_{key}.npz")
  if path.exists():
    with np.load(path) as arrays:
      return {name: arrays[name.replace("/", ".")] for name in paths}
  open_records: Any = builder.as_data_source
  records = open_records(split, decoders={"image": tfds.decode.SkipDecoding()})
  values = {name: np.empty(len(records), np.int32) for name in paths}
  for start in tqdm(range(0, len(records), 1024), f"Reading {split} labels"):
    some = range(start, min(start + 1024, len(records)))
    for i, record in zip(some, records.__getitems__(list(some)), strict=True):
      for name in paths:
        values[name][i] = functools.reduce(
          lambda d, part: d[part], name.split("/"), record
        )
  flat: dict[str, Any] = {name.replace("/", "."): a for name, a in values.items()}
  _store(path, lambda partial: np.savez(partial, **flat))
  return values
