"""The runs of a comparison: finds missing runs, does them, and stores their results."""

import contextlib
import fcntl
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs import base
from configs.base import Config
from configs.comparison import Comparison
from experiments.comparison import store, tables
from experiments.run.command_line import InputError, exit_on_bad_input

Result = Mapping[str, Any]
CHOSEN_BY = "recall@1"  # on validation classes
# The fields from which a dataset is built.
DATA_FIELDS = (
  "data.name",
  "data.data_dir",
  "data.fonts",
  "data.images",
  "data.classes",
  "data.tfds_name",
  "data.rho",
  "data.image_size",
  "data.channels",
)


class Job(NamedTuple):
  """A run without a result."""

  study: Path  # the file of its result
  ids: dict[str, Any]  # row, column and seed of its result; or row and trial
  config: Config
  trial: bool  # whether it is scored on validation classes, not on the test classes


def train_all(comparison: Comparison, study: Path, search: Path, seeds: int) -> None:
  """Does the missing runs that no other process does, until no run is missing."""
  _build_data(comparison, search.parent)
  while True:
    with exit_on_bad_input():
      jobs, more = find_missing(comparison, study, search, seeds)
    if not jobs and not more:
      return
    for job in jobs:
      with claim(job) as mine:
        if mine and _find(store.read(job.study), job.ids) is None:
          keep(job, run(job.config, trial=job.trial))
          break  # its result may allow runs that come before the others
    else:
      time.sleep(2)  # other processes do the rest, or do what the rest waits for


def _build_data(comparison: Comparison, results: Path) -> None:
  """Builds datasets that are not on disk yet, in one process while the others wait."""
  from experiments.run import datasets  # slow to import, and not needed for a table

  configs = {}
  for method, column in itertools.product(comparison.methods, comparison.columns):
    config = comparison.run_config(method, column, {}, 0)
    values = base.fields(config)
    configs[tuple(values[field] for field in DATA_FIELDS)] = config
  results.mkdir(parents=True, exist_ok=True)
  folder = os.open(results, os.O_RDONLY)  # the same for all studies
  try:
    with exit_on_bad_input():
      fcntl.flock(folder, fcntl.LOCK_EX)
      for config in configs.values():
        datasets.load_data(config)
  finally:
    os.close(folder)


def find_missing(
  comparison: Comparison, study: Path, search: Path, seeds: int
) -> tuple[list[Job], bool]:
  """Runs without a result: first the trials, then all cells seed by seed.

  Returns:
    (runs that can start now, whether further runs wait for trials to end).

  Raises:
    InputError: if a stored result is of another config.
  """
  done, trials = store.read(search), []
  for number, method in itertools.product(range(comparison.trials), comparison.spaces):
    config = comparison.trial_config(method, number)
    job = Job(search, {"row": method, "trial": number}, config, True)
    if _is_missing(job, done):
      trials.append(job)
  waiting = {job.ids["row"] for job in trials}
  tuned = {
    method: find_tuned(comparison, done, method)
    for method in comparison.methods
    if comparison.tuned_as.get(method, method) not in waiting
  }
  done, runs, more = store.read(study), [], False
  cells = itertools.product(comparison.columns, comparison.methods)
  for seed, (column, method) in itertools.product(range(seeds), cells):
    if method not in tuned:
      more = True
      continue
    config = comparison.run_config(method, column, tuned[method], seed)
    job = Job(study, {"row": method, "column": column, "seed": seed}, config, False)
    if _is_missing(job, done):
      runs.append(job)
  return trials + runs, more


def find_tuned(
  comparison: Comparison, trials: Sequence[Result], method: str
) -> dict[str, Any]:
  """The tuned fields of a method's best trial; of equal trials, the first."""
  method = comparison.tuned_as.get(method, method)
  own = [
    trial
    for trial in sorted(trials, key=lambda trial: trial["trial"])
    if trial["row"] == method and trial["trial"] < comparison.trials
  ]
  if method not in comparison.spaces or not own:
    return {}
  best = max(own, key=lambda result: tables.value_of(result, CHOSEN_BY))
  return {field: best["config"][field] for field in comparison.spaces[method]}


