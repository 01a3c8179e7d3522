"""A run as one HTML page to look at: curves, numbers, pictures and what they found.

The page holds everything it shows, opens offline and follows the reader's light or dark
theme. Every part is optional: what a run does not have, the page leaves out.
"""

import base64
import html
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

# u8[H, W] grey, or u8[H, W, 1 or 3], each of its own size if need be.
Pictures = Sequence[np.ndarray] | np.ndarray

_INK = "#010203"  # near black; becomes the page's own text colour in the page
_BLUE, _ORANGE = "#3b82f6", "#e0792b"  # legible on white and on near black
_THUMBNAIL = 112  # pixels: twice the size on the page, for dense screens


@dataclass(frozen=True)
class Neighbours:
  """Queries with the nearest gallery pictures of each, as `retrieval.search` gives."""

  query_images: Pictures  # Q
  query_labels: Int[np.ndarray, " Q"]
  gallery_images: Pictures  # N; the same object as query_images without a gallery
  gallery_labels: Int[np.ndarray, " N"]
  indices: Int[np.ndarray, "Q k"]  # of the gallery, nearest first
  similarities: Float[np.ndarray, "Q k"]
  names: Mapping[int, str]  # of the classes; a label without a name shows as a number


@dataclass(frozen=True)
class CenterMap:
  """Class centers, each with a picture of its class."""

  centers: Float[np.ndarray, "K D"]
  images: Pictures  # K
  names: Sequence[str]  # K


@dataclass(frozen=True)
class Cells:
  """Accuracy of the test images of each class that have an attribute."""

  classes: Sequence[str]  # K
  attributes: Sequence[str]  # A
  accuracy: Sequence[Sequence[float | None]]  # [K][A]; None: no image


@dataclass(frozen=True)
class Match:
  """A found picture: its gallery index, class, cosine, and whether it is right."""

  index: int
  label: int
  similarity: float
  correct: bool


def write_report(
  path: str | Path,
  *,
  config: Mapping[str, Any],
  events: Sequence[Mapping[str, Any]],
  result: Mapping[str, Any],
  queries: Neighbours | None = None,
  centers: CenterMap | None = None,
  cells: Cells | None = None,
) -> None:
  """Writes a run's page: one HTML file without outside references.

  Args:
    path: of the file. Its folder names the run, where the config has no `name`.
    config: the run's settings; nested ones are shown under dotted names.
    events: lines of metrics.jsonl: `train` (step, loss, images_per_second) and
      `validation` (step, recall@1, map@r); other kinds and fields are not drawn.
    result: of the test classes: `recall@K`, `map@r`, `r_precision` as fractions;
      `steps`, `seconds`, `versions` (of the software).
    queries: test pictures with what they found.
    centers: trained class centers, for the map.
    cells: accuracy by class and attribute, where there is one that may mislead.
  """
  path = Path(path)
  name = str(config.get("name") or path.resolve().parent.name)
  parts = [
    _headline(name, result),
    _curves_section(events),
    _cells_section(cells),
    _queries_section(queries),
    _map_section(centers),
    _numbers_section(config, result),
  ]
  page = _PAGE.replace("{title}", html.escape(name))
  path.write_text(page.replace("{body}", "\n".join(filter(None, parts))), "utf-8")


def picture_of_neighbours(
  path: str | Path,
  query_image: np.ndarray,
  neighbour_images: Pictures,
  similarities: Sequence[float] | np.ndarray,
  names: Sequence[str],
) -> None:
  """Writes a PNG: the query, and beside it its neighbours in reading order.

  Args:
    path: of the PNG.
    query_image: u8[H, W] or u8[H, W, 1 or 3].
    neighbour_images: nearest first, at least one.
    similarities: cosine of each.
    names: caption of each.

  Raises:
    ValueError: no neighbours, or lists of different lengths.
  """
  figure = neighbours_figure(query_image, neighbour_images, similarities, names)
  with warnings.catch_warnings():
    # A caption in a script that the font lacks shows boxes; the picture is still good.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    figure.savefig(path, format="png", dpi=150)


