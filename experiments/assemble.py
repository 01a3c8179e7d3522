"""From a config to the parts of a run. The one place that reads every field."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ccl_jax import centers, loop, losses, objectives, optim, placement, retrieval, step
from ccl_jax.checkpoint import Checkpoints
from ccl_jax.data import folder, glyphs, pipeline, views
from ccl_jax.data.examples import Examples, hold_out_classes
from ccl_jax.models import import_torch, resnet
from ccl_jax.models.glyph_net import GlyphNet
from configs.base import Config
from experiments import workdir


class Data(NamedTuple):
  """The images of a run, by the use that is made of them."""

  train: Examples
  validation: Examples | None  # classes held out of the train classes
  test: Examples  # classes that no choice was made on


Embed = Callable[[step.TrainState, Examples], tuple[np.ndarray, np.ndarray]]


class Run(NamedTuple):
  """The parts of a run; `init_state` computes, the others only describe."""

  placement: placement.Placement
  train_step: step.TrainStep
  init_state: Callable[[], step.TrainState]
  embed: Embed  # (state, examples) -> embeddings [N, D], labels [N]


def load_data(config: Config) -> Data:
  """Builds or finds the images, and checks that they can be read.

  Raises:
    ValueError, OSError: naming what is missing or unreadable, and what to do.
  """
  if config.dataset == "glyphs":
    train, test = glyphs.load(config.data_dir, fonts=config.fonts)
  else:
    if config.images is None:
      raise ValueError(
        "dataset=folder needs images: add --config.images=FOLDER, which holds a "
        "subfolder of images for each class"
      )
    train, test = folder.load(
      config.images,
      image_size=config.image_size,
      channels=config.channels,
      seed=config.seed,
    )
    folder.verify(train)
    folder.verify(test)
  train, test = (
    dataclasses.replace(examples, shorter_side=config.shorter_side)
    for examples in (train, test)
  )
  train, validation = hold_out_classes(
    train, config.validation_fraction, seed=config.seed
  )
  return Data(train, validation, test)


def load_pictures(config: Config, path: Path) -> Examples:
  """A picture, or all below a folder, as the run's model is to see them.

  Raises:
    ValueError, OSError: naming what is missing or unreadable, and what to do.
  """
  pictures = folder.unlabelled(
    path, image_size=config.image_size, channels=config.channels
  )
  folder.verify(pictures)
  return dataclasses.replace(pictures, shorter_side=config.shorter_side)


def make_model(config: Config, axis_name: str | None = None) -> nn.Module:
  """The network; `axis_name` is the one that a mapped training batch is split over."""
  if config.model == "glyph_net":
    return GlyphNet(dim=config.dim)
  make = resnet.resnet18 if config.model == "resnet18" else resnet.resnet50
  return make(
    dim=config.dim,
    pooling=config.pooling,
    layer_norm=config.layer_norm,
    frozen_batch_norm=config.frozen_batch_norm,
    small_images=config.small_images,
    dtype=jnp.dtype(config.compute_dtype),
    axis_name=axis_name,
  )


def load_weights(config: Config, state: step.TrainState) -> step.TrainState:
  """A fresh state with its backbone from the config's file of weights, if any.

  Raises:
    ValueError, OSError: naming what of the file is missing or does not fit.
  """
  if config.weights is None:
    return state
  weights = import_torch.read(config.weights)
  variables = {"params": state.params["model"], **state.model_state}
  try:
    filled = import_torch.resnet(weights, variables)
  except ValueError as error:
    raise ValueError(f"weights={config.weights}: {error}") from error
  params = {**state.params, "model": filled.pop("params")}
  return state.replace(params=params, model_state=filled)


def make_objective(
  config: Config, num_classes: int, axis_name: str | None
) -> objectives.Objective:
  """Binds the loss to trained centers or to the bank."""
  if config.loss == "center_contrastive":
    loss = functools.partial(
      objectives.center_contrastive,
      scale=config.scale,
      margin=config.margin,
      center_weight=config.center_weight,
    )
  elif config.loss == "cosface":
    loss = functools.partial(losses.cosface, scale=config.scale, margin=config.margin)
  else:
    loss = functools.partial(losses.normalized_softmax, temperature=1 / config.scale)
  if config.centers == "trained":
    return objectives.with_trained_centers(loss, num_classes, config.dim)
  return objectives.with_bank(
    loss, num_classes, config.dim, momentum=config.momentum, axis_name=axis_name
  )


def make_optimizer(config: Config) -> optax.GradientTransformation:
  return optim.adamw(
    config.learning_rate,
    config.centers_learning_rate,
    steps=config.steps,
    warmup_steps=round(config.warmup_fraction * config.steps),
    weight_decay=config.weight_decay,
    backbone_learning_rate=config.backbone_learning_rate,
    frozen_steps=round(config.frozen_backbone_fraction * config.steps),
  )


def make_embed(config: Config) -> Embed:
  """Embeds all of a set of examples; compiled once, whatever their number."""
  embed_step = jax.jit(step.make_embed_step(make_model(config)))

  def embed(state: step.TrainState, examples: Examples):
    batches = pipeline.eval_batches(examples, batch_size=config.batch_size)
    return loop.embed(embed_step, state, batches)

  return embed


def make_placement(config: Config) -> placement.Placement:
  """Checks the batch against the devices; refuses what does not divide."""
  placement.check_batch_size(config.batch_size, jax.device_count())
  ways = {"jit": placement.with_jit, "pmap": placement.with_pmap}
  return ways[config.parallel]()


def train_batches(config: Config, examples: Examples) -> loop.BatchIterator:
  """This process's rows of every batch, from the first step on."""
  known_views = {
    "none": None,
    "warp": views.warp,
    "crop_and_flip": views.crop_and_flip,
    "photo": views.flip,
    "photo_color": views.chain(views.flip, views.color_jitter, views.grey),
  }
  crop = functools.partial(
    views.random_resized_crop, size=config.image_size, smallest=config.smallest_crop
  )
  return iter(
    pipeline.train_batches(
      examples,
      batch_size=config.batch_size,
      seed=config.seed,
      view=known_views[config.view],
      crop=crop if config.view in ("photo", "photo_color") else None,
      num_workers=config.num_workers,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
  )


def make_run(config: Config, data: Data) -> Run:
  """Puts model, loss, optimizer and placement together."""
  place = make_placement(config)
  model = make_model(config, place.axis_name)
  objective = make_objective(config, data.train.num_classes, place.axis_name)
  optimizer = make_optimizer(config)
  init_key, step_key = jax.random.split(jax.random.key(config.seed))
  return Run(
    placement=place,
    train_step=step.make_train_step(
      model, objective, optimizer, key=step_key, axis_name=place.axis_name
    ),
    init_state=lambda: step.init_state(
      init_key, model, objective, optimizer, data.train[0]["image"]
    ),
    embed=make_embed(config),
  )


def restore(rundir: Path) -> step.TrainState:
  """The state of the newest checkpoint in a run's folder, as it was saved.

  Raises:
    ValueError: if the run has saved none yet.
  """
  path = rundir / workdir.CHECKPOINTS
  if path.is_dir():
    with Checkpoints(path, read_only=True) as saved:
      if restored := saved.restore():
        return step.TrainState(**restored[0])
  raise ValueError(f"{rundir} holds no checkpoint yet: let its run reach one")


def score(config: Config, embeddings: np.ndarray, labels: np.ndarray):
  """Recall@K, MAP@R and R-precision, each row searched among the others."""
  return retrieval.evaluate(embeddings, labels, ks=config.recall_at)


def class_centers(state: step.TrainState) -> np.ndarray:
  """The class centers [K, D], trained or from the bank, at unit length."""
  trained = state.params["objective"]
  vectors = trained["centers"] if trained else state.objective_state.centers
  return np.asarray(centers.unit(vectors))
