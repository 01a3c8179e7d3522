"""Collects the contents of a run's report."""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ccl_jax import retrieval, thresholds
from ccl_jax.data.examples import Examples
from ccl_jax.report import figures, page
from ccl_jax.report.neighbors import Neighbors
from configs import base
from configs.base import Config
from experiments.run import datasets, processes, scoring, workdir

MAPPED = 10_000  # the most classes from which the map of centers chooses


class Images(Sequence):
  """Images of the given rows of examples, decoded when they are read."""

  def __init__(self, examples: Examples, rows: np.ndarray):
    self._examples, self._rows = examples, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    return picture(self._examples[int(self._rows[index])]["image"])


def picture(image: np.ndarray) -> np.ndarray:
  """An image as it is; an embedding [F] as gray squares, darkest where it is lowest."""
  if image.ndim > 1:
    return image
  side = math.ceil(math.sqrt(len(image)))
  low, high = float(image.min()), float(image.max())
  gray = 255 * (image.astype(np.float32) - low) / max(high - low, 1e-12)
  return np.resize(np.pad(gray, (0, side**2 - len(image))), (side, side)).astype(
    np.uint8
  )


def write_report(
  folder: Path,
  config: Config,
  events: Sequence[dict[str, Any]],
  result: dict[str, Any],
  data: datasets.Data,
  centers: figures.CenterMap | None,
  neighbors: retrieval.Neighbors,
  calibration: thresholds.Calibration | None,
) -> None:
  """Writes report.html."""
  cells = result.get("cells")
  page.write_report(
    folder / workdir.REPORT,
    config=base.fields(config),
    events=events,
    result=result,
    queries=neighbors_of(data, neighbors),
    centers=centers,
    cells=None if cells is None else figures.Cells(**cells),
    error_rates=calibration and error_rates(calibration),
    warnings=lost_events(config, events, config.steps),
  )


def error_rates(calibration: thresholds.Calibration) -> figures.ErrorRates:
  """What the report draws of a calibration."""
  return figures.ErrorRates(
    **calibration._asdict(), eer=calibration.eer, chosen=scoring.chosen(calibration)
  )


def lost_events(
  config: Config, events: Sequence[dict[str, Any]], step: int
) -> list[str]:
  """A sentence where metrics.jsonl was deleted or emptied in a run; else nothing."""
  logged = {event["step"] for event in events if event["event"] == "train"}
  due = range(config.log_every, step + 1, config.log_every)
  lost = [number for number in due if number not in logged]
  if not lost:
    return []
  return [
    f"metrics.jsonl lacks the events of {len(lost)} of {len(due)} logged steps up to"
    f" step {step}, the first is step {lost[0]}: they were deleted, and the report's"
    " curves and seconds lack them"
  ]


def neighbors_of(data: datasets.Data, neighbors: retrieval.Neighbors) -> Neighbors:
  """Each test picture with its nearest pictures, in the gallery or in the test set."""
  gallery = data.gallery or data.test
  images = Images(data.test, np.arange(len(data.test)))
  return Neighbors(
    query_images=images,
    query_labels=data.test.labels,
    gallery_images=Images(gallery, np.arange(len(gallery))) if data.gallery else images,
    gallery_labels=gallery.labels,
    indices=neighbors.indices,
    similarities=neighbors.similarities,
    names=dict(enumerate(map(caption, data.test.class_names))),
  )


def sheet_of_neighbors(
  examples: Examples, neighbors: retrieval.Neighbors, *, most: int = 8
) -> np.ndarray:
  """A picture of a few queries, the same at each call, with their nearest pictures."""
  rows = np.random.default_rng(0).permutation(len(examples))[:most]
  found = neighbors.indices[rows]
  right = examples.labels[found] == examples.labels[rows][:, None]
  images = Images(examples, np.arange(len(examples)))
  return figures.sheet_of_neighbors(
    [images[row] for row in rows], [[images[n] for n in near] for near in found], right
  )


def tell(text: str) -> None:
  """Says on the first process what it is about to do."""
  if processes.is_first():
    print(text, file=sys.stderr)


def map_of(
  examples: Examples, class_vectors: jax.Array | None
) -> figures.CenterMap | None:
  """The train classes' centers, if any, each with the first picture of its class."""
  if class_vectors is None:
    return None
  classes, first = np.unique(examples.labels, return_index=True)
  if len(classes) > MAPPED:
    kept = np.sort(np.random.default_rng(0).permutation(len(classes))[:MAPPED])
    classes, first = classes[kept], first[kept]
  return figures.CenterMap(
    centers=scoring.class_centers(class_vectors, classes),
    images=Images(examples, first),
    names=[caption(examples.class_names[label]) for label in classes],
  )


def caption(class_name: str) -> str:
  """A class's name; a name like `U+0041` is preceded by its character."""
  if re.fullmatch("U[+][0-9A-F]{4,6}", class_name):
    code = int(class_name[2:], 16)
    # Surrogates, and what lies beyond Unicode, are no characters.
    if code <= sys.maxunicode and not 0xD800 <= code < 0xE000:
      return f"{chr(code)} {class_name}"
  return class_name
