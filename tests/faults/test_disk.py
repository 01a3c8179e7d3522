"""A disk that is full or may not be written to: one line, and nothing lost."""

import errno
import os

import pytest

from ccl_jax.data.sources import glyphs
from ccl_jax.training.checkpoint import Checkpoints
from experiments import train
from experiments.run import workdir
from tests.data import small_fonts
from tests.faults.test_workdir import refused


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_read(
  arguments, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
  argv = arguments(workdir=tmp_path / "a" / "b", **{"data.images": "nowhere"})
  assert refused(argv, capsys) == (
    f"error: {tmp_path} is no folder that can be written to: give another --workdir"
  )
  assert not any(tmp_path.iterdir())


def test_a_data_dir_that_cannot_be_written_to_is_told_before_a_dataset_is_drawn(
  tmp_path, monkeypatch
):
  (tmp_path / "fonts").mkdir()
  small_fonts.write(tmp_path / "fonts")
  data, access = tmp_path / "data", os.access
  data.mkdir()
  monkeypatch.setattr(
    os, "access", lambda path, mode: access(path, mode) and str(path) != str(data)
  )
  with pytest.raises(ValueError, match=f"{data} is no folder that can be written to"):
    glyphs.load(data, fonts=tmp_path / "fonts")
  assert not any(data.iterdir())


def test_a_disk_too_small_for_the_checkpoints_is_known_before_training(
  arguments, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(
    workdir.shutil, "disk_usage", lambda path: type("", (), {"free": 10**5})
  )
  told = refused(arguments(), capsys)
  assert "its disk has 0 MB left and the checkpoints take" in told
  assert not (tmp_path / "run" / "config.json").exists()


def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(
  arguments, tmp_path, capsys, monkeypatch
):
  save = Checkpoints.save

  def full(self, step, state, data):
    if step > 4:
      raise ValueError("RESOURCE_EXHAUSTED: ... [No space left on device] ...")
    save(self, step, state, data)

  monkeypatch.setattr(Checkpoints, "save", full)
  argv = arguments(steps=8)
  told = refused(argv, capsys)
  assert "No space left on device. Nothing is lost but" in told
  monkeypatch.setattr(Checkpoints, "save", save)
  train.main(argv)
  assert "resuming at step 4 of 8" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_the_cause_is_found_below_other_errors(tmp_path, number):
  (tmp_path / "config.json").write_text("{}")
  try:
    try:
      raise OSError(number, os.strerror(number))
    except OSError as error:
      raise RuntimeError("a save failed") from error
  except RuntimeError as error:
    assert os.strerror(number) in (workdir.what_ended(error, tmp_path) or "")
  assert workdir.what_ended(RuntimeError("a defect"), tmp_path) is None
