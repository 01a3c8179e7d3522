"""From a config to its loss, bound to the class vectors that it learns or remembers."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ccl_jax import class_mesh, losses, objectives
from configs.base import Config

# Over class vectors; these go by blocks of classes, over devices and over a sample.
BY_BLOCKS = {
  "center_contrastive": objectives.center_contrastive,
  "cosface": objectives.cosface,
  "normalized_softmax": objectives.normalized_softmax,
}
# And these hold all B x K cosines.
DENSE = {
  "arcface": losses.arcface,
  "proxy_anchor": losses.proxy_anchor,
  "proxy_nca": losses.proxy_nca,
  "soft_triple": losses.soft_triple,
}
# Over the rows of a batch, by their labels and, some, by the image that each shows.
BY_LABEL = {
  "contrastive": losses.contrastive,
  "multi_similarity": losses.multi_similarity,
  "supcon": losses.supcon,
  "triplet": losses.triplet,
}
BY_VIEW = {
  "contex": losses.contex,
  "contex_p": functools.partial(losses.contex, clamp=True),
  "nt_xent": losses.nt_xent,
}


def _settings(config: Config, axis_name: str | None) -> dict[str, Any]:
  """What the config's loss reads of it; `cross_entropy` reads nothing."""
  scaled = {"scale": config.scale, "margin": config.margin}
  of_views = {"temperature": config.temperature, "axis_name": axis_name}
  return {
    "arcface": scaled,
    "center_contrastive": scaled | {"center_weight": config.center_weight},
    "contex": of_views,
    "contex_p": of_views,
    "contrastive": {"margin": config.margin, "axis_name": axis_name},
    "cosface": scaled,
    "multi_similarity": {
      "alpha": config.alpha,
      "beta": config.beta,
      "base": config.base,
      "epsilon": config.epsilon,
      "axis_name": axis_name,
    },
    "normalized_softmax": {"temperature": 1 / config.scale},
    "nt_xent": of_views,
    "proxy_anchor": scaled | {"axis_name": axis_name},
    "proxy_nca": {"temperature": config.temperature},
    "soft_triple": scaled | {"gamma": config.gamma, "regularizer": config.regularizer},
    "supcon": of_views,
    "triplet": {
      "margin": config.margin,
      "mining": config.mining,
      "axis_name": axis_name,
    },
  }[config.loss]


def make_objective(
  config: Config,
  num_classes: int,
  axis_name: str | None = None,
  mesh: class_mesh.ClassMesh | None = None,
) -> objectives.Objective:
  """Binds the loss to trained centers or to the bank, where it takes any.

  Raises:
    ValueError: if the loss has no such centers, naming what it can have.
  """
  if config.sample_rate < 1 and config.loss not in BY_BLOCKS:
    raise ValueError(
      f"sample_rate={config.sample_rate} with loss={config.loss}: only"
      f" {', '.join(BY_BLOCKS)} go over a sample of the classes; give 1, or one of them"
    )
  dim = config.projection[-1] if config.projection else config.dim
  if config.loss == "cross_entropy":
    return objectives.with_classifier(num_classes, dim)
  settings = _settings(config, axis_name)
  if config.memory_size:
    return _with_memory(config, settings, dim, axis_name)
  if config.loss in BY_LABEL or config.loss in BY_VIEW:
    return objectives.without_state(_over_rows(config.loss, settings))
  bind = functools.partial(
    _bind, config, num_classes=num_classes, dim=dim, axis_name=axis_name, mesh=mesh
  )
  if config.loss in DENSE:
    _check_dense(config)
    return bind(functools.partial(DENSE[config.loss], **settings))
  loss = functools.partial(BY_BLOCKS[config.loss], **settings, mesh=mesh)
  if config.sample_rate < 1:
    return objectives.with_sampled_classes(bind, loss, config.sample_rate)
  return bind(loss)


def _over_rows(name: str, settings: dict[str, Any]):
  def loss(embeddings, batch: Mapping[str, Any], **memory):
    if name in BY_LABEL:
      return BY_LABEL[name](embeddings, batch["label"], **settings, **memory)
    return BY_VIEW[name](embeddings, batch["label"], batch["example"], **settings)

  return loss


def _with_memory(config: Config, settings, dim, axis_name) -> objectives.Objective:
  return objectives.with_memory(
    _over_rows(config.loss, settings),
    config.memory_size,
    dim,
    warmup_steps=config.memory_warmup_steps,
    axis_name=axis_name,
  )


def _bind(
  config: Config, loss, *, num_classes, dim, axis_name, mesh
) -> objectives.Objective:
  if config.centers == "trained":
    several = config.centers_per_class if config.loss == "soft_triple" else None
    return objectives.with_trained_centers(
      loss, num_classes, dim, centers_per_class=several, mesh=mesh
    )
  objective = objectives.with_bank(
    loss,
    num_classes,
    dim,
    momentum=config.momentum,
    sharpness=config.sharpness,
    axis_name=axis_name,
    mesh=mesh,
  )
  return objective if config.first_visit == "replace" else _already_visited(objective)


def _already_visited(objective: objectives.Objective) -> objectives.Objective:
  """A bank's objective, without the rule that a class's first visit has of its own."""

  def init(key):
    params, bank = objective.init(key)
    return params, bank._replace(counts=jnp.ones_like(bank.counts))

  return objective._replace(init=init)


def _check_dense(config: Config) -> None:
  if config.parallel == "class_sharded":
    raise ValueError(
      f"loss={config.loss} with parallel={config.parallel}: only"
      f" {', '.join(BY_BLOCKS)} are split over devices by class"
    )
  if config.loss == "soft_triple" and config.centers == "bank":
    raise ValueError("loss=soft_triple with centers=bank: its centers are trained")
