"""Figures of a run: its curves, its accuracies, its centers, and what a query found."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

# u8[H, W] gray, or u8[H, W, 1 or 3]; sizes may differ.
Pictures = Sequence[np.ndarray] | np.ndarray

INK = "#010203"  # used by text and axes only, so that a page can replace it by its own
_BLUE, _ORANGE = "#3b82f6", "#e0792b"  # legible on white and on near black


@dataclass(frozen=True)
class CenterMap:
  """Class centers, each with a picture of its class.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import CenterMap
    >>> images = np.zeros((3, 8, 8), np.uint8)
    >>> print(CenterMap(np.eye(3), images, ["a", "b", "c"]).names[2])
    c
  """

  centers: Float[np.ndarray, "K D"]
  images: Pictures  # K
  names: Sequence[str]  # K


@dataclass(frozen=True)
class Cells:
  """Accuracy of the test images of each class that have an attribute.

  Example:
    >>> from ccl_jax.report.figures import Cells
    >>> cells = Cells(["cat", "dog"], ["day", "night"], [[0.9, None], [0.8, 0.4]])
    >>> print(cells.accuracy[1][0])  # of dogs by day; no cat is out by night
    0.8
  """

  classes: Sequence[str]  # K
  attributes: Sequence[str]  # A
  accuracy: Sequence[Sequence[float | None]]  # [K][A]; None for a cell without images


@dataclass(frozen=True)
class ErrorRates:
  """How often a threshold on the cosine of two pictures is wrong.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import ErrorRates
    >>> rates = ErrorRates(
    ...   thresholds=np.array([0.2, 0.6]),
    ...   far=np.array([0.1, 0.0]),
    ...   frr=np.array([0.0, 0.5]),
    ...   same=4,
    ...   other=10,
    ...   eer=0.1,
    ...   chosen={0.01: (0.6, 0.5)},
    ... )
    >>> print(rates.chosen[0.01])
    (0.6, 0.5)
  """

  thresholds: Float[np.ndarray, " T"]  # ascending
  far: Float[np.ndarray, " T"]  # false accept rate
  frr: Float[np.ndarray, " T"]  # false reject rate
  same: int  # pairs of one class
  other: int  # pairs of two classes
  eer: float  # equal error rate
  chosen: Mapping[float, tuple[float, float]]  # far -> threshold and frr


def loss_figure(events: Sequence[Mapping[str, Any]]) -> Figure | None:
  """The training loss against the step, as logged and smoothed; None without events.

  Example:
    >>> from ccl_jax.report.figures import loss_figure
    >>> events = [{"event": "train", "step": s, "loss": 9 / s} for s in (1, 2, 3)]
    >>> print(loss_figure(events).axes[0].get_title())
    Training loss
  """
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
  """Recall@1 and MAP@R of the validation classes, in percent; None without events.

  Example:
    >>> from ccl_jax.report.figures import validation_figure
    >>> events = [{"event": "validation", "step": 5, "recall@1": 0.5, "map@r": 0.2}]
    >>> print(validation_figure(events).axes[0].get_title())
    Validation classes, %
  """
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
  axes.legend(frameon=False, labelcolor=INK, loc="best")
  axes.set_title("Validation classes, %")
  return figure


def throughput_figure(events: Sequence[Mapping[str, Any]]) -> Figure | None:
  """Images per second against the step; None without events.

  Example:
    >>> from ccl_jax.report.figures import throughput_figure
    >>> events = [{"event": "train", "step": 5, "images_per_second": 900.0}]
    >>> print(throughput_figure(events).axes[0].get_title())
    Images per second
  """
  steps, speeds = _series(events, "train", "images_per_second")
  if not np.isfinite(speeds).any():
    return None
  figure, axes = _axes()
  axes.plot(steps, speeds, color=_BLUE, linewidth=1.5)
  axes.set_ylim(0, 1.15 * np.nanmax(speeds[np.isfinite(speeds)]))
  axes.set_title("Images per second")
  return figure


def error_rates_figure(rates: ErrorRates) -> Figure:
  """False accept and false reject rates against the threshold, in percent.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import ErrorRates, error_rates_figure
    >>> thresholds, far, frr = np.array([[0.2, 0.6], [0.1, 0.0], [0.0, 0.5]])
    >>> rates = ErrorRates(thresholds, far, frr, same=4, other=10, eer=0.1, chosen={})
    >>> print(error_rates_figure(rates).axes[0].get_title())
    Errors at a threshold, %
  """
  figure, axes = _axes()
  for shares, label, color, style in (
    (rates.far, "false accepts", _BLUE, "-"),
    (rates.frr, "false rejects", _ORANGE, "--"),
  ):
    percent = 100 * shares
    axes.plot(rates.thresholds, percent, style, color=color, linewidth=2, label=label)
  # Where next to nothing happens at the ends is left out.
  told = np.flatnonzero((rates.far < 0.999) & (rates.frr < 0.999))
  if len(told) > 1:
    axes.set_xlim(*rates.thresholds[told[[0, -1]]].tolist())
  axes.legend(frameon=False, labelcolor=INK, loc="best")
  axes.set_xlabel("least cosine of a pair that is accepted", fontsize=9, color=INK)
  axes.set_title("Errors at a threshold, %")
  return figure


def cells_figure(cells: Cells) -> Figure:
  """Draws accuracy by class and attribute as squares, lighter where it is higher.

  Example:
    >>> from ccl_jax.report.figures import Cells, cells_figure
    >>> cells = Cells(["cat", "dog"], ["day", "night"], [[0.9, None], [0.8, 0.4]])
    >>> print([text.get_text() for text in cells_figure(cells).axes[0].texts])
    ['90', '80', '40']
  """
  values = np.array(cells.accuracy, float)  # None becomes NaN
  rows, columns = values.shape
  figure = Figure(figsize=(1.6 + 0.62 * columns, 1.1 + 0.45 * rows))
  figure.set_layout_engine("constrained")
  axes = figure.add_subplot()
  drawn = axes.imshow(100 * values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
  axes.set_xticks(range(columns), cells.attributes, rotation=30, ha="right")
  axes.set_yticks(range(rows), cells.classes)
  axes.tick_params(colors=INK, labelsize=9, length=0)
  if values.size <= 200:  # more would not be legible
    for (row, column), value in np.ndenumerate(values):
      if np.isfinite(value):
        color = "black" if value > 0.5 else "white"
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, color=color, fontsize=8, ha="center", va="center")
  bar = figure.colorbar(drawn, ax=axes, fraction=0.04)
  bar.ax.tick_params(colors=INK, labelsize=8)
  bar.set_label("accuracy, %", color=INK, fontsize=9)
  return figure


def center_map_figure(
  centers: CenterMap, *, most: int = 150, seed: int = 0
) -> Figure | None:
  """Draws each class where t-SNE puts its center, as a small picture.

  Pictures that overlap are moved apart a little. The map shows at most `most` classes,
  drawn at random; it is None for fewer than three. The same input and seed give the
  same map.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import CenterMap, center_map_figure
    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> figure = center_map_figure(CenterMap(np.eye(4), images, "abcd"))
    >>> print(len(figure.axes[0].images))  # a picture of each class
    4
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
    picture = np.asarray(thumbnail(centers.images[index], 64))
    axes.imshow(
      picture, cmap="gray", vmin=0, vmax=255, interpolation="none",
      extent=(x - half, x + half, y - half, y + half),
    )  # fmt: skip
  axes.set(xlim=(-margin, 4 / 3 + margin), ylim=(-margin, 1 + margin))
  return figure


