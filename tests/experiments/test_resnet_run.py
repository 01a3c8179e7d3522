"""A run with a ResNet: weights come in before the first step, and only there."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from ccl_jax.data import views
from ccl_jax.models import resnet
from ccl_jax.training import loop
from ccl_jax.training.checkpoint import Checkpoints
from configs.base import Config, Data
from experiments import train
from experiments.run import assemble, command_line, datasets
from tests.experiments.conftest import refusal
from tests.models import oracles
from tests.models.test_import_torch import safetensors

TINY = dict(depths=(1, 1), bottleneck=False, width=4)


@pytest.fixture
def run_arguments(arguments, tmp_path, monkeypatch):
  """Arguments of a run with a tiny ResNet, whose weights are in a file."""
  monkeypatch.setattr(resnet, "resnet18", partial(resnet.ResNet, **TINY))
  # Random draws take long to compile, and the weights take their place.
  monkeypatch.setattr(resnet, "_KERNEL_INIT", nn.initializers.ones)
  path = tmp_path / "weights.safetensors"
  path.write_bytes(safetensors(oracles.random_weights(**TINY)))
  fields = {
    "model.name": "resnet18",
    "model.weights": path,
    "model.frozen_batch_norm": "true",
    "data.channels": 3,
    "data.image_size": 24,
    "data.shorter_side": 28,
    "data.view": "photo_color",
    "optimizer.name": "adamw",
    "optimizer.backbone_learning_rate": 0.01,
    "steps": 4,
  }
  return lambda **replaced: arguments(**(fields | replaced))


class Reached(Exception):
  """Training was reached; holds the state that it would have started from."""


@pytest.fixture
def start_of(monkeypatch):
  """A function from a run's arguments to the state that its first step would see."""

  def fit(state, *args, **options):
    raise Reached(state)

  def start(argv):
    with monkeypatch.context() as patch, pytest.raises(Reached) as reached:
      patch.setattr(loop, "fit", fit)
      train.main(argv)
    return reached.value.args[0]

  return start


def assert_backbone_is(params, weights):
  backbone = params["model"]["backbone"]
  np.testing.assert_array_equal(
    np.transpose(backbone["layer2_0"]["conv2"]["kernel"], (3, 2, 0, 1)),
    weights["layer2.0.conv2.weight"],
  )
  np.testing.assert_array_equal(backbone["bn1"]["scale"], weights["bn1.weight"])


