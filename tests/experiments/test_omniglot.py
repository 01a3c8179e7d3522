"""Conv-4 and few-shot tasks in a run; what a run of Omniglot refuses, in one line."""

import json

import pytest

from configs.base import Config
from experiments import train


def refused(argv, capsys):
  with pytest.raises(SystemExit) as stop:
    train.main(argv)
  told = capsys.readouterr().err.strip().splitlines()[-1:]
  assert stop.value.code == 2
  return told[0]


def test_lists_that_are_missing_are_one_line(tmp_path, capsys):
  argv = ["--config=configs/omniglot.py", f"--workdir={tmp_path / 'run'}"]
  told = refused([*argv, f"--config.data.lists={tmp_path}"], capsys)
  assert told.startswith(
    f"error: {tmp_path / 'trainval.txt'} is missing: give a folder"
  )


def test_pictures_too_small_for_conv_4_are_one_line(arguments, capsys):
  told = refused(arguments(**{"model.name": "conv_net", "data.image_size": 8}), capsys)
  assert told.startswith("error: images are 8 x 8: ConvNet")


def test_tasks_that_no_class_has_images_for_are_one_line(arguments, capsys):
  told = refused(arguments(few_shot_tasks=10), capsys)
  assert told == (
    "error: few_shot_tasks=10: fewer than 5 test classes have 16 images; give 0, or"
    " more images"
  )
  with pytest.raises(ValueError, match="few_shot_tasks=1 have no interval"):
    Config(few_shot_tasks=1)


def test_a_run_of_conv_4_tells_the_accuracy_of_its_tasks(
  arguments, tmp_path, monkeypatch
):
  monkeypatch.setattr("experiments.run.datasets.FEW_SHOT_QUERIES", 2)
  monkeypatch.setattr("experiments.run.scoring.FEW_SHOT_QUERIES", 2)
  replaced = {"model.name": "conv_net", "model.dim": 8, "data.view": "warp_far"}
  train.main(arguments(few_shot_tasks=4, **replaced))
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert 0 <= result["5-way 1-shot accuracy"] <= 1
  assert {name for name in result if "20-way" in name or "5-shot" in name} == set()
