"""From a config to the loss that it names."""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import losses
from configs import base
from configs.base import Config, Loss, Model
from experiments.run.objective import BY_LABEL, BY_VIEW, make_objective, settings_of

NUM_CLASSES, DIM = 9, 8
# No loss has these for its own numbers.
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


def applied(config):
  """What the config's objective gives for some rows, and the arrays of its loss."""
  objective = make_objective(config, NUM_CLASSES)
  params, state = objective.init(jax.random.key(0))
  embeddings = jax.random.normal(jax.random.key(1), (8, DIM))
  batch = {"label": jnp.arange(8) // 4, "example": jnp.arange(8) // 2}
  found, _ = objective.apply(params, state, embeddings, batch)
  by_view = [batch["example"]] if config.loss.name in BY_VIEW else []
  return found, [embeddings, batch["label"], *jax.tree.leaves(params), *by_view]


@pytest.mark.parametrize(
  "name", sorted({*typing.get_args(base.hints()["loss.name"])} - {"cross_entropy"})
)
def test_a_loss_gets_every_number_of_the_config_that_it_takes(name):
  """By the names of its arguments; only a softmax has its scale's inverse."""
  config = Config(
    model=Model(dim=DIM), loss=Loss(name=name, centers_per_class=2, **CHANGED)
  )
  found, arrays = applied(config)

  loss = getattr(losses, "contex" if name == "contex_p" else name)
  takes = inspect.signature(loss).parameters
  settings = {key: value for key, value in CHANGED.items() if key in takes}
  if name == "normalized_softmax":
    settings = {"temperature": 1 / CHANGED["scale"]}
  if name == "contex_p":
    settings["clamp"] = True
  expected = loss(*arrays, **settings)
  assert np.abs(expected).max() > 0
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  other, _ = applied(
    Config(model=Model(dim=DIM), loss=Loss(name=name, centers_per_class=2))
  )
  assert np.abs(found - other).max() > 1e-3


@pytest.mark.parametrize(
  "name",
  [
    "proxy_anchor",
    "proxy_anchor over a bank",
    "arcface over a bank, unvisited",
    "supcon",
    "contex",
    "contrastive with a memory",
  ],
)
def test_a_loss_that_relates_rows_sees_those_of_all_devices(name):
  """As in `pmap`: a row's loss is that of the global batch."""
  memory = {"loss.memory_size": 8, "batch_size": 8} if "memory" in name else {}
  centers = "bank" if "bank" in name else "trained"
  plain = Config(model=Model(dim=DIM), loss=Loss(name=name.split()[0], centers=centers))
  first = {"loss.unvisited": "supcon"} if "unvisited" in name else {}
  config = base.replace(plain, memory | first)
  embeddings = jax.random.normal(jax.random.key(1), (8, DIM))
  batch = {"label": jnp.arange(8) % 3, "example": jnp.arange(8) // 2}

  def values(embeddings, batch, axis_name=None):
    objective = make_objective(config, NUM_CLASSES, axis_name)
    params, state = objective.init(jax.random.key(0))
    return objective.apply(params, state, embeddings, batch)[0]

  split = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), (embeddings, batch))
  mapped = jax.pmap(lambda e, b: values(e, b, "data"), axis_name="data")(*split)
  np.testing.assert_allclose(
    mapped.reshape(8), values(embeddings, batch), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  "name", sorted({*typing.get_args(base.hints()["loss.name"])} - {"cross_entropy"})
)
def test_a_loss_has_its_own_numbers_unless_the_config_says_others(name):
  """ArcFace's scale is 64, and not the 16 of another loss."""
  config = Config(model=Model(dim=DIM), loss=Loss(name=name, centers_per_class=2))
  found, arrays = applied(config)
  loss = getattr(losses, "contex" if name == "contex_p" else name)
  clamp = {"clamp": True} if name == "contex_p" else {}
  np.testing.assert_allclose(found, loss(*arrays, **clamp), rtol=1e-6)


