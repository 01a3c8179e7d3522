"""One setting, several values: what a notebook asks for in one line."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from configs.base import Config
from configs.comparison import Comparison
from experiments import compare
from experiments.comparison import charts, tables

METRICS = ("recall@1", "map@r")
ROW = "validation classes"


class Ablation:
  """Results of a config with one field at several values, on validation classes.

  Shown by a notebook as a table; `figure` draws them.
  """

  def __init__(self, config: Config, field: str, values: Sequence[Any]):
    """Trains a run for each value, without leaving a file.

    Raises:
      ValueError: a field that no config has, fewer than two values, or one that no run
        can use.
    """
    if len(set(values)) < 2:
      raise ValueError(f"values are {values}: give two or more that differ")
    if field not in {known.name for known in dataclasses.fields(Config)}:
      raise ValueError(f"{field!r} is no field of a config: see configs/base.py")
    self._comparison = Comparison(
      methods={ROW: config},
      columns={f"{field} {value}": {field: value} for value in values},
      metrics=METRICS,
      ours=(ROW,),
    )
    self._order = tables.Order([ROW], [*self._comparison.columns])
    runs = {
      column: dataclasses.replace(config, **fields)
      for column, fields in self._comparison.columns.items()
    }
    self.results = [
      {
        "row": ROW,
        "column": column,
        "seed": config.seed,
        **compare.run(run, trial=True),
      }
      for column, run in tqdm(runs.items(), "runs")
    ]

  def _repr_markdown_(self) -> str:
    shown = (tables.means(self.results, metric, self._order) for metric in METRICS)
    return "\n\n".join(shown)

  def figure(self) -> Figure:
    """Recall@1 against the values."""
    return charts.over_values(
      self.results, self._order, self._comparison, "Recall@1 of validation classes"
    )
