"""Whatever classes are called, and whatever a drawing does, there is a result."""

import json
import os
import shutil

import pytest

from ccl_jax.report import page
from experiments import train
from experiments.run import show

NAMES = (b"U+1F600 smile", b"U+ZZ", b"U+110000", b"U+D800", b"\xff\xfe not UTF-8")


def test_no_name_of_a_class_ends_a_run(arguments, pictures, tmp_path):
  images = tmp_path / "pictures"
  shutil.copytree(pictures, images)
  for number, name in enumerate(NAMES):
    target = os.path.join(os.fsencode(images), name)
    os.rename(images / f"class_{number:02d}", target)
  train.main(arguments(steps=4, **{"data.images": images}))
  assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4
  assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
  ("name", "expected"),
  [("U+0041", "A U+0041"), ("U+D800", "U+D800"), ("U+110000", "U+110000")],
)
def test_a_caption_shows_characters_alone(name, expected):
  assert show.caption(name) == expected


def test_a_report_that_cannot_be_drawn_leaves_the_result(
  arguments, tmp_path, monkeypatch, capsys
):
  def broken(*args, **kwargs):
    raise KeyError("glyph")

  monkeypatch.setattr(page, "write_report", broken)
  argv = arguments(steps=4)
  train.main(argv)
  assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4
  told = capsys.readouterr()
  assert "error: the report cannot be drawn (KeyError: 'glyph')" in told.err
  train.main(argv)
  assert "report.html was not written: delete" in capsys.readouterr().out
