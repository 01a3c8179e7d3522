"""The experiments of ConTeX, the whole way, on tiny stand-ins for their datasets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import base
from experiments import evaluate, train
from experiments.comparison import jobs
from experiments.run import assemble, command_line, datasets, workdir
from tests.data import stand_ins

ROOT = Path(__file__).parents[2]
SMALL = {
  "model.name": "glyph_net",
  "data.image_size": 32,
  "model.dim": 16,
  "model.widths": (8, 8),
  "model.depth": 0,
  "model.projection": (8, 4),
  "batch_size": 16,
  "data.num_workers": 0,
  "steps": 2,
  "neighbors": 3,
  "recall_at": (1,),
}
# Where TFDS would put each, and what its test split is called.
PREPARED = {
  "cifar10": ("cifar10", "3.0.2", "test"),
  "cifar100": ("cifar100", "3.0.2", "test"),
  "caltech101": ("caltech101", "3.0.2", "test"),
  "imagenet": ("imagenet2012", "5.1.0", "validation"),
  "celeb_a": ("celeb_a", "2.1.0", "test"),
  "biased_mnist": ("mnist", "3.0.1", "test"),
}


def load(name, **replaced):
  config = command_line.load_config(str(ROOT / "configs" / f"{name}.py"), {})
  return base.replace(config, {**SMALL, **replaced})


def prepare(name, folder):
  dataset, version, test = PREPARED[name]
  kinds = {
    "celeb_a": {"celebrities": True},
    "biased_mnist": {"size": 28, "channels": 1},
  }
  counts = {"train": 80, test: 40}
  stand_ins.write(folder, dataset, version, counts=counts, **kinds.get(name, {}))


@pytest.mark.parametrize("name", sorted(PREPARED.keys() - {"celeb_a"}))
def test_what_tfds_prepares_is_trained_and_probed(name, tmp_path):
  prepare(name, tmp_path)
  config = load(name, **{"data.data_dir": str(tmp_path)})
  metrics = jobs.run(config)["metrics"]
  assert 0 <= metrics["neighbors accuracy"] <= 1
  if name == "biased_mnist":  # the stand-in's quarters are hidden under the colors
    assert 0 <= metrics["probe unbiased"] <= 1
  else:
    assert metrics["probe accuracy"] > 0.5, "quarters are told apart by any network"
    assert "probe unbiased" not in metrics

  data = datasets.load_data(config)
  assert (len(data.train), len(data.test)) == (80, 40)
  batch = next(assemble.train_batches(config, data.train))
  assert batch["image"].shape == (32, 32, 32, 3)
  np.testing.assert_array_equal(batch["example"][::2], batch["example"][1::2])
  np.testing.assert_array_equal(batch["label"], data.train.labels[batch["example"]])


def test_faces_of_a_folder_are_trained_and_probed(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(60):
    gender, white = i % 2, i % 3 == 0
    pixels = rng.integers(0, 60, (40, 40, 3), np.uint8) + 180 * gender
    name = f"30_{gender}_{0 if white else 2}_{i}.jpg.chip.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name, "jpeg")
  metrics = jobs.run(load("utkface", probe="lbfgs", **{"data.images": str(tmp_path)}))[
    "metrics"
  ]
  assert metrics["probe unbiased"] > 0.9
  assert 0 <= metrics["neighbors conflicting"] <= 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """CelebA's stand-in from the command line, with images held out."""
  folder = tmp_path_factory.mktemp("celeb_a")
  prepare("celeb_a", folder)
  fields = {**SMALL, "steps": 4, "eval_every": 2, "data.data_dir": folder}
  fields |= {"data.validation_fraction": 0.2, "probe": "lbfgs"}
  argv = [f"--config={ROOT / 'configs' / 'celeb_a.py'}", f"--workdir={folder / 'run'}"]
  for name, value in fields.items():
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    argv.append(f"--config.{name}={text}")
  train.main(argv)
  return folder / "run"


def test_a_run_shows_its_cells(finished):
  result = json.loads((finished / "result.json").read_text())
  cells = result["cells"]
  assert cells["classes"] == ["not Blond_Hair", "Blond_Hair"]
  assert cells["attributes"] == ["not Male", "Male"]
  assert result["probe unbiased"] == pytest.approx(np.mean(cells["accuracy"]))
  for name in ("probe accuracy", "neighbors accuracy", "recall@1", "map@r"):
    assert 0 <= result[name] <= 1
  page = (finished / "report.html").read_text()
  assert "Accuracy by class and attribute" in page and "Unbiased" in page
  assert "Accuracy of 2 classes by 2 attributes" in page


def test_evaluate_probes_again_and_on_held_out_images(finished, capsys):
  result = json.loads((finished / "result.json").read_text())
  evaluate.main([f"--workdir={finished}"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  for name in ("probe accuracy", "probe conflicting", "neighbors unbiased"):
    assert scores[name] == pytest.approx(result[name], abs=1e-6)
  evaluate.main([f"--workdir={finished}", "--split=validation"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert 0 <= scores["probe unbiased"] <= 1


def test_what_is_probed_lies_below_the_head(finished):
  config = workdir.read_config(finished)
  data, state = datasets.load_data(config), assemble.restore(finished)
  features, _ = assemble.make_embed(config)(state, data.test)
  assert config.model.projection == (8, 4) and features.shape == (40, 16)


def test_a_probe_needs_the_train_classes_in_the_test(arguments, capsys):
  with pytest.raises(SystemExit):
    train.main(arguments(probe="lbfgs"))
  assert "needs test images of the train classes" in capsys.readouterr().err
