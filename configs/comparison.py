"""The schema of a comparison: methods, conditions, and how each method was tuned."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs import base
from configs.base import Config

# What the stored runs name as numbers of every loss, whether it reads them or not.
AS_STORED = {
  "loss.scale": 16.0,
  "loss.margin": 0.2,
  "loss.center_weight": 2.0,
  "loss.temperature": 0.1,
  "loss.gamma": 0.1,
  "loss.regularizer": 0.2,
  "loss.alpha": 2.0,
  "loss.beta": 50.0,
  "loss.base": 0.5,
  "loss.epsilon": 0.1,
  "loss.mining": "batch_hard",
  "loss.momentum": 0.5,
  "loss.sharpness": None,  # class means
}
# Rows of which nothing is tuned: each has the defaults of ccl_jax.losses; those that
# compare embeddings see four images of a class in a batch.
_PAIRS = {"data.images_per_class": 4}
_BANK = {"loss.centers": "bank"}
UNTUNED = {
  "CCL, repelling bank": _BANK,
  "CCL, class means": {**_BANK, "loss.sharpness": None},
  "CCL, trained centers": {"loss.centers": "trained"},
  "ArcFace, repelling bank": {**_BANK, "loss.name": "arcface"},
  "cross-entropy": {"loss.name": "cross_entropy"},
  "SupCon": {"loss.name": "supcon", **_PAIRS},
  "Multi-Similarity": {"loss.name": "multi_similarity", **_PAIRS},
}
UNTUNED_OURS = tuple(name for name in UNTUNED if "CCL" in name or "bank" in name)
Fields = Mapping[str, Any]  # values of config fields, by full name
Space = Mapping[str, Sequence[Any]]  # the values that a search draws a field from


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A table: a row a method, a column a condition, several seeds in each cell."""

  methods: Mapping[str, Config]  # rows, with the settings known from elsewhere
  columns: Mapping[str, Fields]  # conditions: what each replaces in every method
  spaces: Mapping[str, Space] = dataclasses.field(
    default_factory=dict
  )  # to tune, by row
  # Rows that have the settings which the search has found for another row.
  tuned_as: Mapping[str, str] = dataclasses.field(default_factory=dict)
  trial: Fields = dataclasses.field(default_factory=dict)  # replaced in every trial
  trials: int = 0  # of each method that has a space, on validation classes
  metrics: tuple[str, ...] = ("recall@1", "map@r", "r_precision")  # a table each
  ours: tuple[str, ...] = ()  # methods that are not baselines
  # Methods in the order of their colors, the same in the figures of related studies.
  palette: tuple[str, ...] = ()

  def __post_init__(self):
    """Raises ValueError for the space of a method that is not compared."""
    if not self.palette:
      object.__setattr__(self, "palette", tuple(self.methods))
    if unknown := self.spaces.keys() - self.methods:
      raise ValueError(f"spaces of {sorted(unknown)}: expected some of the methods")
    if unknown := {*self.tuned_as} - {*self.methods} | (
      {*self.tuned_as.values()} - {*self.spaces}
    ):
      raise ValueError(f"tuned_as has {sorted(unknown)}: expected methods with a space")

  def trial_config(self, method: str, number: int) -> Config:
    """Trial 0 has the method's own settings; the others are drawn from its space.

    A draw depends on the method's name and the number alone, so more trials, or more
    methods, leave those that are done as they were.
    """
    drawn: dict[str, Any] = {}
    if number > 0:
      rng = np.random.default_rng((zlib.crc32(method.encode()), number))
      for field, values in self.spaces[method].items():
        drawn[field] = values[rng.integers(len(values))]
    return base.replace(self.methods[method], {**drawn, **self.trial})

  def run_config(self, method: str, column: str, tuned: Fields, seed: int) -> Config:
    """What a cell of the table trains; `tuned` is what the search has found."""
    fields = {**tuned, **self.columns[column], "seed": seed}
    return base.replace(self.methods[method], fields)

  def varied(self) -> str | None:
    """The one field in which the columns differ, if each column names it."""
    columns = [*self.columns.values()]
    fields = set().union(*columns)
    differing = {f for f in fields if len({column.get(f) for column in columns}) > 1}
    (field,) = differing if len(differing) == 1 else (None,)
    return field if all(field in column for column in columns) else None
