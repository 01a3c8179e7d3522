"""Embeddings that a network has made, as examples to train a head on.

Either a file `FILE.npz` of arrays, or a folder of the same arrays as `NAME.npy`, as
`experiments.evaluate --save-embeddings` writes it:

- `embeddings` [N, D], of any float type;
- `labels` [N], integers or strings;
- `split` [N], optional: "train", "test" and "gallery", of each row. Without it, half of
  the classes train and the others test;
- `ids` [N], optional: strings, a name for each row.

Rows stay on the disk, and a batch reads its own: a compressed .npz alone is read whole.
"""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np

from ccl_jax.data.examples import Decoded, Examples

SPLITS = ("train", "test", "gallery")
_ROWS_CHECKED = 2**15  # at once, so that a large file does not fill the memory


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Decoded):
  """Embeddings in place of decoded images, with a name for each, as a source.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.data.sources.features import Rows
    >>> rows = Rows(np.eye(2, dtype=np.float32), paths=("a.png", "b.png"))
    >>> print(rows[1]["image"], rows.paths[1])
    [0. 1.] b.png
  """

  paths: tuple[str, ...] = ()


def load(path: str | os.PathLike, *, seed: int = 0) -> tuple[Examples, ...]:
  """Train and test examples, and those of a gallery where there is one.

  An example's "image" is its embedding [D]. A class's name is its label, or line
  `label + 1` of a file classes.txt in the folder.

  Args:
    path: the .npz file, or the folder of .npy files.
    seed: of the choice of the train classes where there is no split.

  Raises:
    FileNotFoundError: if the file, the folder or one of the arrays is missing.
    ValueError: if shapes or types do not fit, a row is not finite, or a split is
      unknown or empty; the message names the first.

  Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> from ccl_jax.data.sources import features
    >>> embeddings, labels = np.eye(8, 4), ["cat", "dog", "owl", "wren"] * 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, "features.npz")
    ...   np.savez(path, embeddings=embeddings, labels=labels)
    ...   train, test = features.load(path)
    ...
    >>> print(train.class_names, test.class_names)
    ('cat', 'owl') ('dog', 'wren')
  """
  path = Path(path)
  arrays = _arrays(path)
  for name in ("embeddings", "labels"):
    if name not in arrays:
      raise FileNotFoundError(
        f"{path} holds no {name}, only {', '.join(sorted(arrays)) or 'nothing'}: give"
        " embeddings [N, D] and labels [N]"
      )
  embeddings = arrays["embeddings"]
  _check(path, arrays)
  values, labels = np.unique(arrays["labels"], return_inverse=True)
  names = _class_names(path, values)
  ids = arrays.get("ids", np.arange(len(embeddings)))
  every = Examples(
    source=Rows(embeddings, tuple(map(str, ids.tolist()))),
    indices=np.arange(len(embeddings)),
    labels=labels.astype(np.int32),
    class_names=names,
  )
  if "split" in arrays:
    return _by_split(path, every, np.asarray(arrays["split"]).astype(str))
  if every.num_classes < 4:
    raise ValueError(
      f"{path} holds {every.num_classes} classes and no split: half of them train,"
      " so give 4 or more, or a split"
    )
  order = np.random.default_rng(seed).permutation(every.num_classes)
  half = len(order) // 2
  return every.subset(np.sort(order[:half])), every.subset(np.sort(order[half:]))


def _arrays(path: Path) -> dict[str, np.ndarray]:
  """The arrays of a file or a folder by name, mapped into memory where that can be."""
  if not path.exists():
    raise FileNotFoundError(
      f"{path} is not there: give an .npz file, or a folder of embeddings.npy and"
      " labels.npy"
    )
  names = ("embeddings", "labels", "split", "ids")
  try:
    if path.is_dir():
      files = {name: path / f"{name}.npy" for name in names}
      return {
        name: np.load(file, mmap_mode="r")
        for name, file in files.items()
        if file.is_file()
      }
    with path.open("rb") as file:
      stored = np.load(file)
      if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError("it is one array")
      return {
        name: _mapped(path, f"{name}.npy") if name == "embeddings" else stored[name]
        for name in names
        if name in stored.files
      }
  except (ValueError, zipfile.BadZipFile, EOFError, TypeError) as error:
    raise ValueError(
      f"{path} is no .npz file of arrays, nor a folder of .npy files ({error})"
    ) from error


