"""Makes Markdown tables of the stored results of a comparison."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.run.command_line import InputError

Result = Mapping[str, Any]
BySeed = dict[int, float]
MOST_COLUMNS = 8  # of a table with a row a method; more conditions become rows
PART = 0.9  # share of the best baseline's final value, whose first step is shown


class Order(NamedTuple):
  """Rows and columns in the order of a table."""

  rows: Sequence[str]
  columns: Sequence[str]


def by_cell(results: Sequence[Result], metric: str) -> dict[tuple[str, str], BySeed]:
  """(row, column) -> seed -> value.

  Raises:
    InputError: if a result does not hold the metric.
  """
  cells: dict[tuple[str, str], BySeed] = {}
  for result in results:
    seeds = cells.setdefault((result["row"], result["column"]), {})
    seeds[result["seed"]] = value_of(result, metric)
  return cells


def value_of(result: Result, metric: str) -> float:
  """A metric of a run; 0 if the run diverged and so has no metrics.

  Raises:
    InputError: if the result does not hold the metric.
  """
  if "diverged_at" in result:
    return 0.0
  if metric not in result["metrics"]:
    known = ", ".join(result["metrics"])
    raise InputError(f"metric {metric}: the results hold {known}")
  return result["metrics"][metric]


def curves(
  results: Sequence[Result], metric: str, column: str
) -> dict[str, dict[int, list[tuple[int, float]]]]:
  """Row -> seed -> (step, value on validation classes); 0 after a run diverged."""
  of_column = [result for result in results if result["column"] == column]
  evaluated = {p["step"] for result in of_column for p in result.get("curve", ())}
  found: dict[str, dict[int, list[tuple[int, float]]]] = {}
  for result in of_column:
    points = {point["step"]: point[metric] for point in result.get("curve", ())}
    if "diverged_at" in result:
      points = {step: points.get(step, 0.0) for step in evaluated}
    if points:
      found.setdefault(result["row"], {})[result["seed"]] = sorted(points.items())
  return found


def means(
  results: Sequence[Result], metric: str, order: Order, minus: str | None = None
) -> str:
  """Mean and half of the 95% interval (Student's t) over the seeds, cell by cell.

  A row a method and a column a condition, or the other way around where there are many
  conditions.

  Args:
    results: as stored.
    metric: the metric to show.
    order: rows and columns; those without a result are left out.
    minus: a row that is subtracted from the other rows, seed by seed.
  """
  cells = by_cell(results, metric)
  seeds = max(map(len, cells.values()))
  rows = [row for row in order.rows if any(row == cell[0] for cell in cells)]
  columns = [c for c in order.columns if any(c == cell[1] for cell in cells)]
  if minus is not None and minus not in rows:
    raise InputError(f"--minus={minus}: the rows are {', '.join(rows)}")

  def shown(row: str, column: str) -> str:
    values = cells.get((row, column), {})
    if minus is not None:
      base = cells.get((minus, column), {})
      values = {seed: values[seed] - base[seed] for seed in values.keys() & base}
    fewer = f" ({len(values)} of {seeds})" if 0 < len(values) < seeds else ""
    return interval([*values.values()]) + fewer

  title = metric if minus is None else f"{metric}, minus {minus}"
  rows = [row for row in rows if row != minus]
  if len(columns) > MOST_COLUMNS:
    return markdown(
      [title, *rows], [[c, *(shown(r, c) for r in rows)] for c in columns]
    )
  return markdown(
    [title, *columns], [[r, *(shown(r, c) for c in columns)] for r in rows]
  )


def ranked(
  results: Sequence[Result],
  metrics: Sequence[str],
  order: Order,
  ours: Sequence[str],
) -> str:
  """Several metrics side by side; our methods in bold.

  Rows are ordered by the last column of the first metric.
  """
  cells = {metric: by_cell(results, metric) for metric in metrics}
  best = {
    row: statistics.mean(cells[metrics[0]][row, order.columns[-1]].values())
    for row in order.rows
  }
  head = [f"{metric}, {column}" for metric in metrics for column in order.columns]
  body = [
    [
      f"**{row}**" if row in ours else row,
      *(
        interval([*cells[metric][row, column].values()])
        for metric in metrics
        for column in order.columns
      ),
    ]
    for row in sorted(order.rows, key=lambda row: -best[row])
  ]
  return markdown(["method", *head], body)


def agreement(
  results: Sequence[Result], others: Sequence[Result], metric: str, order: Order
) -> str:
  """Spearman's rank correlation of the methods of two studies, condition by condition.

  Args:
    results: as stored.
    others: those of the other study; what only one of the two has is left out.
    metric: what ranks the methods.
    order: rows and columns of the first study.

  Raises:
    InputError: if no condition has three methods in both.
  """
  from scipy import stats  # slow to import

  def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)

  body = []
  for column, cells in in_both(results, others, metric, order).items():
    if len(cells) < 3:
      continue
    seeds = set[int].intersection(*({*a} & {*b} for a, b in cells.values()))
    of_seeds = [correlation([(a[s], b[s]) for a, b in cells.values()]) for s in seeds]
    means = [
      tuple(statistics.mean(v.values()) for v in both) for both in cells.values()
    ]
    whole = f"{correlation(means):.2f}"
    body.append([column, str(len(cells)), whole, interval(of_seeds, 2)])
  if not body:
    raise InputError("no condition has the same three methods in both studies")
  head = [f"rank correlation of {metric}", "methods", "of the means", "of a seed each"]
  return markdown(head, body)


def in_both(
  results: Sequence[Result], others: Sequence[Result], metric: str, order: Order
) -> dict[str, dict[str, tuple[BySeed, BySeed]]]:
  """Column -> row -> values of the first study and of the second, if both have any."""
  here, there = by_cell(results, metric), by_cell(others, metric)
  return {
    column: {
      row: (here[row, column], there[row, column])
      for row in order.rows
      if (row, column) in here and (row, column) in there
    }
    for column in order.columns
  }


def listed(results: Sequence[Result], metrics: Sequence[str]) -> str:
  """Single runs, a line each: methods, conditions, steps, metrics and seconds."""
  body = [
    [
      result["row"],
      str(result.get("column", "trial")),
      f"{result['steps']:,}",
      *(_with_interval(result, metric) for metric in metrics),
      f"{result['seconds']:,.0f}",
    ]
    for result in results
  ]
  return markdown(["method", "on", "steps", *metrics, "seconds"], body)


def _with_interval(result: Result, metric: str) -> str:
  """A metric, with the interval that its own run has found for it, if it has one."""
  value = f"{value_of(result, metric):.3f}"
  half = result["metrics"].get(metric.replace("accuracy", "interval"))
  return value if half is None or "accuracy" not in metric else f"{value} ± {half:.3f}"


def speed(
  results: Sequence[Result], metric: str, order: Order, ours: Sequence[str]
) -> str:
  """Steps until a method's curve reaches parts of the best baseline's final value.

  Curves are those of the last column on validation classes, joined by straight lines. A
  baseline is a method that is not ours. Each seed holds out other classes, so a run is
  compared with the best baseline's run of the same seed. The table is empty if no
  baseline has a curve.
  """
  found = curves(results, metric, order.columns[-1])
  final = {
    row: statistics.mean(points[-1][1] for points in of_seeds.values())
    for row, of_seeds in found.items()
  }
  baselines = [row for row in final if row not in ours]
  if not ours or not baselines:
    return ""
  best = max(baselines, key=lambda row: final[row])
  body = []
  for row in (row for row in order.rows if row in found):
    shown = []
    for part in (PART, 1.0):
      steps = [
        first_step(points, part * found[best][seed][-1][1])
        for seed, points in found[row].items()
        if seed in found[best]
      ]
      shown.append("not in all seeds" if None in steps else interval(steps, 0))
    body.append([row, f"{final[row]:.3f}", *shown])
  return markdown(
    [
      f"validation {metric}, {order.columns[-1]}",
      "at the end",
      f"steps to {PART:.0%} of {best}",
      f"steps to {best}'s end",
    ],
    body,
  )


def first_step(points: Sequence[tuple[int, float]], goal: float) -> float | None:
  """The step at which a curve, 0 at step 0, first reaches the goal; None if never."""
  if goal <= 0:
    return 0
  before = (0, 0.0)
  for point in points:
    if point[1] >= goal:
      part = (goal - before[1]) / (point[1] - before[1])
      return before[0] + part * (point[0] - before[0])
    before = point
  return None


def settings(tuned: Mapping[str, Mapping[str, Any]]) -> str:
  """The settings that the search has found for each method."""
  body = [
    [
      row,
      ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()
      ),
    ]
    for row, found in tuned.items()
    if found
  ]
  return markdown(["method", "settings of its best trial"], body)


def interval(values: Sequence[float], digits: int = 3) -> str:
  """`0.612 ± 0.034`; one value has no interval, and no value gives an empty text."""
  if not values:
    return ""
  mean = f"{statistics.mean(values):.{digits}f}"
  if len(values) == 1:
    return mean
  return f"{mean} ± {half_width(values):.{digits}f}"


def half_width(values: Sequence[float]) -> float:
  """Half of the 95% interval of a mean (Student's t)."""
  from scipy import stats  # slow to import

  deviation = statistics.stdev(values) / math.sqrt(len(values))
  return float(stats.t.ppf(0.975, len(values) - 1) * deviation)


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  """A table in GitHub's Markdown."""
  lines = [head, ["---"] * len(head), *body]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
