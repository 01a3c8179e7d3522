"""Compares several values of one setting, in one line of a notebook."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from configs import base
from configs.base import Config
from configs.comparison import Comparison
from experiments.comparison import charts, jobs, tables

METRICS = ("recall@1", "map@r", "loss")
ROW = "validation classes"


@dataclasses.dataclass(frozen=True, repr=False)
class Ablated:
  """The runs of an ablation; a notebook shows them as tables, `figure` draws them."""

  comparison: Comparison  # one row, with a column for each value
  results: Sequence[tables.Result]

  def _repr_markdown_(self) -> str:
    order = self._order()
    shown = (tables.means(self.results, metric, order) for metric in METRICS)
    return "\n\n".join(shown)

  def figure(self) -> Figure:
    """Recall@1 against the values."""
    title = "Recall@1 of validation classes"
    return charts.over_values(self.results, self._order(), self.comparison, title)

  def _order(self) -> tables.Order:
    return tables.Order([ROW], [*self.comparison.columns])


def ablate(config: Config, field: str, values: Sequence[Any]) -> Ablated:
  """Trains a run for each value of a field, and scores it on validation classes.

  No file is written.

  Args:
    config: the config of all runs, except for the field.
    field: the full name of a field of the config, such as "loss.scale".
    values: two or more different values.

  Raises:
    ValueError: if no config has the field, there are fewer than two values, or a run
      cannot use a value.
  """
  if len(set(values)) < 2:
    raise ValueError(f"values are {values}: give two or more that differ")
  if field not in base.fields(config):
    raise ValueError(f"{field!r} is no field of a config: see configs/base.py")
  comparison = Comparison(
    methods={ROW: config},
    columns={f"{field} {value}": {field: value} for value in values},
    metrics=METRICS,
    ours=(ROW,),
  )
  runs = {
    column: base.replace(config, fields)
    for column, fields in comparison.columns.items()
  }
  results = [
    {"row": ROW, "column": column, "seed": config.seed, **jobs.run(run, trial=True)}
    for column, run in tqdm(runs.items(), "runs")
  ]
  return Ablated(comparison, results)
