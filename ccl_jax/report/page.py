"""A run as one HTML page to look at: curves, numbers, pictures and what they found.

The page contains all that it shows, opens offline and follows the reader's light or
dark theme. Every part is optional: the page leaves out what a run does not have.
"""

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ccl_jax.report.figures import (
  INK,
  Cells,
  CenterMap,
  ErrorRates,
  cells_figure,
  center_map_figure,
  error_rates_figure,
  loss_figure,
  throughput_figure,
  thumbnail,
  validation_figure,
)
from ccl_jax.report.neighbors import (
  Neighbors,
  hardest_mistakes,
  matches,
  random_queries,
)

_THUMBNAIL = 112  # pixels: twice the size on the page, for dense screens


def write_report(
  path: str | Path,
  *,
  config: Mapping[str, Any],
  events: Sequence[Mapping[str, Any]],
  result: Mapping[str, Any],
  queries: Neighbors | None = None,
  centers: CenterMap | None = None,
  cells: Cells | None = None,
  error_rates: ErrorRates | None = None,
  warnings: Sequence[str] = (),
) -> None:
  """Writes a run's page: one HTML file without outside references.

  Args:
    path: the file to write. Its folder names the run if the config has no `name`.
    config: the run's settings; nested settings are shown under dotted names.
    events: lines of metrics.jsonl: `train` (step, loss, images_per_second) and
      `validation` (step, recall@1, map@r); other kinds and fields are not drawn.
    result: metrics of the test classes (`recall@K`, `map@r`, `r_precision`, as
      fractions), `steps`, `seconds`, and `versions` of the software.
    queries: test pictures with their neighbors.
    centers: trained class centers, for the map.
    cells: accuracy by class and misleading attribute.
    error_rates: of thresholds on the cosine of two test pictures.
    warnings: sentences about what the page lacks, shown at its top.

  Example:
    >>> import os, tempfile
    >>> from ccl_jax.report.page import write_report
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, "report.html")
    ...   events = [{"event": "train", "step": s, "loss": 9 / s} for s in (1, 2, 3)]
    ...   result = {"recall@1": 0.75, "steps": 3, "seconds": 1.5}
    ...   write_report(path, config={"name": "trial"}, events=events, result=result)
    ...   with open(path) as page:
    ...     print("75.00 %" in page.read())
    ...
    True
  """
  path = Path(path)
  name = str(config.get("name") or path.resolve().parent.name)
  parts = [
    _headline(name, result),
    "".join(f"<p class='warning'>{html.escape(told)}</p>" for told in warnings),
    _curves_section(events),
    _cells_section(cells),
    _error_rates_section(error_rates),
    _queries_section(queries),
    _map_section(centers),
    _numbers_section(config, result),
  ]
  # str.format cannot fill the page in, since CSS has braces too.
  page = resources.files("ccl_jax.report").joinpath("page.html").read_text("utf-8")
  page = page.replace("{title}", html.escape(name))
  path.write_text(page.replace("{body}", "\n".join(filter(None, parts))), "utf-8")


def _headline(name: str, result: Mapping[str, Any]) -> str:
  cards = [
    ("Recall@1", _percent(result.get("recall@1")), "test classes"),
    ("MAP@R", _percent(result.get("map@r")), "test classes"),
  ]
  if "probe accuracy" in result:
    cards = [("Linear probe", _percent(result["probe accuracy"]), "test images")]
  if "probe unbiased" in result:
    cards.append(("Unbiased", _percent(result["probe unbiased"]), "mean over cells"))
  cards += [
    ("Steps", _count(result.get("steps")), "of training"),
    ("Wall time", _duration(result.get("seconds")), "for the run"),
  ]
  shown = "".join(
    f"<div class='card'><dt>{title}</dt><dd>{value}</dd><small>{note}</small></div>"
    for title, value, note in cards
  )
  return (
    f"<header><p class='kicker'>Run report</p><h1>{html.escape(name)}</h1>"
    f"<dl class='cards'>{shown}</dl></header>"
  )


def _curves_section(events: Sequence[Mapping[str, Any]]) -> str:
  figures = {
    "Training loss against the step": loss_figure(events),
    "Recall@1 and MAP@R of the validation classes": validation_figure(events),
    "Images per second against the step": throughput_figure(events),
  }
  drawn = "".join(_svg(f, alt) for alt, f in figures.items() if f is not None)
  if not drawn:
    return ""
  return f"<section><h2>Curves</h2><div class='curves'>{drawn}</div></section>"


def _cells_section(cells: Cells | None) -> str:
  if cells is None:
    return ""
  alt = (
    f"Accuracy of {len(cells.classes)} classes by {len(cells.attributes)} attributes"
  )
  return (
    "<section><h2>Accuracy by class and attribute</h2><p>Of the linear probe, on test"
    " images; classes from top to bottom, the attribute from left to right. Where the"
    " attribute is what the model sees, only the cells that go together in training are"
    f" right.</p><div class='map'>{_svg(cells_figure(cells), alt)}</div></section>"
  )


def _error_rates_section(rates: ErrorRates | None) -> str:
  if rates is None:
    return ""
  shown = {"equal error rate": _percent(rates.eer)}
  for far, (threshold, frr) in rates.chosen.items():
    errors = f"{100 * far:g}% false accepts, {_percent(frr)} false rejects"
    shown[f"cosine {threshold:.4f}"] = errors
  drawn = _svg(error_rates_figure(rates), "False accepts and false rejects")
  return (
    "<section><h2>Thresholds</h2><p>How often a threshold on the cosine is wrong about"
    f" two pictures: {rates.same:,} pairs of one test class and {rates.other:,} of two."
    f"</p><div class='curves'>{drawn}</div>{_table(shown, 'threshold', 'errors')}"
    "</section>"
  )