@contextlib.contextmanager
def claim(job: Job) -> Iterator[bool]:
  """Whether this process may do a run; no other process may until it ends or dies."""
  name = _slug(" ".join(map(str, [job.study.stem, *job.ids.values()])))
  lock = job.study.with_name(f"{name}.lock")
  lock.parent.mkdir(parents=True, exist_ok=True)
  with lock.open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    yield True
    # A process that opened this file before finds the result, or may lock a new file.
    lock.unlink(missing_ok=True)


def keep(job: Job, result: Result) -> None:
  """Adds a result to the file of its study."""
  store.append(job.study, {**job.ids, **result})
  print(f"{job.study}: {job.ids}, {result['seconds']} s", flush=True)


def run(config: Config, *, trial: bool = False) -> dict[str, Any]:
  """One run from start to its metrics, without checkpoints or a report.

  A trial is scored on the validation classes. Any other run is scored on the test
  classes, and on the validation classes every `eval_every` steps. A diverging loss is a
  result too: the run ends without metrics, and tables and figures show 0.

  Raises:
    ValueError: if a trial has no validation classes.
  """
  # These are slow to import, and not needed for a table.
  from experiments.run import assemble, datasets, scoring
  from experiments.train import versions

  start = time.perf_counter()
  data = datasets.load_data(config)
  parts = assemble.make_run(config, data)
  if trial and not data.validation:
    raise ValueError(
      f"data.validation_fraction={config.data.validation_fraction}: a trial is scored"
      " on validation classes; give more than 0"
    )

  def validate(state) -> dict[str, float]:
    embedded = parts.embed(state, data.validation)
    return scoring.score(config, scoring.Embedded(*embedded))

  curve, loss, state, diverged_at = [], math.nan, None, None
  for number, _, state, metrics in assemble.steps(parts, config, data):
    evaluated = not trial and data.validation and number % config.eval_every == 0
    if not evaluated and number < config.steps:
      continue
    loss = float(metrics["loss"])
    if not math.isfinite(loss):
      diverged_at = number
      break
    if evaluated:
      curve.append({"step": number, **_rounded(validate(state))})
  if diverged_at is not None:
    found = {}
  elif trial:
    found = {"loss": loss, **validate(state)}
  else:
    tested = scoring.test(config, parts.embed_test, state, data)
    found = {"loss": loss, **tested.metrics}
  return {
    "metrics": _rounded(found),
    **({"curve": curve} if curve else {}),
    **({"diverged_at": diverged_at} if diverged_at else {}),
    "steps": config.steps,
    "seconds": round(time.perf_counter() - start, 1),
    "versions": versions(),
    "config": base.fields(config),
  }


def _find(results: Sequence[Result], ids: Mapping[str, Any]) -> Result | None:
  """The result that has these ids, if any."""
  return next((r for r in results if all(r.get(k) == ids[k] for k in ids)), None)


def _is_missing(job: Job, results: Sequence[Result]) -> bool:
  """Whether a run has no result; a result of another config raises InputError."""
  found = _find(results, job.ids)
  if found is None:
    return True
  # A field that is newer than the result had its default then. The folder of the data
  # does not change a result.
  stored, asked = _as_json(Config()) | found["config"], _as_json(job.config)
  if differing := sorted(
    k for k in asked if stored[k] != asked[k] and k != "data.data_dir"
  ):
    raise InputError(
      f"{job.study} has a run of another config, in {differing}: remove the line of"
      f" {job.ids}"
    )
  return False


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
  return {name: round(value, 5) for name, value in metrics.items()}


def _as_json(config: Config) -> dict[str, Any]:
  return json.loads(json.dumps(base.fields(config)))


def _slug(text: str) -> str:
  return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_")