def test_what_a_memory_is_for_is_said_once():
  take_one = {name for name, loss in BY_LABEL.items() if "memory" in settings_of(loss)}
  assert {*base.PAIR_LOSSES} == take_one


@pytest.mark.parametrize("loss", ["arcface", "proxy_nca", "proxy_anchor"])
def test_proxies_may_be_a_bank(loss):
  objective = make_objective(
    Config(model=Model(dim=DIM), loss=Loss(name=loss, centers="bank")), NUM_CLASSES
  )
  params, bank = objective.init(jax.random.key(0))
  labels = jnp.arange(4)
  values, moved = objective.apply(params, bank, jnp.ones((4, DIM)), {"label": labels})
  assert np.isfinite(values).all()
  assert moved.counts.tolist() == [1] * 4 + [0] * 5


@pytest.mark.parametrize(
  "settings", [{"loss.sample_rate": 0.5}, {"parallel": "class_sharded"}]
)
def test_a_part_of_the_classes_is_refused_to_a_loss_that_holds_all(settings):
  (field,) = settings

  def of_loss(name):
    return base.replace(Config(loss=Loss(name=name)), settings)

  with pytest.raises(ValueError) as refused:
    make_objective(of_loss("proxy_anchor"), NUM_CLASSES)
  message = str(refused.value)
  assert f"{field}={settings[field]}" in message and "loss.name=proxy_anchor" in message
  family = "arcface, center_contrastive, cosface, normalized_softmax, proxy_nca"
  assert family in message
  for loss in family.split(", "):
    make_objective(of_loss(loss), NUM_CLASSES)


@pytest.mark.parametrize("loss", ["arcface", "supcon"])
def test_the_whole_embedding_is_trained_beside_its_prefixes(loss):
  config = Config(model=Model(dim=DIM), loss=Loss(name=loss, prefixes=(2, 5)))
  found, arrays = applied(config)
  nested = losses.matryoshka(getattr(losses, loss), (2, 5, DIM))
  np.testing.assert_allclose(found, nested(*arrays), rtol=1e-6)


@pytest.mark.parametrize(
  ("loss", "prefixes", "message"),
  [
    ("supcon", (4, 9), "prefixes=(4, 9) with embeddings of 8 numbers"),
    ("cross_entropy", (4,), "loss.name=cross_entropy: its classifier"),
  ],
)
def test_prefixes_that_cannot_be_are_refused(loss, prefixes, message):
  config = Config(model=Model(dim=DIM), loss=Loss(name=loss, prefixes=prefixes))
  with pytest.raises(ValueError) as refused:
    make_objective(config, NUM_CLASSES)
  assert message in str(refused.value)


def test_several_centers_a_class_are_no_bank():
  with pytest.raises(ValueError, match="soft_triple with loss.centers=bank"):
    make_objective(Config(loss=Loss(name="soft_triple", centers="bank")), NUM_CLASSES)


@pytest.mark.parametrize("first_visit", ["replace", "mix"])
def test_what_a_first_visit_does_to_a_random_center(first_visit):
  config = Config(
    model=Model(dim=DIM),
    loss=Loss(centers="bank", momentum=0.75, sharpness=None, first_visit=first_visit),
  )
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


@pytest.mark.parametrize("unvisited", ["supcon", "multi_similarity"])
def test_a_class_without_a_center_has_the_loss_that_the_config_names(unvisited):
  config = Config(
    model=Model(dim=DIM), loss=Loss(centers="bank", unvisited=unvisited, scale=9.0)
  )
  objective = make_objective(config, NUM_CLASSES)
  params, bank = objective.init(jax.random.key(0))
  embeddings = jax.random.normal(jax.random.key(1), (4, DIM))
  batch = {"label": jnp.array([3, 3, 1, 1])}
  values, _ = objective.apply(params, bank, embeddings, batch)
  expected = getattr(losses, unvisited)(embeddings, batch["label"])
  np.testing.assert_allclose(values, expected, rtol=1e-6)
