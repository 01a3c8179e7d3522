"""Your own images: a folder of class folders."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Generator

import numpy as np
from PIL import Image
from tqdm import tqdm

from ccl_jax.data.examples import Examples


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files, as a source.

  Example:
    >>> from ccl_jax.data.sources.folder import Files
    >>> print(Files(("cat/1.png", "dog/1.png"))[1])
    {'image': 'dog/1.png'}
  """

  paths: tuple[str, ...]

  def __getitem__(self, index: int) -> dict[str, str]:
    return {"image": self.paths[index]}


def load(
  root: str | os.PathLike, *, image_size: int, channels: int = 3, seed: int = 0
) -> tuple[Examples, Examples]:
  """Train and test examples of `root/class/image`, or `root/{train,test}/class/image`.

  Without the folders train and test, a seeded permutation of the sorted class names
  chooses half of the classes for training and half for the test. Hidden files and files
  without an extension of images are ignored. Images are decoded when they are used;
  `verify` decodes them before.

  Args:
    root: the folder.
    image_size: side of the (square) images; see `Examples`.
    channels: 1 (gray) or 3 (RGB).
    seed: seed of the split of the classes.

  Returns:
    (train, test).

  Raises:
    FileNotFoundError: if there is no such folder.
    ValueError: if a split has fewer than two classes, or a class has fewer than two
      images.

  Example:
    >>> import os, tempfile
    >>> from PIL import Image
    >>> from ccl_jax.data.sources import folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...   for name in ("cat", "dog", "owl", "wren"):
    ...     os.mkdir(os.path.join(root, name))
    ...     for number in (1, 2):
    ...       picture = Image.new("RGB", (48, 32), (90 * number, 0, 0))
    ...       picture.save(os.path.join(root, name, f"{number}.png"))
    ...   train, test = folder.load(root, image_size=32)
    ...   print(train.class_names, test.class_names, train[0]["image"].shape)
    ...
    ('cat', 'owl') ('dog', 'wren') (32, 32, 3)
  """
  root = pathlib.Path(root)
  if not root.is_dir():
    raise FileNotFoundError(
      f"{root} is not a folder: give one that holds a folder of images for each class"
    )
  train, test = root / "train", root / "test"
  if _folders(train) or _folders(test):  # without folders in it, `train` is a class
    return _examples(train, 2, image_size, channels), _examples(
      test, 2, image_size, channels
    )
  examples = _examples(root, 4, image_size, channels)
  order = np.random.default_rng(seed).permutation(examples.num_classes)
  half = len(order) // 2
  return examples.subset(np.sort(order[:half])), examples.subset(np.sort(order[half:]))


def unlabeled(
  path: str | os.PathLike, *, image_size: int, channels: int = 3
) -> Examples:
  """One image, or all images below a folder, sorted by path; every label is 0.

  Args:
    path: an image file, or a folder searched at every depth.
    image_size, channels: as in `load`.

  Raises:
    FileNotFoundError: if there is no such file or folder.
    ValueError: if the folder holds no images.

  Example:
    >>> import os, tempfile
    >>> from PIL import Image
    >>> from ccl_jax.data.sources import folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...   Image.new("RGB", (48, 32)).save(os.path.join(root, "query.png"))
    ...   found = folder.unlabeled(root, image_size=32)
    ...   print(len(found), found[0]["image"].shape)
    ...
    1 (32, 32, 3)
  """
  path = pathlib.Path(path)
  if path.is_dir():
    paths = sorted(str(found) for found in path.rglob("*") if _is_image(found))
  elif path.is_file():
    paths = [str(path)]
  else:
    raise FileNotFoundError(f"{path}: no such file or folder")
  if not paths:
    raise ValueError(
      f"{path} holds no images: expected files such as .png or .jpg, at any depth"
    )
  return Examples(
    source=Files(tuple(paths)),
    indices=np.arange(len(paths)),
    labels=np.zeros(len(paths), np.int32),
    class_names=("image",),
    image_size=image_size,
    channels=channels,
  )


