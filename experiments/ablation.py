"""One setting, several values: what a notebook asks for in one line."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from configs.base import Config
from configs.comparison import Comparison
from experiments import compare, figures, tables

METRICS = ("recall@1", "map@r")


class Ablation:
  """Results of a config with one field at several values, on validation classes.

  Shown by a notebook as a table; `figure` draws them.
  """

  def __init__(self, config: Config, field: str, values: Sequence[Any]):
    """Trains a run for each value, without leaving a file.

    Raises:
      ValueError: a field that no config has, or a value that no run can use.
    """
    if field not in {known.name for known in dataclasses.fields(Config)}:
      raise ValueError(f"{field!r} is no field of a config: see configs/base.py")
    self._comparison = Comparison(
      methods={config.loss: config},
      columns={f"{field} {value}": {field: value} for value in values},
      metrics=METRICS,
      ours=(config.loss,),
    )
    self._order = tables.Order([config.loss], [*self._comparison.columns])
    runs = {
      column: self._comparison.run_config(config.loss, column, {}, config.seed)
      for column in self._order.columns
    }
    self.results = [
      {
        "row": config.loss,
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
    return figures.over_values(
      self.results, self._order, self._comparison, "Recall@1 of validation classes"
    )