# Choosing what to show
# ---------------------


def matches(neighbours: Neighbours, query: int, *, most: int = 5) -> list[Match]:
  """What a query found, nearest first."""
  label = int(neighbours.query_labels[query])
  found = neighbours.indices[query, :most].tolist()
  cosines = neighbours.similarities[query, :most].tolist()
  labels = [int(neighbours.gallery_labels[index]) for index in found]
  return [
    Match(index, other, cosine, other == label)
    for index, other, cosine in zip(found, labels, cosines, strict=True)
  ]


def random_queries(neighbours: Neighbours, count: int, *, seed: int = 0) -> list[int]:
  """Queries drawn without a look at what they found, among those with a match."""
  order = np.random.default_rng(seed).permutation(_answerable(neighbours))
  return sorted(order[:count].tolist())


def hardest_mistakes(neighbours: Neighbours, count: int) -> list[int]:
  """The most confident wrong answers, the most confident first.

  Of the queries that confuse the same two classes, either way round, only the first.
  """
  answerable = _answerable(neighbours)
  own = neighbours.query_labels[answerable]
  found = neighbours.gallery_labels[neighbours.indices[answerable, 0]]
  order = np.argsort(-neighbours.similarities[answerable, 0], kind="stable")
  order = order[own[order] != found[order]]
  pairs = np.sort(np.stack([own[order], found[order]], axis=1), axis=1)
  _, first = np.unique(pairs, axis=0, return_index=True)
  return answerable[order[np.sort(first)[:count]]].tolist()


def _answerable(neighbours: Neighbours) -> np.ndarray:
  """Queries that have another picture of their class in the gallery."""
  among = neighbours.query_images is neighbours.gallery_images
  present, sizes = np.unique(neighbours.gallery_labels, return_counts=True)
  return np.flatnonzero(np.isin(neighbours.query_labels, present[sizes > int(among)]))


# Figures
# -------


def loss_figure(events: Sequence[Mapping[str, Any]]) -> Figure | None:
  """The training loss against the step, as logged and smoothed; None without events."""
  steps, losses = _series(events, "train", "loss")
  if not np.isfinite(losses).any():
    return None
  figure, axes = _axes()
  axes.plot(steps, losses, color=_BLUE, alpha=0.35, linewidth=1)
  axes.plot(steps, _smooth(losses), color=_BLUE, linewidth=2)
  if np.nanmin(losses) > 0 and np.nanmax(losses) > 20 * np.nanmin(losses):
    axes.set_yscale("log")
  axes.set_title("Training loss")
  return figure


def validation_figure(events: Sequence[Mapping[str, Any]]) -> Figure | None:
  """Recall@1 and MAP@R of the validation classes, in percent; None without events."""
  figure, axes = _axes()
  drawn = []
  for name, shown, color, style in (
    ("recall@1", "Recall@1", _BLUE, "-o"),
    ("map@r", "MAP@R", _ORANGE, "--s"),
  ):
    steps, values = _series(events, "validation", name)
    if np.isfinite(values).any():
      drawn += axes.plot(
        steps, 100 * values, style, color=color, linewidth=2, markersize=4, label=shown
      )
  if not drawn:
    return None
  axes.legend(frameon=False, labelcolor=_INK, loc="best")
  axes.set_title("Validation classes, %")
  return figure


def throughput_figure(events: Sequence[Mapping[str, Any]]) -> Figure | None:
  """Images per second against the step; None without events."""
  steps, speeds = _series(events, "train", "images_per_second")
  if not np.isfinite(speeds).any():
    return None
  figure, axes = _axes()
  axes.plot(steps, speeds, color=_BLUE, linewidth=1.5)
  axes.set_ylim(0, 1.15 * np.nanmax(speeds[np.isfinite(speeds)]))
  axes.set_title("Images per second")
  return figure


