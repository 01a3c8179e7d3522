"""From a config to the loss that it names."""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import losses
from configs.base import PAIR_LOSSES, Config, LossName
from experiments.run.objective import BY_BLOCKS, BY_LABEL, _settings, make_objective

NUM_CLASSES, DIM = 9, 8
# No field of the config has the default of these, by the name of its own argument.
CHANGED = {
  "scale": 7.0,
  "margin": 1.4,
  "center_weight": 1.7,
  "temperature": 0.31,
  "gamma": 0.6,
  "regularizer": 0.9,
  "alpha": 1.3,
  "beta": 11.0,
  "base": 0.25,
  "epsilon": 0.4,
  "mining": "semi_hard",
}


@pytest.mark.parametrize(
  "name", sorted({*typing.get_args(LossName)} - {"cross_entropy"})
)
def test_a_loss_gets_every_number_of_the_config_that_it_takes(name):
  """By the names of its arguments; only a softmax has its scale's inverse."""
  config = Config(loss=name, dim=DIM, centers_per_class=2, **CHANGED)
  objective = make_objective(config, NUM_CLASSES)
  params, state = objective.init(jax.random.key(0))
  embeddings = jax.random.normal(jax.random.key(1), (8, DIM))
  batch = {"label": jnp.arange(8) // 4, "example": jnp.arange(8) // 2}
  found, _ = objective.apply(params, state, embeddings, batch)

  loss = getattr(losses, "contex" if name == "contex_p" else name)
  takes = inspect.signature(loss).parameters
  settings = {key: value for key, value in CHANGED.items() if key in takes}
  if name == "normalized_softmax":
    settings = {"temperature": 1 / CHANGED["scale"]}
  if name == "contex_p":
    settings["clamp"] = True
  arrays = [embeddings, batch["label"], *jax.tree.leaves(params)]
  if "images" in takes:
    arrays.append(batch["example"])
  expected = loss(*arrays, **settings)
  assert np.abs(expected).max() > 0
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  by_default = make_objective(Config(loss=name, dim=DIM), NUM_CLASSES)
  other, _ = by_default.apply(params, state, embeddings, batch)
  assert np.abs(found - other).max() > 1e-3


@pytest.mark.parametrize(
  "name", sorted({*typing.get_args(LossName)} - {"cross_entropy"})
)
def test_a_loss_over_all_rows_hears_of_a_mapped_axis(name):
  loss = getattr(losses, "contex" if name == "contex_p" else name)
  takes = "axis_name" in inspect.signature(loss).parameters
  given = _settings(Config(loss=name), "data").get("axis_name")
  assert given == ("data" if takes else None)


def test_what_a_memory_is_for_is_said_once():
  assert {*PAIR_LOSSES} == {*BY_LABEL}


@pytest.mark.parametrize("loss", ["arcface", "proxy_nca", "proxy_anchor"])
def test_proxies_may_be_a_bank(loss):
  objective = make_objective(Config(loss=loss, dim=DIM, centers="bank"), NUM_CLASSES)
  params, bank = objective.init(jax.random.key(0))
  labels = jnp.arange(4)
  values, moved = objective.apply(params, bank, jnp.ones((4, DIM)), {"label": labels})
  assert np.isfinite(values).all()
  assert moved.counts.tolist() == [1] * 4 + [0] * 5


@pytest.mark.parametrize(
  "settings", [{"sample_rate": 0.5}, {"parallel": "class_sharded"}]
)
def test_a_part_of_the_classes_is_refused_to_a_loss_that_holds_all(settings):
  (field,) = settings
  with pytest.raises(ValueError) as refused:
    make_objective(Config(loss="arcface", **settings), NUM_CLASSES)
  message = str(refused.value)
  assert f"{field}={settings[field]}" in message and "loss=arcface" in message
  assert ", ".join(BY_BLOCKS) in message


def test_several_centers_a_class_are_no_bank():
  with pytest.raises(ValueError, match="soft_triple with centers=bank"):
    make_objective(Config(loss="soft_triple", centers="bank"), NUM_CLASSES)


@pytest.mark.parametrize("first_visit", ["replace", "mix"])
def test_what_a_first_visit_does_to_a_random_center(first_visit):
  config = Config(dim=DIM, centers="bank", momentum=0.75, first_visit=first_visit)
  objective = make_objective(config, NUM_CLASSES)
  params, bank = objective.init(jax.random.key(0))
  mean = jnp.eye(DIM)[0]
  batch = {"label": jnp.array([3, 3])}
  _, moved = objective.apply(params, bank, jnp.stack([mean, 2 * mean]), batch)
  kept = {"replace": 0.0, "mix": 0.75}[first_visit]
  expected = kept * bank.centers[3] + (1 - kept) * mean
  np.testing.assert_allclose(
    moved.centers[3], expected / jnp.linalg.norm(expected), atol=1e-6
  )