def _queries_section(neighbors: Neighbors | None, count: int = 10) -> str:
  if neighbors is None:
    return ""
  key = (
    "<p class='key'>First the query, then its nearest pictures with their cosine"
    " similarity: <span class='right'>&#10003; same class</span>"
    " <span class='wrong'>&#10007; another class</span></p>"
  )
  note = (
    "<p>The wrong answers of the greatest similarity, one for each two classes that"
    " are confused.</p>"
  )
  sections = [
    ("Queries drawn at random", key, random_queries(neighbors, count)),
    ("Hardest mistakes", note, hardest_mistakes(neighbors, count)),
  ]
  return "".join(
    f"<section><h2>{title}</h2>{text}<div class='queries'>"
    + "".join(_query_row(neighbors, query) for query in chosen)
    + "</div></section>"
    for title, text, chosen in sections
    if chosen
  )


def _query_row(neighbors: Neighbors, query: int) -> str:
  def name(label: int) -> str:
    return neighbors.names.get(label, str(label))

  own = name(int(neighbors.query_labels[query]))
  cells = [_cell(neighbors.query_images[query], own, "query", "query", "query")]
  for match in matches(neighbors, query):
    kind, mark = ("right", "&#10003;") if match.correct else ("wrong", "&#10007;")
    caption = f"<b aria-hidden='true'>{mark}</b> {match.similarity:.3f}"
    image = neighbors.gallery_images[match.index]
    alt = "right" if match.correct else "wrong"
    cells.append(_cell(image, name(match.label), caption, kind, alt))
  return f"<div class='row'>{''.join(cells)}</div>"


def _cell(image: np.ndarray, name: str, caption: str, kind: str, alt: str) -> str:
  text = html.escape(name, quote=True)
  return (
    f"<figure class='{kind}'><img src='{_png(image)}' alt='{alt}: {text}'"
    f" title='{text}'><figcaption><span class='name'>{text}</span>"
    f"<span class='under'>{caption}</span></figcaption></figure>"
  )


def _map_section(centers: CenterMap | None) -> str:
  figure = None if centers is None else center_map_figure(centers)
  if centers is None or figure is None:
    return ""
  shown = min(150, len(centers.centers))
  alt = f"Map of {shown} class centers, a picture of each class at its place"
  return (
    f"<section><h2>Map of the class centers</h2><p>{shown} training classes, where"
    " t-SNE puts their centers. Near in the map: near for the model. Far apart says"
    " little.</p>"
    f"<div class='map'>{_svg(figure, alt)}</div></section>"
  )


def _numbers_section(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
  other = {"steps", "seconds", "versions"}
  metrics = {
    _metric_name(name): _percent(value)
    for name, value in result.items()
    if name not in other and not isinstance(value, str | Mapping)
  }
  parts = []
  if metrics:
    parts.append(f"<h2>Test classes</h2>{_table(metrics, 'metric', 'value')}")
  for title, values in (
    ("Config", _flat(config)),
    ("Versions", _flat(result.get("versions") or {})),
  ):
    if values:
      table = _table(values, "field", "value")
      parts.append(f"<details><summary>{title}</summary>{table}</details>")
  return f"<section>{''.join(parts)}</section>" if parts else ""


def _table(values: Mapping[str, Any], left: str, right: str) -> str:
  rows = "".join(
    f"<tr><th scope='row'>{html.escape(name)}</th>"
    f"<td>{html.escape(str(value))}</td></tr>"
    for name, value in values.items()
  )
  head = f"<tr><th scope='col'>{left}</th><th scope='col'>{right}</th></tr>"
  return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{name}.")
    else:
      flat[f"{prefix}{name}"] = value
  return flat


def _svg(figure: Figure, alt: str) -> str:
  """The figure as inline SVG, in the page's font and text color."""
  drawn = io.StringIO()
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
    figure.savefig(drawn, format="svg", transparent=True)
  svg = drawn.getvalue()
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # else ids repeat between figures
  svg = re.sub(r"font(-family)?: ([^;\"']*)'[^;\"]*", _page_font, svg)
  svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)
  svg = svg.replace(INK, "currentColor")
  return svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)


def _page_font(found: re.Match) -> str:
  """Keeps weight and size of an SVG font declaration, and drops its family."""
  return f"font{found[1] or ''}: {found[2]}inherit"


def _png(image: np.ndarray) -> str:
  data = io.BytesIO()
  thumbnail(image, _THUMBNAIL).save(data, "png", optimize=True)
  return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _metric_name(name: str) -> str:
  known = {"map@r": "MAP@R", "r_precision": "R-precision"}
  return known.get(name, name.replace("recall", "Recall"))


def _percent(value: float | None) -> str:
  if value is None or not math.isfinite(value):
    return "–"
  return f"{100 * value:.2f} %"


def _count(value: int | None) -> str:
  return "–" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
  if seconds is None or not math.isfinite(seconds):
    return "–"
  hours, minutes = int(seconds) // 3600, int(seconds) // 60 % 60
  if hours:
    return f"{hours} h {minutes:02} min"
  return f"{minutes} min {int(seconds) % 60:02} s" if minutes else f"{seconds:.1f} s"
