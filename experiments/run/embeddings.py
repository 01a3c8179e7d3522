"""Embeddings on disk: a folder of .npy files, to search or to study elsewhere.

- `embeddings.npy`: f32[N, D], not normalized
- `labels.npy`: i32[N]
- `ids.npy`: N strings, the path or the number of each picture
- `classes.txt`: the name of label i on line i + 1
- `split.npy`: N strings, "train", "test" or "gallery", where all were saved
- `about.json`: the run, step and pictures that the embeddings belong to
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ccl_jax.data.examples import Examples
from ccl_jax.training.step import TrainState
from experiments.run.datasets import Data

ABOUT = "about.json"


class Saved(NamedTuple):
  """The contents of a folder of embeddings."""

  embeddings: np.ndarray  # [N, D]
  labels: np.ndarray  # [N]
  ids: np.ndarray  # [N]
  about: dict[str, Any]


def save(
  folder: Path, examples: Examples, embeddings: np.ndarray, about: dict[str, Any]
) -> None:
  """Writes the embeddings of the examples, in their order."""
  folder.mkdir(parents=True, exist_ok=True)
  np.save(folder / "embeddings.npy", embeddings)
  np.save(folder / "labels.npy", examples.labels)
  np.save(folder / "ids.npy", np.asarray(examples.ids))
  (folder / "classes.txt").write_text("".join(f"{c}\n" for c in examples.class_names))
  (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def save_splits(
  folder: Path,
  parts: Mapping[str, Examples],
  embed: Callable[[Examples], np.ndarray],
  about: dict[str, Any],
) -> None:
  """Writes the embeddings of several splits in one folder, each with its name.

  Splits of different classes get labels of their own: a class is told by its name.
  """
  names = sorted({name for part in parts.values() for name in part.class_names})
  labels = [
    np.searchsorted(names, np.array(part.class_names))[part.labels]
    for part in parts.values()
  ]
  arrays = {
    "embeddings": np.concatenate([embed(part) for part in parts.values()]),
    "labels": np.concatenate(labels).astype(np.int32),
    "ids": np.concatenate([np.asarray(part.ids) for part in parts.values()]),
    "split": np.concatenate([np.full(len(part), name) for name, part in parts.items()]),
  }
  folder.mkdir(parents=True, exist_ok=True)
  for name, array in arrays.items():
    np.save(folder / f"{name}.npy", array)
  (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
  (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def load(folder: Path) -> Saved:
  """Reads what `save` wrote.

  Raises:
    ValueError: if the folder holds no embeddings, or its files differ in length.
  """
  if not (folder / ABOUT).is_file():
    inner = sorted(path.parent.name for path in folder.glob(f"*/{ABOUT}"))
    hint = f"; give one of its folders {', '.join(inner)}" if inner else ""
    raise ValueError(
      f"{folder} holds no embeddings{hint}: experiments.evaluate"
      " --save-embeddings=FOLDER writes them"
    )
  arrays = [np.load(folder / f"{name}.npy") for name in ("embeddings", "labels", "ids")]
  if len({len(array) for array in arrays}) > 1:
    raise ValueError(f"the files of {folder} differ in length: save them again")
  return Saved(*arrays, json.loads((folder / ABOUT).read_text()))


def pictures_of(saved: Saved, state: TrainState, data: Data) -> Examples:
  """The part of a run's data that the saved embeddings belong to, in their order.

  Raises:
    ValueError: if the embeddings are of another step or of other pictures.
  """
  if saved.about["step"] != state.step:
    raise ValueError(
      f"the embeddings are of step {saved.about['step']}, and the run is at step"
      f" {state.step}: save them again"
    )
  ids = saved.ids.tolist()
  for part in (data.test, data.gallery, data.validation):
    if part is not None and part.ids == ids:
      return part
  raise ValueError(
    "the embeddings are of other pictures than the run's: save them again"
  )