def neighbors_figure(
  query_image: np.ndarray,
  neighbor_images: Pictures,
  similarities: Sequence[float] | np.ndarray,
  names: Sequence[str],
) -> Figure:
  """The query at the left, its neighbors in rows of five at the right.

  Raises:
    ValueError: no neighbors, or lists of different lengths.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import neighbors_figure
    >>> images = np.zeros((3, 8, 8), np.uint8)
    >>> figure = neighbors_figure(images[0], images[1:], [0.9, 0.4], ["cat", "dog"])
    >>> print(*(axes.get_xlabel().replace("\\n", " ") for axes in figure.axes))
    query cat 0.900 dog 0.400
  """
  count = len(neighbor_images)
  if count == 0 or not count == len(similarities) == len(names):
    raise ValueError(
      f"need a similarity and a name for each neighbor, and one at least: got {count}"
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
    _draw_picture(axes, neighbor_images[i], caption, "#9aa3af")
  return figure


def picture_of_neighbors(
  path: str | Path,
  query_image: np.ndarray,
  neighbor_images: Pictures,
  similarities: Sequence[float] | np.ndarray,
  names: Sequence[str],
) -> None:
  """Writes `neighbors_figure` as a PNG.

  Args:
    path: the file to write.
    query_image: u8[H, W] or u8[H, W, 1 or 3].
    neighbor_images: at least one, nearest first.
    similarities: cosine of each neighbor.
    names: caption of each neighbor.

  Raises:
    ValueError: if there are no neighbors, or lists differ in length.

  Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> from ccl_jax.report.figures import picture_of_neighbors
    >>> images = np.zeros((3, 8, 8), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, "found.png")
    ...   picture_of_neighbors(path, images[0], images[1:], [0.9, 0.4], ["cat", "dog"])
    ...   print(os.listdir(folder))
    ...
    ['found.png']
  """
  figure = neighbors_figure(query_image, neighbor_images, similarities, names)
  with warnings.catch_warnings():
    # A character that the font lacks is drawn as a box, which does no harm.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    figure.savefig(path, format="png", dpi=150)


def _draw_picture(axes: Axes, image: np.ndarray, caption: str, color: str) -> None:
  axes.imshow(np.asarray(thumbnail(image, 224)), cmap="gray", vmin=0, vmax=255)
  axes.set(xticks=[], yticks=[])
  # A caption is text even where it holds a dollar sign.
  axes.set_xlabel(caption, fontsize=9, parse_math=False)
  for spine in axes.spines.values():
    spine.set(color=color, linewidth=2)


def sheet_of_neighbors(
  queries: Pictures,
  neighbors: Sequence[Pictures],
  right: Bool[np.ndarray, "Q k"],
  *,
  side: int = 64,
) -> UInt8[np.ndarray, "H W 3"]:
  """A picture of Q rows: a query, and its neighbors in frames.

  Args:
    queries: Q pictures.
    neighbors: k pictures of each query, nearest first.
    right: whether a neighbor has the query's class: a blue frame, else an orange one.
    side: of a picture with its frame, in pixels.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import sheet_of_neighbors
    >>> images = np.zeros((6, 8, 8), np.uint8)
    >>> right = np.array([[True, False], [True, True]])
    >>> found = [images[2:4], images[4:]]
    >>> print(sheet_of_neighbors(images[:2], found, right, side=32).shape)
    (64, 96, 3)
  """
  sheet = np.full((len(queries) * side, (1 + right.shape[1]) * side, 3), 255, np.uint8)
  for row, (query, found) in enumerate(zip(queries, neighbors, strict=True)):
    for column, picture in enumerate([query, *found]):
      color = "white" if column == 0 else _BLUE if right[row, column - 1] else _ORANGE
      tile = Image.new("RGB", (side, side), color)
      image = thumbnail(picture, side)
      frame = max(side // 16, 1)
      inner = side - 2 * frame
      tile.paste(image.convert("RGB").resize((inner, inner)), (frame, frame))
      place = (
        slice(row * side, (row + 1) * side),
        slice(column * side, (column + 1) * side),
      )
      sheet[place] = np.asarray(tile)
  return sheet


def thumbnail(image: np.ndarray, side: int) -> Image.Image:
  """A picture whose sides are at most `side` pixels.

  Example:
    >>> import numpy as np
    >>> from ccl_jax.report.figures import thumbnail
    >>> print(thumbnail(np.zeros((40, 80, 3), np.uint8), 20).size)  # width, height
    (20, 10)
  """
  image = np.asarray(image)
  picture = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
  picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  return picture


def _shortened(text: str, most: int) -> str:
  return text if len(text) <= most else text[: most - 1] + "…"


def _series(
  events: Iterable[Mapping[str, Any]], kind: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of one field; a value that is not finite becomes a gap."""
  found = [
    (event["step"], event[name])
    for event in events
    if event.get("event") == kind and event.get(name) is not None
  ]
  steps, values = np.array(found, float).reshape(-1, 2).T
  return steps, np.where(np.isfinite(values), values, np.nan)


def _smooth(values: np.ndarray) -> np.ndarray:
  """Centered running mean over a tenth of the curve, without the gaps."""
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
  axes.spines[["left", "bottom"]].set(color=INK, alpha=0.35)
  axes.tick_params(colors=INK, labelsize=9, length=3)
  axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
  axes.set_xlabel("step", fontsize=9, color=INK)
  axes.title.set(color=INK, fontsize=11, fontweight="semibold")
  axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
  return figure, axes


def _two_dimensions(vectors: np.ndarray, seed: int) -> np.ndarray:
  """Places [n, 2], each axis scaled to [0, 1]."""
  if np.ptp(vectors, axis=0).max() < 1e-6:  # collapsed to one point
    return np.zeros((len(vectors), 2))
  if len(vectors) < 8:  # too few for neighborhoods
    places = PCA(2, random_state=seed).fit_transform(vectors)
  else:
    perplexity = min(20.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # With so few points, threads would mostly wait for each other.
    with threadpool_limits(1):
      places = tsne.fit_transform(vectors)
  low, high = places.min(axis=0), places.max(axis=0)
  return (places - low) / np.maximum(high - low, 1e-12)


def _spread(places: np.ndarray, size: float) -> np.ndarray:
  """Pushes places apart until squares of this size on them hardly overlap."""
  places = places * [4 / 3, 1]
  # Places that coincide have no direction to move apart: give each its own.
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
