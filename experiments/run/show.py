"""Collects the contents of a run's report."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ccl_jax import retrieval
from ccl_jax.data.examples import Examples
from ccl_jax.report import figures, page
from configs import base
from configs.base import Config
from experiments.run import datasets, testing, workdir

MAPPED = 10_000  # the most classes from which the map of centers chooses


class Images(Sequence):
  """Images of the given rows of examples, decoded when they are read."""

  def __init__(self, examples: Examples, rows: np.ndarray):
    self._examples, self._rows = examples, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    return self._examples[int(self._rows[index])]["image"]


def write_report(
  folder: Path,
  config: Config,
  events: Sequence[dict[str, Any]],
  result: dict[str, Any],
  data: datasets.Data,
  centers: figures.CenterMap | None,
  neighbors: retrieval.Neighbors,
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
    warnings=lost_events(config, events, config.steps),
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


def neighbors_of(data: datasets.Data, neighbors: retrieval.Neighbors) -> page.Neighbors:
  """Each test picture with its nearest pictures, in the gallery or in the test set."""
  gallery = data.gallery or data.test
  images = Images(data.test, np.arange(len(data.test)))
  return page.Neighbors(
    query_images=images,
    query_labels=data.test.labels,
    gallery_images=Images(gallery, np.arange(len(gallery))) if data.gallery else images,
    gallery_labels=gallery.labels,
    indices=neighbors.indices,
    similarities=neighbors.similarities,
    names=dict(enumerate(map(caption, data.test.class_names))),
  )


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
    centers=testing.class_centers(class_vectors, classes),
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
