import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ccl_jax.report import figures, page
from ccl_jax.report.neighbors import Neighbors
from tests.report.test_figures import (
  CELLS,
  pictures,
  some_centers,
  train_events,
  validation_events,
)

RESULT = {
  "recall@1": 0.7654,
  "recall@8": 0.9123,
  "map@r": 0.4321,
  "r_precision": 0.5432,
  "steps": 5000,
  "seconds": 4020.0,
  "versions": {"jax": "0.10.2"},
}
CONFIG = {"name": "glyphs", "seed": 3, "loss": {"scale": 16.0, "margin": 0.25}}


class Page(HTMLParser):
  """Elements, visible text and balance of an HTML page."""

  VOID = {"meta", "img", "br"}

  def __init__(self, text):
    super().__init__()
    self.elements, self.text, self.open = [], [], []
    self.feed(text)
    self.text = " ".join(" ".join(self.text).split())

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not self.open or self.open[-1] != "style":
      self.text.append(data)

  def every(self, tag):
    return [attrs for name, attrs in self.elements if name == tag]


def written(path, **parts):
  defaults = {"config": CONFIG, "events": [], "result": RESULT}
  page.write_report(path / "report.html", **(defaults | parts))
  parsed = Page((path / "report.html").read_text("utf-8"))
  assert parsed.open == []
  return parsed


@pytest.fixture(scope="module")
def full_page(tmp_path_factory, neighbors):
  events = [*train_events(), *validation_events(), {"event": "test", "step": 400}]
  path = tmp_path_factory.mktemp("full")
  return written(path, events=events, queries=neighbors, centers=some_centers(12))


def test_the_page_refers_to_nothing_outside_itself(full_page):
  for tag, attributes in full_page.elements:
    assert tag not in ("script", "link", "iframe")
    for name in ("src", "href", "xlink:href"):
      assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not any("url(http" in (value or "") for value in attributes.values())


def test_ids_are_unique_and_every_picture_has_words(full_page):
  ids = [attrs["id"] for _, attrs in full_page.elements if "id" in attrs]
  assert len(ids) == len(set(ids))
  assert all(image["alt"] for image in full_page.every("img"))
  assert all(svg["aria-label"] for svg in full_page.every("svg"))
  assert len(full_page.every("svg")) == 4


def test_the_page_holds_the_numbers(full_page):
  for shown in (
    "glyphs", "76.54 %", "43.21 %", "5,000", "1 h 07 min",  # headline
    "Recall@8", "91.23 %", "R-precision", "54.32 %",  # test classes
    "loss.margin", "0.25", "jax", "0.10.2",  # config and versions
  ):  # fmt: skip
    assert shown in full_page.text, shown


def test_the_page_marks_right_and_wrong(tmp_path, neighbors):
  parsed = written(tmp_path, queries=neighbors)
  kinds = [figure["class"] for figure in parsed.every("figure")]
  alts = [image["alt"] for image in parsed.every("img")]
  # Queries 0 to 3 at random (4 and 5 have no other of their class), then the mistakes.
  at_random = ["query", "right", "wrong"] + ["query", "wrong", "right"] * 2
  at_random += ["query", "wrong", "wrong"]
  assert kinds[:12] == at_random
  assert [alt.split(":")[0] for alt in alts] == kinds
  assert parsed.text.count("✓") == 1 + kinds.count("right")
  assert parsed.text.count("✗") == 1 + kinds.count("wrong")
  assert "✓ 0.950" in parsed.text and "✗ 0.100" in parsed.text


def test_names_are_text_never_markup(tmp_path, neighbors):
  parsed = written(tmp_path, queries=neighbors, config={"name": "<b>run</b>"})
  assert "<one> & 'a' \"b\"" in parsed.text and "<b>run</b>" in parsed.text
  assert "wrong: <one> & 'a' \"b\"" in [image["alt"] for image in parsed.every("img")]


@pytest.mark.parametrize(
  "missing", ["validation", "train", "queries", "centers", "all"]
)
def test_a_part_that_is_missing_is_left_out(missing, tmp_path, neighbors):
  parts = {
    "train": train_events(),
    "validation": validation_events(),
    "queries": neighbors,
    "centers": some_centers(9),
  }
  empty = {"train": [], "validation": [], "queries": None, "centers": None}
  parts |= empty if missing == "all" else {missing: empty[missing]}
  parsed = written(
    tmp_path,
    events=[*parts["train"], *parts["validation"]],
    queries=parts["queries"],
    centers=parts["centers"],
    **({"config": {}, "result": {}} if missing == "all" else {}),
  )
  labels = " ".join(svg["aria-label"] for svg in parsed.every("svg"))
  assert ("Training loss" in labels) == bool(parts["train"])
  assert ("validation" in labels) == bool(parts["validation"])
  assert ("Map of the class centers" in parsed.text) == (parts["centers"] is not None)
  assert ("Hardest mistakes" in parsed.text) == (parts["queries"] is not None)
  if missing == "all":
    assert tmp_path.name in parsed.text and "–" in parsed.text


