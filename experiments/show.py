"""Gathers what the report of a run shows."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccl_jax import report, retrieval
from ccl_jax.data.examples import Examples
from ccl_jax.step import TrainState
from configs.base import Config
from experiments import assemble, workdir

NEIGHBOURS = 5  # that the report shows of each query


class Images(Sequence):
  """The images of some examples, decoded when they are looked at."""

  def __init__(self, examples: Examples, rows: np.ndarray):
    self._examples, self._rows = examples, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    return self._examples[int(self._rows[index])]["image"]


def write_report(
  rundir: Path,
  config: Config,
  events: Sequence[dict[str, Any]],
  result: dict[str, Any],
  data: assemble.Data,
  state: TrainState,
  embeddings: np.ndarray,
) -> None:
  """Writes report.html; `embeddings` are those of the test examples, in order."""
  centers = assemble.class_centers(state)
  cells = result.get("cells")
  report.write_report(
    rundir / workdir.REPORT,
    config=dataclasses.asdict(config),
    events=events,
    result=result,
    queries=neighbours_of(data.test, embeddings),
    centers=None if centers is None else map_of(data.train, centers),
    cells=None if cells is None else report.Cells(**cells),
  )


def neighbours_of(examples: Examples, embeddings: np.ndarray) -> report.Neighbours:
  """Each test picture with its nearest others."""
  k = min(NEIGHBOURS, len(examples) - 1)
  similarities, indices = retrieval.search(embeddings, k=k)
  images = Images(examples, np.arange(len(examples)))
  return report.Neighbours(
    query_images=images,
    query_labels=examples.labels,
    gallery_images=images,
    gallery_labels=examples.labels,
    indices=indices,
    similarities=similarities,
    names=dict(enumerate(map(caption, examples.class_names))),
  )


def map_of(examples: Examples, centers: np.ndarray) -> report.CenterMap:
  """The train classes' centers, each with the first picture of its class."""
  _, first = np.unique(examples.labels, return_index=True)
  return report.CenterMap(
    centers=centers,
    images=Images(examples, first),
    names=[caption(name) for name in examples.class_names],
  )


def caption(class_name: str) -> str:
  """A class's name; for a character, `U+0041`, the character too."""
  if class_name.startswith("U+"):
    return f"{chr(int(class_name[2:], 16))} {class_name}"
  return class_name
