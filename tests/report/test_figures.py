"""Figures of a run: what they draw, and from what."""

import numpy as np
import pytest
from PIL import Image

from ccl_jax.report import figures

CELLS = figures.Cells(
  classes=["0", "<1>"],
  attributes=["red", "green", "blue"],
  accuracy=[[1.0, 0.25, None], [0.0, 0.75, 0.5]],
)


def train_events(count=40):
  fields = {"event": "train", "grad_norm": 1.0, "images_per_second": 900.0}
  return [{**fields, "step": 10 * i, "loss": 9.0 / (1 + i)} for i in range(1, count)]


def validation_events():
  fields = {"event": "validation", "r_precision": 0.3}
  return [
    {**fields, "step": step, "recall@1": 0.5 + step / 1000, "map@r": 0.25}
    for step in (100, 200, 300)
  ]


def pictures(count, shape=(32, 32)):
  return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def some_centers(count):
  centers = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
  return figures.CenterMap(centers, pictures(count), [str(i) for i in range(count)])


def test_a_sheet_frames_right_neighbors_in_blue_and_others_in_orange():
  black = np.zeros((8, 8, 1), np.uint8)
  right = np.array([[True, False], [False, True]])
  sheet = figures.sheet_of_neighbors([black] * 2, [[black] * 2] * 2, right, side=16)
  assert sheet.shape == (32, 48, 3)
  corners = sheet[::16, ::16]
  blue, orange = (59, 130, 246), (224, 121, 43)
  expected = [[(255,) * 3, blue, orange], [(255,) * 3, orange, blue]]
  np.testing.assert_array_equal(corners, expected)
  assert (sheet[8::16, 8::16] == 0).all()


def test_curves_draw_the_events():
  (raw, smooth) = figures.loss_figure(train_events()).axes[0].lines
  np.testing.assert_allclose(raw.get_ydata(), 9 / np.arange(2, 41))
  np.testing.assert_array_equal(raw.get_xdata(), np.arange(10, 400, 10))
  assert len(smooth.get_ydata()) == 39
  recall, map_at_r = figures.validation_figure(validation_events()).axes[0].lines
  np.testing.assert_allclose(recall.get_ydata(), [60, 70, 80])
  np.testing.assert_allclose(map_at_r.get_ydata(), [25, 25, 25])
  (speed,) = figures.throughput_figure(train_events()).axes[0].lines
  assert set(speed.get_ydata()) == {900.0}


def test_smoothing_keeps_a_line_and_bridges_a_gap():
  line = np.arange(100.0)
  np.testing.assert_allclose(figures._smooth(line)[5:-5], line[5:-5])
  line[50] = np.nan
  assert np.isfinite(figures._smooth(line)).all()


@pytest.mark.parametrize("count", [3, 8, 160])
def test_the_map_shows_each_center_once_and_the_same_each_time(count):
  centers = some_centers(count)
  first, second = (figures.center_map_figure(centers).axes[0].images for _ in range(2))
  assert len(first) == min(count, 150)
  extents = [image.get_extent() for image in first]
  assert extents == [image.get_extent() for image in second]
  assert np.isfinite(extents).all()
  shown = {np.asarray(image.get_array()).tobytes() for image in first}
  assert shown <= {picture.tobytes() for picture in centers.images}
  assert len(shown) == min(count, 150)


def test_the_map_places_like_by_like():
  # Three tight clusters: each center's nearest picture belongs to its own.
  rng = np.random.default_rng(0)
  cluster = rng.integers(0, 3, 60)
  vectors = np.eye(8)[cluster] + 0.05 * rng.normal(size=(60, 8))
  images = [np.full((8, 8), c, np.uint8) for c in cluster]
  figure = figures.center_map_figure(
    figures.CenterMap(vectors.astype(np.float32), images, [str(c) for c in cluster])
  )
  drawn = figure.axes[0].images
  places = np.array([np.reshape(i.get_extent(), (2, 2)).mean(axis=1) for i in drawn])
  shown = np.array([i.get_array()[0, 0] for i in drawn])
  distance = np.linalg.norm(places[:, None] - places[None], axis=2)
  np.fill_diagonal(distance, np.inf)
  assert np.mean(shown[distance.argmin(axis=1)] == shown) > 0.9


