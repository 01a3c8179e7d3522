"""Builds the loss of a config, bound to the class vectors that it learns or moves."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ccl_jax import centers, class_mesh, losses, objectives
from configs.base import Config

# Losses over class vectors. Those that take `losses.Over`, the class softmaxes, can use
# a class mesh and a sample of the classes.
OVER_CLASSES = {
  "arcface": losses.arcface,
  "center_contrastive": losses.center_contrastive,
  "cosface": losses.cosface,
  "normalized_softmax": losses.normalized_softmax,
  "proxy_anchor": losses.proxy_anchor,
  "proxy_nca": losses.proxy_nca,
  "soft_triple": losses.soft_triple,
}
# Losses over the rows of a batch, by label; and by label and image.
BY_LABEL = {
  "contrastive": losses.contrastive,
  "multi_similarity": losses.multi_similarity,
  "prototypical": losses.prototypical,
  "supcon": losses.supcon,
  "triplet": losses.triplet,
}
BY_VIEW = {
  "contex": losses.contex,
  "contex_p": functools.partial(losses.contex, clamp=True),
  "nt_xent": losses.nt_xent,
}


def make_objective(
  config: Config,
  num_classes: int,
  axis_name: str | None = None,
  mesh: class_mesh.ClassMesh | None = None,
) -> objectives.Objective:
  """Binds the loss to trained centers, the bank or a memory, as its kind needs.

  Raises:
    ValueError: if the loss cannot do what the config asks; the message says what can.
  """
  _check(config)
  dim = _dim(config)
  if config.loss.name == "cross_entropy":
    return objectives.with_classifier(num_classes, dim)
  if config.loss.name in BY_VIEW:
    loss = _with_settings(BY_VIEW[config.loss.name], config)
    reads = ("label", "example")
    return objectives.over_rows(loss, reads=reads, axis_name=axis_name)
  if config.loss.name in BY_LABEL:
    loss = _with_settings(BY_LABEL[config.loss.name], config)
    if not config.loss.memory_size:
      return objectives.over_rows(loss, axis_name=axis_name)
    return objectives.with_memory(
      loss,
      config.loss.memory_size,
      dim,
      warmup_steps=config.loss.memory_warmup_steps,
      axis_name=axis_name,
    )
  return _over_classes(config, num_classes, dim, axis_name, mesh)


def _over_classes(
  config: Config, num_classes: int, dim: int, axis_name, mesh
) -> objectives.Objective:
  """Binds a loss to trained class vectors or to those of a bank."""
  loss = _with_settings(OVER_CLASSES[config.loss.name], config)
  several = config.loss.centers_per_class if config.loss.name == "soft_triple" else None
  if config.loss.centers == "trained":
    bind = functools.partial(objectives.with_trained_centers, centers_per_class=several)
  else:
    bind = functools.partial(
      objectives.with_bank,
      rule=_rule(config),
      momentum=config.loss.momentum,
      unvisited=BY_LABEL.get(config.loss.unvisited),
    )
  objective = bind(
    loss,
    num_classes,
    dim,
    axis_name=axis_name,
    mesh=mesh,
    sample_rate=config.loss.sample_rate,
    # A class softmax is a function of its own row; another loss may not be, and to see
    # the rows of all devices is right for any.
    relates_rows=config.loss.name not in _class_softmaxes(),
  )
  if config.loss.centers == "bank" and config.loss.first_visit == "mix":
    return _already_visited(objective)
  return objective


def _with_settings(loss: Callable[..., Any], config: Config) -> Callable[..., Any]:
  """The loss with the settings for which the config has a number."""
  given = {name: getattr(config.loss, name, None) for name in settings_of(loss)}
  if config.loss.name == "normalized_softmax":
    given["temperature"] = None if config.loss.scale is None else 1 / config.loss.scale
  given = {name: value for name, value in given.items() if value is not None}
  loss = functools.partial(loss, **given)
  if not config.loss.prefixes:
    return loss
  return losses.matryoshka(loss, sorted({*config.loss.prefixes, _dim(config)}))


def _dim(config: Config) -> int:
  """The length of the vectors that the loss sees."""
  return config.model.projection[-1] if config.model.projection else config.model.dim


def settings_of(loss: Callable[..., Any]) -> list[str]:
  """The names of a loss's settings, which are its keyword-only arguments."""
  parameters = inspect.signature(loss).parameters.values()
  return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _rule(config: Config) -> centers.Rule:
  if config.loss.sharpness is None:
    return centers.class_means
  return functools.partial(centers.repulsion, sharpness=config.loss.sharpness)


def _already_visited(objective: objectives.Objective) -> objectives.Objective:
  """A bank's objective that treats the first visit of a class like later visits."""

  def init(key):
    params, bank = objective.init(key)
    return params, bank._replace(counts=jnp.ones_like(bank.counts))

  return objective._replace(init=init)


def _class_softmaxes() -> list[str]:
  """The losses that take `losses.Over`."""
  takes = {name: inspect.signature(loss) for name, loss in OVER_CLASSES.items()}
  return [name for name, signature in takes.items() if "over" in signature.parameters]


def _check(config: Config) -> None:
  if any(length > _dim(config) for length in config.loss.prefixes):
    raise ValueError(
      f"loss.prefixes={config.loss.prefixes} with embeddings of {_dim(config)} numbers:"
      " give smaller ones"
    )
  if config.loss.prefixes and config.loss.name == "cross_entropy":
    raise ValueError(
      "loss.prefixes with loss.name=cross_entropy: its classifier is over the whole"
      " embedding; use a loss over class vectors, such as normalized_softmax"
    )
  known = ", ".join(_class_softmaxes())
  if config.loss.sample_rate < 1 and config.loss.name not in _class_softmaxes():
    raise ValueError(
      f"loss.sample_rate={config.loss.sample_rate} with loss.name={config.loss.name}:"
      f" only {known} go over a sample of the classes; give 1, or one of them"
    )
  unsplit = OVER_CLASSES.keys() - _class_softmaxes()
  if config.parallel == "class_sharded" and config.loss.name in unsplit:
    raise ValueError(
      f"loss.name={config.loss.name} with parallel={config.parallel}: only {known}"
      " are split over devices by class"
    )
  if config.loss.name == "soft_triple" and config.loss.centers == "bank":
    raise ValueError(
      "loss.name=soft_triple with loss.centers=bank: its centers are trained"
    )