def test_weights_are_where_a_run_starts_and_are_not_read_again(
  run_arguments, start_of, tmp_path
):
  weights = oracles.random_weights(**TINY)
  start_of(run_arguments())
  # A save that was cut off is no checkpoint.
  (tmp_path / "run" / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
  state = start_of(run_arguments())
  assert state.step == 0
  assert_backbone_is(state.params, weights)
  # Already on the devices, or each array of the file would be laid out by the step.
  for leaf in jax.tree.leaves(state):
    assert len(leaf.sharding.device_set) == 8
  np.testing.assert_array_equal(
    state.model_state["batch_stats"]["backbone"]["bn1"]["var"],
    weights["bn1.running_var"],
  )
  # The head is what a run without weights would draw.
  other = start_of(
    run_arguments(workdir=tmp_path / "other", **{"model.weights": "none"})
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    state.params["model"]["head"],
    other.params["model"]["head"],
  )

  # The run goes on from its own checkpoint, and needs the file no more.
  later = other.replace(step=other.step + 3)
  with Checkpoints(tmp_path / "run" / "checkpoints") as saved:
    saved.save(3, later, {"next_index": 3})
  (tmp_path / "weights.safetensors").unlink()
  resumed = start_of(run_arguments())
  assert resumed.step == 3
  jax.tree.map(np.testing.assert_array_equal, resumed.params, later.params)


def test_a_freed_backbone_learns(run_arguments, tmp_path):
  """The whole way, of which the backbone is frozen for half."""
  train.main(
    run_arguments(
      **{"optimizer.frozen_backbone_fraction": 0.5, "optimizer.warmup_fraction": 0.0}
    )
  )
  state = assemble.restore(tmp_path / "run")
  before = oracles.random_weights(**TINY)
  kernel = state.params["model"]["backbone"]["layer2_0"]["conv2"]["kernel"]
  moved = np.abs(np.transpose(kernel, (3, 2, 0, 1)) - before["layer2.0.conv2.weight"])
  # Two steps of Adam, the first at a rate of 0.01 and the second at half of it.
  assert 0.01 < moved.max() < 0.016
  np.testing.assert_array_equal(
    state.model_state["batch_stats"]["backbone"]["bn1"]["mean"],
    before["bn1.running_mean"],
  )


def test_weights_that_do_not_fit_are_refused(run_arguments, tmp_path, capsys):
  line = refusal(train.main, run_arguments(**{"model.small_images": "true"}), capsys)
  assert "weights.safetensors" in line
  assert "conv1.weight of the weights is float32 of shape (4, 3, 7, 7)" in line
  (tmp_path / "weights.safetensors").unlink()
  line = refusal(train.main, run_arguments(), capsys)
  assert "No such file" in line and "weights.safetensors" in line
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("fields", "says"),
  [
    ({"model.name": "glyph_net"}, "only a ResNet or ViT"),
    (
      {
        "optimizer.backbone_learning_rate": "none",
        "optimizer.frozen_backbone_fraction": 0.5,
      },
      "frozen_backbone_fraction=0.5: give the optimizer.backbone",
    ),
    (
      {"optimizer.backbone_learning_rate": -1.0},
      "backbone_learning_rate=-1.0: expected",
    ),
    (
      {"model.frozen_batch_norm": "yes"},
      "frozen_batch_norm=yes: expected true or false",
    ),
    ({"data.shorter_side": 20}, "shorter_side is 20: give image_size, 24, or more"),
    ({"data.smallest_crop": 1.5}, "smallest_crop=1.5: expected above 0"),
  ],
)
def test_fields_that_do_not_go_together_are_refused(
  fields, says, run_arguments, capsys
):
  assert says in refusal(train.main, run_arguments(**fields), capsys)


@pytest.mark.parametrize("view", ["none", "photo", "photo_color"])
def test_a_photo_is_cut_as_it_is_decoded_and_seen_whole_otherwise(
  view, pictures, monkeypatch
):
  def crop(picture, rng, *, size, smallest):
    return Image.new("RGB", (size, size), (round(255 * smallest), 0, 0))

  config = Config(
    batch_size=16,
    recall_at=(1,),
    data=Data(
      name="folder",
      images=str(pictures),
      validation_fraction=0.25,
      channels=3,
      image_size=24,
      shorter_side=28,
      view=view,
      smallest_crop=0.4,
    ),
  )
  monkeypatch.setattr(views, "random_resized_crop", crop)
  data = datasets.load_data(config)
  assert data.train.shorter_side == data.test.shorter_side == 28
  assert datasets.load_pictures(config, pictures).shorter_side == 28
  images = next(assemble.train_batches(config, data.train))["image"]
  assert images.shape == (16, 24, 24, 3)
  is_cut = (images == [102, 0, 0]).all(axis=(1, 2, 3))
  assert is_cut.all() == (view == "photo") and is_cut.any() == (view != "none")


def test_the_config_says_which_resnet():
  config = command_line.load_config(
    "configs/glyphs.py",
    {
      "model.name": "resnet50",
      "model.dim": "96",
      "model.pooling": "sum",
      "model.layer_norm": "true",
      "model.frozen_batch_norm": "false",
      "model.compute_dtype": "bfloat16",
    },
  )
  model = assemble.make_model(config, "data")
  assert (model.depths, model.bottleneck, model.dim) == ((3, 4, 6, 3), True, 96)
  assert (model.pooling, model.layer_norm, model.frozen_batch_norm) == (
    "sum",
    True,
    False,
  )
  assert (model.dtype, model.axis_name) == (np.dtype("bfloat16"), "data")
