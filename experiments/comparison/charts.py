"""Draws the figures of a comparison from its stored results."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from configs.comparison import Comparison
from experiments.comparison import tables

METRIC = "recall@1"
GROUPS = ("rare", "medium", "frequent")  # thirds of the train classes in a long tail
# Our methods have thick lines in colors of their own; baselines have thin lines.
# A value that is no quantity: batches are drawn without regard to classes.
_SHUFFLED = ("data.images_per_class", 0)
_OURS = ("#1d6fd8", "#d9680f", "#0f8a5f", "#c02a6b")
_BASELINES = [
  matplotlib.colormaps["tab20b"](i) for i in (0, 4, 8, 12, 16, 2, 6, 10)
] + [matplotlib.colormaps["tab20c"](i) for i in (16, 17, 12, 4)]


def draw(
  results: Sequence[tables.Result],
  order: tables.Order,
  comparison: Comparison,
  folder: Path,
  name: str,
) -> list[Path]:
  """Draws the figures for which there are results; returns the paths of the PNGs."""
  figures = {}
  curves = tables.curves(results, METRIC, order.columns[-1])
  field = comparison.varied()
  # With only two lengths of a run, the curve of the longer run tells more.
  if field is not None and (field != "steps" or len(order.columns) > 2):
    title = "Recall@1 of unseen test classes"
    figures[f"{name}.png"] = over_values(results, order, comparison, title)
  elif curves:
    figures[f"{name}_steps.png"] = _over_steps(curves, order, comparison)
  finished = [result["metrics"] for result in results if "diverged_at" not in result]
  if finished and all(_group(g) in metrics for metrics in finished for g in GROUPS):
    figures[f"{name}_groups.png"] = _by_group(results, order, comparison)
  folder.mkdir(parents=True, exist_ok=True)
  about = _about(results, comparison)
  for file, figure in figures.items():
    figure.axes[0].set_title(about, loc="right", fontsize=8, color="#555555")
    figure.savefig(folder / file, dpi=130)
  return [folder / file for file in figures]


def _about(results: Sequence[tables.Result], comparison: Comparison) -> str:
  """The data, and what points and bands are."""
  names = {config.data.name for config in comparison.methods.values()}
  seeds = len({result["seed"] for result in results})
  shown = f"mean of {seeds} seeds, 95% interval" if seeds > 1 else "one seed"
  return f"{', '.join(sorted(names))}; {shown}"


def _over_steps(curves, order: tables.Order, comparison: Comparison) -> Figure:
  """The mean curve of each method on validation classes, with its 95% interval."""
  lines = {
    row: [
      (at[0][0], [value for _, value in at])
      for at in zip(*curves[row].values(), strict=True)
    ]
    for row in order.rows
    if row in curves
  }
  figure, axes = _axes(f"Recall@1 of validation classes, {order.columns[-1]}")
  _draw_lines(axes, lines, comparison)
  axes.set_xlabel("steps")
  return figure


def over_values(
  results: Sequence[tables.Result],
  order: tables.Order,
  comparison: Comparison,
  title: str,
) -> Figure:
  """Recall@1 against the one field in which the columns of a comparison differ."""
  field = comparison.varied()
  assert field is not None
  cells = tables.by_cell(results, METRIC)
  values = {c: comparison.columns[c][field] for c in order.columns}
  lines = {}
  for row in order.rows:
    found = [
      (values[c], [*cells[row, c].values()]) for c in values if (row, c) in cells
    ]
    if found:
      lines[row] = found
  figure, axes = _axes(title)
  numbers = all(isinstance(value, int | float) for value in values.values())
  shuffled = field == _SHUFFLED[0] and _SHUFFLED[1] in values.values()
  if shuffled or not numbers:
    places = {value: place for place, value in enumerate(values.values())}
    lines = {r: [(places[v], found) for v, found in at] for r, at in lines.items()}
    told = {_SHUFFLED[1]: "shuffled"} if shuffled else {}
    axes.set_xticks([*places.values()], [told.get(v, str(v)) for v in places])
  elif min(values.values()) > 0 and max(values.values()) >= 8 * min(values.values()):
    axes.set_xscale("log", base=2)
    axes.set_xticks([*values.values()], [f"{value:g}" for value in values.values()])
    axes.minorticks_off()
  _draw_lines(axes, lines, comparison, first_apart=shuffled)
  axes.set_xlabel(field.rpartition(".")[2].replace("_", " "))
  return figure


def ranks(
  both: Mapping[str, Mapping[str, tuple[tables.BySeed, tables.BySeed]]],
  comparison: Comparison,
  names: tuple[str, str],
) -> Figure:
  """The methods' ranks by Recall@1 in two studies, joined by a line for each method.

  Args:
    both: of `tables.in_both`: column -> row -> values here, values there.
    comparison: whose methods they are.
    names: of the first study and of the second, which is drawn on the left.
  """
  colors, ours = _colors(comparison), comparison.ours
  figure = Figure(figsize=(6.5 * len(both), 6), layout="constrained")
  for axes, (column, cells) in zip(
    figure.subplots(1, len(both), squeeze=False)[0], both.items(), strict=True
  ):
    axes.set_title(f"Recall@1, {column}", loc="left")
    sides = [
      {row: statistics.mean(values[side].values()) for row, values in cells.items()}
      for side in (1, 0)
    ]
    places = [
      {row: place for place, row in enumerate(sorted(side, key=lambda r: -side[r]))}
      for side in sides
    ]
    for row in cells:
      style = {"color": colors[row], "fontsize": 9, "va": "center"}
      style["weight"] = "bold" if row in ours else "normal"
      y = [place[row] for place in places]
      width = 2.2 if row in ours else 1.1
      axes.plot((0, 1), y, color=colors[row], linewidth=width, marker="o", markersize=4)
      axes.text(-0.05, y[0], f"{row} {sides[0][row]:.3f}", ha="right", **style)
      axes.text(1.05, y[1], f"{sides[1][row]:.3f} {row}", ha="left", **style)
    axes.set_xticks((0, 1), names[::-1])
    axes.set_xlim(-1.1, 2.1)
    axes.invert_yaxis()
    axes.get_yaxis().set_visible(False)
    axes.spines[:].set_visible(False)
  return figure


def _by_group(results, order: tables.Order, comparison: Comparison) -> Figure:
  """Recall@1 on held-out images of rare, medium and frequent train classes."""
  figure, axes = _axes("Recall@1 of held-out images of the train classes")
  columns = [c for c in order.columns if any(r["column"] == c for r in results)]
  rows = [row for row in order.rows if any(r["row"] == row for r in results)]
  places, labels = [], []
  width = 0.8 / len(rows)
  colors = _colors(comparison)
  for number, (column, group) in enumerate((c, g) for c in columns for g in GROUPS):
    cells = tables.by_cell(results, _group(group))
    places.append(number + number // len(GROUPS) * 0.6)
    labels.append(f"{group}\n{column}" if group == GROUPS[1] else group)
    for offset, row in enumerate(rows):
      values = [*cells.get((row, column), {}).values()]
      if values:
        axes.bar(
          places[-1] + (offset - (len(rows) - 1) / 2) * width,
          statistics.mean(values),
          width,
          yerr=tables.half_width(values) if len(values) > 1 else None,
          color=colors[row],
          label=row if number == 0 else None,
          error_kw={"linewidth": 0.8},
        )
  axes.set_xticks(places, labels)
  axes.grid(visible=False, axis="x")
  axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
  return figure


def _group(name: str) -> str:
  return f"seen {name} recall@1"


def _axes(title: str) -> tuple[Figure, Axes]:
  figure = Figure(figsize=(9, 6), layout="constrained")
  axes = figure.subplots()
  axes.set_title(title, loc="left")
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def _colors(comparison: Comparison) -> dict[str, Any]:
  ours = comparison.ours
  baselines = [row for row in comparison.palette if row not in ours]
  colors: dict[str, Any] = dict(zip(ours, _OURS, strict=False))
  return colors | {r: _BASELINES[i % len(_BASELINES)] for i, r in enumerate(baselines)}


def _draw_lines(
  axes: Axes,
  lines: Mapping[str, Sequence[tuple[float, Sequence[float]]]],
  comparison: Comparison,
  *,
  first_apart: bool = False,
) -> None:
  """Draws a line with its interval for each method, and the name beside its end.

  With `first_apart`, no line joins the first point, which is of another kind.
  """
  colors, ours = _colors(comparison), comparison.ours
  cut = 1 if first_apart else 0
  parts = [(r, p) for r, at in lines.items() for p in (at[:cut], at[cut:]) if p]
  for row, points in parts:
    x = [place for place, _ in points]
    mean = np.array([statistics.mean(values) for _, values in points])
    width = 2.2 if row in ours else 1.1
    axes.plot(x, mean, color=colors[row], linewidth=width, marker="o", markersize=3)
    if all(len(values) > 1 for _, values in points):
      half = np.array([tables.half_width(values) for _, values in points])
      if len(points) == 1:  # a band of no width would not be seen
        axes.errorbar(x, mean, half, color=colors[row], linewidth=0.8, capsize=3)
      axes.fill_between(x, mean - half, mean + half, color=colors[row], alpha=0.08)
  low, high = axes.get_ylim()
  ends = {row: statistics.mean(points[-1][1]) for row, points in lines.items()}
  step = (high - low) / 28
  at = high + step / 2
  for row in sorted(ends, key=lambda row: -ends[row]):  # a name moves below the last
    at = min(at - step, ends[row])
    axes.annotate(
      f"{row} {ends[row]:.3f}",
      (lines[row][-1][0], ends[row]),
      xytext=(1.03, (at - low) / (high - low)),
      textcoords="axes fraction",
      color=colors[row],
      fontsize=9,
      va="center",
      weight="bold" if row in ours else "normal",
      arrowprops={
        "arrowstyle": "-",
        "color": colors[row],
        "linewidth": 0.5,
        "relpos": (0, 0.5),
        "shrinkA": 1,
      },
    )
  axes.set_ylim(low, high)