def cells_figure(cells: Cells) -> Figure:
  """Draws classes by attributes as squares, lighter where more images are right."""
  values = np.array(cells.accuracy, float)  # None becomes NaN
  rows, columns = values.shape
  figure = Figure(figsize=(1.6 + 0.62 * columns, 1.1 + 0.45 * rows))
  figure.set_layout_engine("constrained")
  axes = figure.add_subplot()
  drawn = axes.imshow(100 * values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
  axes.set_xticks(range(columns), cells.attributes, rotation=30, ha="right")
  axes.set_yticks(range(rows), cells.classes)
  axes.tick_params(colors=_INK, labelsize=9, length=0)
  if values.size <= 200:  # more would not be legible
    for (row, column), value in np.ndenumerate(values):
      if np.isfinite(value):
        color = "black" if value > 0.5 else "white"
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, color=color, fontsize=8, ha="center", va="center")
  bar = figure.colorbar(drawn, ax=axes, fraction=0.04)
  bar.ax.tick_params(colors=_INK, labelsize=8)
  bar.set_label("accuracy, %", color=_INK, fontsize=9)
  return figure


def center_map_figure(
  centers: CenterMap, *, most: int = 150, seed: int = 0
) -> Figure | None:
  """Draws each class where t-SNE puts its center, as a small picture.

  Pictures that would cover one another are moved apart a little. At most `most`
  classes, drawn at random; None for fewer than three. The same input and seed give the
  same map.
  """
  count = len(centers.centers)
  if count < 3:
    return None
  shown = np.sort(np.random.default_rng(seed).permutation(count)[:most])
  vectors = np.asarray(centers.centers, np.float32)[shown]
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  places = _two_dimensions(vectors / np.maximum(lengths, 1e-12), seed)
  size = 0.052 * math.sqrt(min(150 / len(shown), 4))
  places = _spread(places, 1.12 * size)

  figure = Figure(figsize=(9, 6.75))
  axes = figure.add_axes((0, 0, 1, 1))
  margin = 0.7 * size
  axes.set(xlim=(-margin, 4 / 3 + margin), ylim=(-margin, 1 + margin), aspect="equal")
  axes.axis("off")
  for (x, y), index in zip(places, shown, strict=True):
    x *= 4 / 3
    half = size / 2
    picture = np.asarray(_thumbnail(centers.images[index], 64))
    axes.imshow(
      picture, cmap="gray", vmin=0, vmax=255, interpolation="none",
      extent=(x - half, x + half, y - half, y + half),
    )  # fmt: skip
  axes.set(xlim=(-margin, 4 / 3 + margin), ylim=(-margin, 1 + margin))
  return figure