def test_equal_centers_are_still_drawn_apart():
  centers = figures.CenterMap(np.ones((20, 4), np.float32), pictures(20), ["a"] * 20)
  places = [i.get_extent() for i in figures.center_map_figure(centers).axes[0].images]
  assert len(set(map(tuple, places))) == 20
  assert figures.center_map_figure(some_centers(2)) is None


def test_cells_are_drawn_as_percentages_and_empty_ones_left_blank():
  axes, bar = figures.cells_figure(CELLS).axes
  (image,) = axes.images
  drawn = np.ma.filled(image.get_array(), np.nan)
  np.testing.assert_array_equal(drawn, [[100, 25, np.nan], [0, 75, 50]])
  numbers = {text.get_position(): text.get_text() for text in axes.texts}
  assert numbers == {
    (0, 0): "100",
    (1, 0): "25",
    (0, 1): "0",
    (1, 1): "75",
    (2, 1): "50",
  }
  assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "<1>"]
  assert [label.get_text() for label in axes.get_xticklabels()] == [
    "red",
    "green",
    "blue",
  ]
  assert image.get_clim() == (0, 100) and bar.get_ylabel() == "accuracy, %"


def test_a_thumbnail_fits_the_side_and_is_no_larger_than_its_picture():
  (large,) = pictures(1, (300, 224, 3))
  assert figures.thumbnail(large, 112).size == (84, 112)
  assert figures.thumbnail(pictures(1, (32, 32, 1))[0], 112).size == (32, 32)


def solid(color):
  return np.broadcast_to(np.array(color, np.uint8), (24, 24, 3))


def test_a_picture_of_neighbors_shows_the_query_left_and_rows_of_five(tmp_path):
  red, green = solid((255, 0, 0)), solid((0, 255, 0))
  # A dollar sign is no formula, and a script without a font no error.
  names = ["a $x", "$\\frac$", "漢", "d", "e", "f", "a name that is far too long"]
  figures.picture_of_neighbors(
    tmp_path / "found.png", red, [green] * 7, np.linspace(0.9, 0.3, 7), names
  )
  with Image.open(tmp_path / "found.png") as opened:
    picture = np.asarray(opened.convert("RGB"))
  query = np.argwhere((picture == (255, 0, 0)).all(axis=2))
  found = (picture == (0, 255, 0)).all(axis=2)
  assert query[:, 1].max() < np.argwhere(found)[:, 1].min()

  def runs(line):
    return int(np.sum(np.diff(line.astype(int), prepend=0) == 1))

  rows = np.flatnonzero(found.any(axis=1))
  assert runs(found.any(axis=1)) == 2
  assert runs(found[rows[0] + 20]) == 5 and runs(found[rows[-1] - 20]) == 2
  assert len(query) > found.sum() / 7  # the query is the largest


@pytest.mark.parametrize("count", [1, 5])
def test_a_picture_of_few_neighbors(count, tmp_path):
  figures.picture_of_neighbors(
    tmp_path / "n.png", solid((9, 9, 9)), pictures(count), [0.5] * count, ["n"] * count
  )
  with Image.open(tmp_path / "n.png") as picture:
    assert picture.size[0] == round(150 * (1.5 * count + 2.1))


def test_captions_and_pictures_must_pair(tmp_path):
  one = pictures(1)
  for images, similarities, names in ((one, [0.5], []), ([], [], []), (one, [], ["a"])):
    with pytest.raises(ValueError, match="a similarity and a name for each"):
      figures.neighbors_figure(one[0], images, similarities, names)
