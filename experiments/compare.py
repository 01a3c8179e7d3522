"""Trains a table of configs over several seeds, stores each result, and prints it.

  python -m experiments.compare --config=configs/biased_glyphs.py \\
    --results=experiments/results/biased_glyphs

The config file defines `get_comparison() -> {(row, column): Config}`. Each run leaves a
JSON file of its config, metrics and versions; a run whose file is there is not done
again, so the same command goes on where it was stopped. With --table-only, the table is
made from these files alone, without training: means and 95% intervals over the seeds.
"""

import dataclasses
import itertools
import json
import math
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.base import Config
from experiments import command_line
from experiments.command_line import InputError, exit_on_bad_input

Cell = tuple[str, str]  # row, column


def main(argv: Sequence[str] | None = None) -> None:
  parser = command_line.parser("compare", __doc__ or "")
  parser.add_argument("--config", required=True, help="a file with get_comparison")
  parser.add_argument("--results", required=True, type=Path, help="folder of the JSON")
  parser.add_argument("--seeds", type=int, default=5, help="seeds 0.. (default: 5)")
  parser.add_argument("--metric", default="probe unbiased", help="what the table shows")
  parser.add_argument("--minus", help="a row to take from the others, seed by seed")
  parser.add_argument("--table-only", action="store_true", help="train nothing")
  args = parser.parse_args(argv)
  with exit_on_bad_input():
    comparison = command_line.load_module(args.config).get_comparison()
    missing = find_missing(comparison, args.results, args.seeds)
  if not args.table_only:
    for path, ids, config in missing:
      store(path, ids | run(config))
  with exit_on_bad_input():
    print(table(read(args.results), args.metric, args.minus))


def find_missing(
  comparison: Mapping[Cell, Config], folder: Path, seeds: int
) -> list[tuple[Path, dict[str, Any], Config]]:
  """Where each run without a result will go; a seed of every cell before the next.

  Raises:
    InputError: if a result is there and of another config.
  """
  missing = []
  for seed, (cell, config) in itertools.product(range(seeds), comparison.items()):
    config = dataclasses.replace(config, seed=seed)
    path = folder / f"{_slug(' '.join(cell))}_seed_{seed}.json"
    if path.exists():
      _check_same(path, config)
    else:
      ids = {"row": cell[0], "column": cell[1], "seed": seed}
      missing.append((path, ids, config))
  return missing


def store(path: Path, result: dict[str, Any]) -> None:
  """Writes a result whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_suffix(".tmp")
  unfinished.write_text(json.dumps(result, indent=1) + "\n")
  unfinished.replace(path)
  print(f"{path}: {result['seconds']} s", flush=True)


def run(config: Config) -> dict[str, Any]:
  """One run from start to test metrics, without checkpoints or a report."""
  # Slow to import, and not needed for a table.
  from experiments import assemble, datasets, testing
  from experiments.train import versions

  start = time.perf_counter()
  data = datasets.load_data(config)
  parts = assemble.make_run(config, data)
  batches = assemble.train_batches(config, data.train)
  state = parts.placement.put_state(parts.init_state())
  step = parts.placement.compile_step(parts.train_step)
  metrics: dict[str, Any] = {}
  for batch in itertools.islice(batches, config.steps):
    state, metrics = step(state, parts.placement.put_batch(batch))
  loss = float(parts.placement.one_copy(metrics)["loss"])
  if not math.isfinite(loss):
    raise ValueError(f"the loss ended as {loss}: lower the learning rate")
  found = testing.test(config, parts.embed, parts.placement.one_copy(state), data)
  return {
    "metrics": {"loss": loss, **found.metrics},
    "steps": config.steps,
    "seconds": round(time.perf_counter() - start, 1),
    "versions": versions(),
    "config": dataclasses.asdict(config),
  }


def read(folder: Path) -> list[dict[str, Any]]:
  """All stored results of a folder."""
  paths = sorted(folder.glob("*.json"))
  if not paths:
    raise InputError(f"{folder} holds no results; run without --table-only first")
  return [json.loads(path.read_text()) for path in paths]


def table(
  results: Sequence[Mapping[str, Any]], metric: str, minus: str | None = None
) -> str:
  """A Markdown table: mean and half of the 95% interval (Student's t) over the seeds.

  Args:
    results: as stored.
    metric: what to show.
    minus: a row that is taken from the others, seed by seed.
  """
  cells: dict[Cell, dict[int, float]] = {}
  for result in results:
    if metric not in result["metrics"]:
      known = ", ".join(result["metrics"])
      raise InputError(f"--metric={metric}: the results hold {known}")
    by_seed = cells.setdefault((result["row"], result["column"]), {})
    by_seed[result["seed"]] = result["metrics"][metric]
  rows, columns = ([*dict.fromkeys(part)] for part in zip(*sorted(cells), strict=True))
  if minus is not None and minus not in rows:
    raise InputError(f"--minus={minus}: the rows are {', '.join(rows)}")
  title = metric if minus is None else f"{metric}, minus {minus}"
  lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
  for row in rows:
    shown = []
    for column in columns:
      values = cells.get((row, column), {})
      if minus is not None:
        base = cells.get((minus, column), {})
        values = {seed: values[seed] - base[seed] for seed in values.keys() & base}
      shown.append(interval([*values.values()]) if values else "")
    if row != minus:
      lines.append(f"| {row} | {' | '.join(shown)} |")
  return "\n".join(lines)


def interval(values: Sequence[float]) -> str:
  """`0.612 ± 0.034`; a single value stands alone."""
  from scipy import stats  # comes with scikit-learn

  mean = f"{statistics.mean(values):.3f}"
  if len(values) == 1:
    return mean
  deviation = statistics.stdev(values) / math.sqrt(len(values))
  return f"{mean} ± {stats.t.ppf(0.975, len(values) - 1) * deviation:.3f}"


def _check_same(path: Path, config: Config) -> None:
  # A field that came later had its default before, and where the data lie is no part
  # of what was run.
  stored = _as_json(Config()) | json.loads(path.read_text())["config"]
  asked = _as_json(config)
  if differing := sorted(k for k in asked if stored[k] != asked[k] and k != "data_dir"):
    raise InputError(f"{path} is of another config, in {differing}: remove it")


def _as_json(config: Config) -> dict[str, Any]:
  return json.loads(json.dumps(dataclasses.asdict(config)))


def _slug(text: str) -> str:
  return re.sub(r"[^a-z0-9.]+", "_", text.lower())


if __name__ == "__main__":
  main()