def _mapped(path: Path, name: str) -> np.ndarray:
  """An array of an .npz file, left on the disk unless it is compressed there.

  The archive holds the .npy file as it is: after a header of 30 bytes, its name, and a
  field whose length is the header's last number.
  """
  with zipfile.ZipFile(path) as archive, path.open("rb") as file:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
      with archive.open(entry) as packed:
        return np.lib.format.read_array(packed)
    file.seek(entry.header_offset + 26)
    lengths = np.frombuffer(file.read(4), "<u2")
    file.seek(entry.header_offset + 30 + int(lengths.sum()))
    version = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0}.get(
      version[0], np.lib.format.read_array_header_2_0
    )
    shape, in_columns, dtype = read(file)
    order = "F" if in_columns else "C"
    return np.memmap(path, dtype, "r", file.tell(), shape, order)


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Raises ValueError for arrays that do not fit each other, or hold no numbers."""
  embeddings, labels = arrays["embeddings"], arrays["labels"]
  if embeddings.ndim != 2 or 0 in embeddings.shape:
    raise ValueError(f"{path}: embeddings {embeddings.shape}: expected [N, D]")
  if embeddings.dtype.kind != "f":
    raise ValueError(f"{path}: embeddings are {embeddings.dtype}: expected floats")
  for name, array in arrays.items():
    if name != "embeddings" and array.shape != embeddings.shape[:1]:
      raise ValueError(
        f"{path}: {name} {array.shape} and embeddings {embeddings.shape}: expected a"
        f" vector of {len(embeddings)}"
      )
  if labels.dtype.kind not in "iuUS":
    raise ValueError(f"{path}: labels are {labels.dtype}: expected integers or strings")
  if labels.dtype.kind == "i" and labels.min() < 0:
    row = int(np.argmin(labels >= 0))
    raise ValueError(f"{path}: row {row} has label {labels[row]}: expected 0 or more")
  for start in range(0, len(embeddings), _ROWS_CHECKED):
    good = np.isfinite(embeddings[start : start + _ROWS_CHECKED]).all(axis=1)
    if not good.all():
      raise ValueError(
        f"{path}: row {start + int(np.argmin(good))} of the embeddings is not finite:"
        " leave such rows out, or embed them again"
      )


def _class_names(path: Path, values: np.ndarray) -> tuple[str, ...]:
  listed = path / "classes.txt"
  if not listed.is_file() or values.dtype.kind not in "iu":
    return tuple(map(str, values.tolist()))
  lines = listed.read_text().splitlines()
  if values[-1] >= len(lines):
    raise ValueError(f"{listed} has {len(lines)} lines, and a label is {values[-1]}")
  return tuple(lines[value] for value in values.tolist())


def _by_split(path: Path, every: Examples, split: np.ndarray) -> tuple[Examples, ...]:
  """The examples of each split, with classes of their own where they share none."""
  unknown = sorted({*split.tolist()} - {*SPLITS})
  if unknown:
    raise ValueError(f"{path}: split {unknown[0]!r}: expected {', '.join(SPLITS)}")
  parts = []
  for name in SPLITS:
    rows = np.flatnonzero(split == name)
    if len(rows) == 0 and name != "gallery":
      raise ValueError(f"{path}: no row has the split {name}")
    if len(rows):
      parts.append(every.rows(rows))
  train, *tested = parts
  seen = np.unique(train.labels)
  test_classes = np.unique(np.concatenate([part.labels for part in tested]))
  if len(np.intersect1d(seen, test_classes)):
    return train, *tested
  return train.subset(seen), *(part.subset(test_classes) for part in tested)