def neighbours_figure(
  query_image: np.ndarray,
  neighbour_images: Pictures,
  similarities: Sequence[float] | np.ndarray,
  names: Sequence[str],
) -> Figure:
  """The query at the left, its neighbours in rows of five at the right.

  Raises:
    ValueError: no neighbours, or lists of different lengths.
  """
  count = len(neighbour_images)
  if count == 0 or not count == len(similarities) == len(names):
    raise ValueError(
      f"need a similarity and a name for each neighbour, and one at least: got {count}"
      f" pictures, {len(similarities)} similarities, {len(names)} names"
    )
  columns, rows = min(count, 5), -(-count // 5)
  figure = Figure(figsize=(1.5 * columns + 2.1, 1.95 * rows + 0.1), facecolor="white")
  grid = figure.add_gridspec(
    rows, columns + 1, width_ratios=[1.3, *[1] * columns], left=0.02, right=0.98,
    top=1 - 0.3 / (1.95 * rows), bottom=0.35 / (1.95 * rows), wspace=0.14, hspace=0.42,
  )  # fmt: skip
  _draw_picture(figure.add_subplot(grid[0, 0]), query_image, "query", _BLUE)
  for i in range(count):
    axes = figure.add_subplot(grid[i // 5, 1 + i % 5])
    caption = f"{_shortened(names[i], 18)}\n{similarities[i]:.3f}"
    _draw_picture(axes, neighbour_images[i], caption, "#9aa3af")
  return figure


def _draw_picture(axes: Axes, image: np.ndarray, caption: str, color: str) -> None:
  axes.imshow(np.asarray(_thumbnail(image, 224)), cmap="gray", vmin=0, vmax=255)
  axes.set(xticks=[], yticks=[])
  # A caption is text even where it holds a dollar sign.
  axes.set_xlabel(caption, fontsize=9, parse_math=False)
  for spine in axes.spines.values():
    spine.set(color=color, linewidth=2)


def _series(
  events: Iterable[Mapping[str, Any]], kind: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of one field; what is not finite becomes a gap."""
  found = [
    (event["step"], event[name])
    for event in events
    if event.get("event") == kind and event.get(name) is not None
  ]
  steps, values = np.array(found, float).reshape(-1, 2).T
  return steps, np.where(np.isfinite(values), values, np.nan)


def _smooth(values: np.ndarray) -> np.ndarray:
  """Centred running mean over a twentieth of the curve, blind to gaps."""
  width = max(1, len(values) // 20)
  known = np.isfinite(values)
  window = np.ones(2 * width + 1)
  sums = np.convolve(np.where(known, values, 0), window, "full")[width:][: len(values)]
  counts = np.convolve(known, window, "full")[width:][: len(values)]
  return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _axes() -> tuple[Figure, Axes]:
  figure = Figure(figsize=(4.4, 2.9), layout="constrained")
  axes = figure.add_subplot()
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set(color=_INK, alpha=0.35)
  axes.tick_params(colors=_INK, labelsize=9, length=3)
  axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
  axes.set_xlabel("step", fontsize=9, color=_INK)
  axes.title.set(color=_INK, fontsize=11, fontweight="semibold")
  axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
  return figure, axes


def _two_dimensions(vectors: np.ndarray, seed: int) -> np.ndarray:
  """Places [n, 2], each axis scaled to [0, 1]."""
  if np.ptp(vectors, axis=0).max() < 1e-6:  # collapsed to one point
    return np.zeros((len(vectors), 2))
  if len(vectors) < 8:  # too few for neighbourhoods
    places = PCA(2, random_state=seed).fit_transform(vectors)
  else:
    perplexity = min(20.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # Threads would wait for one another far longer than these few points take.
    with threadpool_limits(1):
      places = tsne.fit_transform(vectors)
  low, high = places.min(axis=0), places.max(axis=0)
  return (places - low) / np.maximum(high - low, 1e-12)


def _spread(places: np.ndarray, size: float) -> np.ndarray:
  """Pushes places apart until squares of this size on them hardly overlap."""
  places = places * [4 / 3, 1]
  # Places that coincide have no direction to part in: give each its own.
  turns = 2.4 * np.arange(len(places))
  places = places + 1e-4 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
  for _ in range(200):
    apart = places[:, None] - places[None]
    distance = np.abs(apart).max(axis=2)
    push = np.maximum(size - distance, 0)
    np.fill_diagonal(push, 0)
    if push.max() < 0.05 * size:
      break
    length = np.maximum(np.linalg.norm(apart, axis=2), 1e-12)
    places = places + 0.25 * np.sum(push[..., None] * apart / length[..., None], axis=1)
  low, high = places.min(axis=0), places.max(axis=0)
  return (places - low) / np.maximum(high - low, 1e-12)


# The page
# --------


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


def _queries_section(neighbours: Neighbours | None, count: int = 10) -> str:
  if neighbours is None:
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
    ("Queries drawn at random", key, random_queries(neighbours, count)),
    ("Hardest mistakes", note, hardest_mistakes(neighbours, count)),
  ]
  return "".join(
    f"<section><h2>{title}</h2>{text}<div class='queries'>"
    + "".join(_query_row(neighbours, query) for query in chosen)
    + "</div></section>"
    for title, text, chosen in sections
    if chosen
  )


def _query_row(neighbours: Neighbours, query: int) -> str:
  def name(label: int) -> str:
    return neighbours.names.get(label, str(label))

  own = name(int(neighbours.query_labels[query]))
  cells = [_cell(neighbours.query_images[query], own, "query", "query", "query")]
  for match in matches(neighbours, query):
    kind, mark = ("right", "&#10003;") if match.correct else ("wrong", "&#10007;")
    caption = f"<b aria-hidden='true'>{mark}</b> {match.similarity:.3f}"
    image = neighbours.gallery_images[match.index]
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
  """The figure as inline SVG, in the page's font and text colour."""
  drawn = io.StringIO()
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
    figure.savefig(drawn, format="svg", transparent=True)
  svg = drawn.getvalue()
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # else ids repeat between figures
  svg = re.sub(r"font(-family)?: ([^;\"']*)'[^;\"]*", _page_font, svg)
  svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)
  svg = svg.replace(_INK, "currentColor")
  return svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)


def _page_font(found: re.Match) -> str:
  """Keeps weight and size of an SVG font declaration, and drops its family."""
  return f"font{found[1] or ''}: {found[2]}inherit"


def _png(image: np.ndarray) -> str:
  data = io.BytesIO()
  _thumbnail(image, _THUMBNAIL).save(data, "png", optimize=True)
  return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _thumbnail(image: np.ndarray, side: int) -> Image.Image:
  """A picture no larger than `side` pixels a side."""
  image = np.asarray(image)
  picture = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
  picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  return picture


def _shortened(text: str, most: int) -> str:
  return text if len(text) <= most else text[: most - 1] + "…"


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


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --raised: #fff; --ink: #1c2024; --soft: #667078; --line: #e3e5e8;
  --right: #12803c; --wrong: #c8322b; --query: #3b82f6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --raised: #1c2024; --ink: #e8eaec; --soft: #98a2ab;
    --line: #30363c; --right: #3fbf6f; --wrong: #f2685f; --query: #6ba4ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 3rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; }
h1 {
  font-size: 2.1rem; line-height: 1.15; margin: 0 0 1.5rem; overflow-wrap: anywhere;
}
h2 { font-size: 1.3rem; margin: 3.25rem 0 .5rem; }
p { margin: 0 0 1rem; max-width: 44rem; color: var(--soft); }
.kicker {
  margin: 0; font-size: .78rem; letter-spacing: .09em; text-transform: uppercase;
}
.cards {
  display: grid; gap: .9rem; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr));
}
.card {
  background: var(--raised); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem 1.2rem;
}
.card dt { color: var(--soft); font-size: .88rem; }
.card dd {
  margin: .1rem 0 0; font-size: 1.75rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; white-space: nowrap;
}
.card small { color: var(--soft); }
.curves {
  display: grid; gap: .9rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(18.5rem, 1fr));
}
.curves svg, .map svg {
  display: block; width: 100%; height: auto; background: var(--raised);
  border: 1px solid var(--line); border-radius: 12px; padding: .6rem;
}
.key { max-width: none; }
.key span { margin-left: .5rem; font-weight: 600; white-space: nowrap; }
.key .right, .right .under { color: var(--right); }
.key .wrong, .wrong .under { color: var(--wrong); }
.queries {
  display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
}
.row {
  display: grid; gap: .55rem; padding: .8rem; background: var(--raised);
  grid-template-columns: 1.12fr repeat(5, 1fr); align-items: end;
  border: 1px solid var(--line); border-radius: 12px;
}
figure { margin: 0; min-width: 0; }
figure img {
  display: block; width: 100%; aspect-ratio: 1; object-fit: cover;
  border: 3px solid; border-radius: 7px;
}
figure.query { padding-right: .35rem; border-right: 1px dashed var(--line); }
.query img { border-color: var(--query); }
.right img { border-color: var(--right); }
.wrong img { border-color: var(--wrong); }
figcaption {
  margin-top: .3rem; font-size: .78rem; line-height: 1.35; text-align: center;
  font-variant-numeric: tabular-nums;
}
figcaption span {
  display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
}
.under { font-weight: 600; }
.query .under { color: var(--query); }
table {
  border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  margin: .6rem 0 1rem;
}
th, td {
  text-align: left; padding: .42rem .75rem .42rem 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); font-weight: 400; vertical-align: top;
}
thead th { color: var(--soft); font-size: .82rem; }
tbody th { width: 40%; }
details { border-top: 1px solid var(--line); padding: .8rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media print { .row, .card, svg { break-inside: avoid; } }
</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""