def test_numbers_that_are_not_finite_do_no_harm(tmp_path):
  events = json.loads(
    '[{"event": "train", "step": 1, "loss": NaN, "images_per_second": Infinity},'
    ' {"event": "train", "step": 2, "loss": 1.5, "images_per_second": 7},'
    ' {"event": "train", "step": 3, "loss": null, "images_per_second": 7},'
    ' {"event": "validation", "step": 2, "recall@1": NaN, "map@r": NaN}]'
  )
  result = RESULT | {"map@r": float("nan"), "seconds": float("nan")}
  parsed = written(tmp_path, events=events, result=result)
  assert "MAP@R – test classes" in parsed.text and "nan" not in parsed.text
  assert len(parsed.every("svg")) == 2  # nothing of the validation can be drawn
  (raw, smooth) = figures.loss_figure(events).axes[0].lines
  np.testing.assert_array_equal(raw.get_ydata(), [np.nan, 1.5])
  (speed,) = figures.throughput_figure(events).axes[0].lines
  np.testing.assert_array_equal(speed.get_ydata(), [np.nan, 7, 7])


def test_large_color_pictures_become_thumbnails(tmp_path, neighbors):
  large = list(pictures(6, (300, 224, 3)))
  fields = vars(neighbors) | {"query_images": large, "gallery_images": large}
  written(tmp_path, queries=Neighbors(**fields))
  assert (tmp_path / "report.html").stat().st_size < 24 * 112 * 84 * 3 * 1.5


def test_the_report_needs_no_jax():
  # In a package of the same folder without its root, since that imports jax.
  folder = str(Path(page.__file__).parents[1])
  code = (
    "import sys, types; sys.modules['jax'] = None;"
    "package = sys.modules['ccl_jax'] = types.ModuleType('ccl_jax');"
    f"package.__path__ = [{folder!r}]; import ccl_jax.report.page"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert run.returncode == 0, run.stderr


def test_colors_and_font_of_the_page_are_the_readers(tmp_path):
  written(tmp_path, events=train_events())
  text = (tmp_path / "report.html").read_text("utf-8")
  assert "prefers-color-scheme: dark" in text and "currentColor" in text
  assert not re.search(figures.INK, text) and "DejaVu Sans'" not in text


def test_a_page_of_probes_leads_with_them_and_shows_the_cells(tmp_path):
  probes = {
    "probe accuracy": 0.4567,
    "probe unbiased": 0.3456,
    "cells": {"classes": []},
  }
  parsed = written(tmp_path, result=RESULT | probes, cells=CELLS)
  for text in ("Linear probe 45.67 %", "Unbiased 34.56 %", "by class and attribute"):
    assert text in parsed.text
  assert any(
    "2 classes by 3 attributes" in s.get("aria-label", "") for s in parsed.every("svg")
  )
  assert "classes by" not in written(tmp_path).text


def test_thresholds_are_drawn_and_listed_with_their_errors(tmp_path):
  rates = figures.ErrorRates(
    thresholds=np.array([-0.5, 0.25, 0.75, 1.5]),
    far=np.array([1, 0.5, 0.01, 0]),
    frr=np.array([0, 0.1, 0.2, 1]),
    same=500,
    other=1500,
    eer=0.1582,
    chosen={0.01: (0.75, 0.2)},
  )
  shown = written(tmp_path, error_rates=rates)
  assert "500 pairs of one test class and 1,500 of two" in shown.text
  assert "15.82 %" in shown.text
  assert "cosine 0.7500" in shown.text
  assert "1% false accepts, 20.00 % false rejects" in shown.text
  accepts, rejects = figures.error_rates_figure(rates).axes[0].lines
  np.testing.assert_allclose(accepts.get_xdata(), rates.thresholds)
  np.testing.assert_allclose(accepts.get_ydata(), [100, 50, 1, 0])
  np.testing.assert_allclose(rejects.get_ydata(), [0, 10, 20, 100])
  # No axis shrinks to the one threshold that is between the ends, with a warning.
  ends = np.array([1, 1, 0.5, 0]), np.array([0, 0, 0.1, 1])
  one = dataclasses.replace(rates, far=ends[0], frr=ends[1])
  low, high = figures.error_rates_figure(one).axes[0].get_xlim()
  assert low <= -0.5 and 1.5 <= high