def verify(examples: Examples, kept: pathlib.Path | None = None) -> None:
  """Decodes every image file once, by all cores, so that a run fails at its start.

  Args:
    examples: of image files, from `load`.
    kept: a file that remembers what decoded; a file that is the same since, by its
      size and time, is not decoded again. None: all are decoded.

  Raises:
    ValueError: if an image is unreadable; the message names the first and what to do.

  Example:
    >>> import os, tempfile
    >>> from ccl_jax.data.sources import folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...   with open(os.path.join(root, "query.png"), "w") as file:
    ...     file.write("no picture")
    ...   try:
    ...     folder.verify(folder.unlabeled(root, image_size=32))
    ...   except ValueError as error:
    ...     print("query.png" in str(error))
    ...
    10
    True
  """
  known = _known(kept)
  marks = [_mark(path) for path in examples.ids]
  rows = [row for row, mark in enumerate(marks) if mark not in known]
  if not rows:
    return
  with (
    contextlib.closing(_decode(examples, rows)) as decoded,
    tqdm(decoded, "Checking images", total=len(rows)) as progress,
  ):
    try:
      known.update(marks[row] for row in progress)
    finally:  # what was done before a damaged one, or Ctrl-C, stays done
      _keep(kept, known)


def _decode(examples: Examples, rows: list[int]) -> Generator[int, None, None]:
  """Decodes rows in threads, since Pillow releases the interpreter's lock; in order."""

  def decode(row: int) -> int:
    examples.take(np.array([row]))  # whose pixels are let go of here
    return row

  at_once = max(os.cpu_count() or 1, 2)
  with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
    for first in range(0, len(rows), 64 * at_once):  # so that few wait in memory
      part = rows[first : first + 64 * at_once]
      yield from pool.map(decode, part)


def _mark(path: str) -> int:
  """Stands for a file as it is now; 0 for one that cannot be looked at."""
  try:
    found = os.stat(path)
  except OSError:
    return 0
  text = f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}"
  digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
  return int.from_bytes(digest.digest())


def _known(kept: pathlib.Path | None) -> set[int]:
  """The marks in a file; none where it is missing or damaged: all are then checked."""
  with contextlib.suppress(Exception):
    if kept:
      return set(np.load(kept).astype(np.uint64).ravel().tolist()) - {0}
  return set()


def _keep(kept: pathlib.Path | None, known: set[int]) -> None:
  with contextlib.suppress(OSError):  # a read-only folder: the next run checks again
    if kept:
      kept.parent.mkdir(parents=True, exist_ok=True)
      partial = kept.with_suffix(f".{os.getpid()}.npy")
      np.save(partial, np.array(sorted(known), np.uint64))
      partial.replace(kept)


def _examples(
  root: pathlib.Path, fewest: int, image_size: int, channels: int
) -> Examples:
  classes = _folders(root)
  if len(classes) < fewest:
    raise ValueError(
      f"{root} holds {len(classes)} class folders, expected at least {fewest}: make a"
      " folder for each class, with its images in it"
    )
  files = [
    sorted(str(path) for path in folder.iterdir() if _is_image(path))
    for folder in classes
  ]
  for folder, paths in zip(classes, files, strict=True):
    if len(paths) < 2:
      raise ValueError(
        f"class {folder.name!r} in {root} has {len(paths)} image files, expected at"
        " least 2, since an image is searched among the others of its class: add"
        " images, or delete the folder"
      )
  return Examples(
    source=Files(tuple(path for paths in files for path in paths)),
    indices=np.arange(sum(map(len, files))),
    labels=np.repeat(np.arange(len(files), dtype=np.int32), list(map(len, files))),
    # A name of other bytes than UTF-8 could be written to no file and no page.
    class_names=tuple(
      os.fsencode(folder.name).decode("utf-8", "replace") for folder in classes
    ),
    image_size=image_size,
    channels=channels,
  )


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
  if not root.is_dir():
    return []
  return sorted(
    path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
  )


def _is_image(path: pathlib.Path) -> bool:
  known = path.suffix.lower() in _extensions()
  return known and not path.name.startswith(".") and path.is_file()


@functools.cache
def _extensions() -> frozenset[str]:
  extensions = Image.registered_extensions()  # also of formats that are only written
  return frozenset(end for end, kind in extensions.items() if kind in Image.OPEN)
