"""Builds the parts of a run from its config; `objective.py` builds the loss."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ccl_jax import class_mesh, vectors
from ccl_jax.data import pipeline, views
from ccl_jax.data.examples import Examples
from ccl_jax.models import Embedder, import_torch, resnet, vit
from ccl_jax.models.conv_net import ConvNet
from ccl_jax.models.glyph_net import GlyphNet
from ccl_jax.models.head import Head
from ccl_jax.models.projection import Projected
from ccl_jax.training import loop, optim, placement, step
from ccl_jax.training.checkpoint import Checkpoints
from configs.base import Config
from experiments.run import workdir
from experiments.run.datasets import Data
from experiments.run.objective import make_objective
from experiments.run.scoring import Embed

# What the config calls a view.
VIEWS: dict[str, views.View | None] = {
  "none": None,
  "warp": views.warp,
  "warp_far": functools.partial(
    views.warp, rotation=0.17, log_scale=0.2, shear=0.3, shift=0.07
  ),
  "warp_and_gray": views.chain(views.warp, views.gray),
  "crop_and_flip": views.crop_and_flip,
  "photo": views.flip,
  "photo_color": views.chain(views.flip, views.color_jitter, views.gray),
  "simclr": views.chain(views.crop_and_flip, views.color_jitter, views.gray),
}


class Run(NamedTuple):
  """The parts of a run; nothing is computed before `init_state` is called."""

  placement: placement.Placement
  train_step: step.TrainStep
  init_state: Callable[[], step.TrainState]
  class_vectors: Callable[[step.TrainState], jax.Array | None]  # [K, D], if any
  embed: Embed  # (state, examples) -> embeddings [N, D], labels [N]
  embed_test: Embed  # the same, by the test views of the config


def make_model(config: Config, axis_name: str | None = None) -> nn.Module:
  """The network; `axis_name` is the mapped axis that splits a training batch."""
  if config.model.name == "glyph_net":
    model = GlyphNet(
      dim=config.model.dim, widths=config.model.widths, depth=config.model.depth
    )
  elif config.model.name == "conv_net":
    model = ConvNet(dim=config.model.dim, axis_name=axis_name)
  elif config.model.name.startswith("vit"):
    model = _make_vit(config)
  elif config.model.name == "head":
    model = Head(dim=config.model.dim, hidden=config.model.hidden)
  else:
    model = _make_resnet(config, axis_name)
  return Projected(model, config.model.projection) if config.model.projection else model


def _make_resnet(config: Config, axis_name: str | None) -> nn.Module:
  return getattr(resnet, config.model.name)(
    dim=config.model.dim,
    pooling=config.model.pooling,
    layer_norm=config.model.layer_norm,
    frozen_batch_norm=config.model.frozen_batch_norm,
    small_images=config.model.small_images,
    dtype=jnp.dtype(config.model.compute_dtype),
    axis_name=axis_name,
  )


def _make_vit(config: Config) -> vit.ViT:
  return getattr(vit, config.model.name)(
    dim=config.model.dim,
    patch=config.model.patch,
    grid=config.model.grid,
    registers=config.model.registers,
    tokens=config.model.tokens,
    trained_blocks=config.model.trained_blocks,
    remat=config.model.remat,
    dtype=jnp.dtype(config.model.compute_dtype),
  )


def load_weights(config: Config, state: step.TrainState) -> step.TrainState:
  """Loads the backbone of a fresh state from the config's file of weights, if any.

  The new state has the layout of the old state.

  Raises:
    ValueError, OSError: if the file is missing or does not fit; the message says where.
  """
  if config.model.weights is None:
    return state
  weights = import_torch.read(config.model.weights)
  variables = {"params": state.params["model"], **state.model_state}
  try:
    is_vit = config.model.name.startswith("vit")
    fill = import_torch.vit if is_vit else import_torch.resnet
    filled = fill(weights, variables)
  except ValueError as error:
    raise ValueError(f"model.weights={config.model.weights}: {error}") from error
  params = {**state.params, "model": filled.pop("params")}
  loaded = state.replace(params=params, model_state=filled)
  return jax.device_put(loaded, jax.tree.map(lambda leaf: leaf.sharding, state))


def _frozen(config: Config) -> set[str]:
  if config.model.trained_blocks is None:
    return set()
  return vit.frozen(_make_vit(config).depth, config.model.trained_blocks)


def make_optimizer(config: Config) -> optax.GradientTransformation:
  make = {
    "muon": optim.muon,
    "sgd": optim.sgd,
    "adamw": functools.partial(
      optim.adamw,
      backbone_learning_rate=config.optimizer.backbone_learning_rate,
      frozen_steps=round(config.optimizer.frozen_backbone_fraction * config.steps),
      frozen=_frozen(config),
    ),
  }[config.optimizer.name]
  return make(
    config.optimizer.learning_rate,
    config.optimizer.centers_learning_rate,
    steps=config.steps,
    warmup_steps=round(config.optimizer.warmup_fraction * config.steps),
    weight_decay=config.optimizer.weight_decay,
  )


def learning_rate(config: Config) -> optax.Schedule:
  """The model's rate in `make_optimizer`, as a function of the steps before.

  A backbone with a rate of its own, and trained centers, follow their own curves.
  """
  warmup_steps = round(config.optimizer.warmup_fraction * config.steps)
  peak = config.optimizer.learning_rate
  return optim.warmup_cosine(peak, config.steps, warmup_steps)


def make_embed(
  config: Config,
  place: placement.Placement | None = None,
  *,
  flip: bool = False,
  num_views: int = 1,
) -> Embed:
  """A function that embeds examples; compiled once, whatever their number.

  Args:
    config: the run's config.
    place: the placement of the state over all processes; None: this process's first
      device.
    flip: whether to average the unit embeddings of an image and of its mirror image.
    num_views: unit embeddings that are averaged: of the image, and of random views of
      it, which are the same in every call.
  """
  processes = (0, 1) if place is None else (jax.process_index(), jax.process_count())
  place = place or placement.with_jit(jax.local_devices()[:1])
  method = "features" if config.model.projection else None
  embed_step = step.make_embed_step(make_model(config), method)

  def embed_both(state: step.TrainState, images: jax.Array) -> jax.Array:
    both = embed_step(state, images), embed_step(state, images[:, :, ::-1])
    return sum(map(vectors.unit, both)) / 2

  compiled = place.compile_embed(embed_both if flip else embed_step)

  def embed_view(state: step.TrainState, examples: Examples, number: int) -> np.ndarray:
    batches = pipeline.eval_batches(
      examples,
      batch_size=config.batch_size,
      view=VIEWS[config.data.view] if number else None,
      seed=number,
      process_index=processes[0],
      process_count=processes[1],
    )
    return loop.embed(compiled, state, batches, len(examples))

  def embed(state: step.TrainState, examples: Examples):
    embeddings = embed_view(state, examples, 0)
    if num_views > 1:
      total = vectors.unit(jnp.asarray(embeddings))
      for number in range(1, num_views):
        total += vectors.unit(jnp.asarray(embed_view(state, examples, number)))
      embeddings = np.asarray(total / num_views)
    return embeddings, examples.labels

  return embed


def make_embedder(
  config: Config, state: step.TrainState, about: Mapping[str, str]
) -> Embedder:
  """The part of a trained network that embeds, apart from its run.

  Args:
    config: the run's config.
    state: a state of the run.
    about: what its file is to say of it.
  """
  network, variables = make_model(config), {"params": state.params["model"]}
  variables |= state.model_state
  if isinstance(network, Projected):
    network = network.encoder
    variables = {name: part["encoder"] for name, part in variables.items()}
  side = config.data.image_size
  return Embedder(network, variables, (side, side, config.data.channels), about)


def make_mesh(config: Config, num_classes: int) -> class_mesh.ClassMesh | None:
  """The mesh that the centers are split over; None if they are not split."""
  if config.parallel != "class_sharded":
    return None
  return class_mesh.make(num_classes, config.class_shards or None)


def make_placement(
  config: Config, mesh: class_mesh.ClassMesh | None = None
) -> placement.Placement:
  """The placement; raises ValueError if the batch does not divide over the devices."""
  placement.check_batch_size(
    config.batch_size, jax.device_count(), accumulate=config.accumulate
  )
  if mesh is not None:
    return placement.with_class_sharding(mesh)
  if config.parallel == "jit":
    return placement.with_jit()
  if jax.process_count() > 1:
    raise ValueError(
      f"parallel=pmap runs in one process and this job has {jax.process_count()}; "
      "take jit or class_sharded"
    )
  return placement.with_pmap()


def train_batches(config: Config, examples: Examples) -> loop.BatchIterator:
  """This process's rows of every batch, from the first step on."""
  crop = functools.partial(
    views.random_resized_crop,
    size=config.data.image_size,
    smallest=config.data.smallest_crop,
  )
  return iter(
    pipeline.train_batches(
      examples,
      batch_size=config.batch_size,
      seed=config.seed,
      view=VIEWS[config.data.view],
      crop=crop if config.data.view in ("photo", "photo_color") else None,
      num_views=config.data.views,
      images_per_class=config.data.images_per_class or None,
      first_images_per_class=config.data.first_images_per_class or None,
      num_workers=config.data.num_workers,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
  )


def make_run(config: Config, data: Data) -> Run:
  """Puts model, loss, optimizer and placement together."""
  mesh = make_mesh(config, data.train.num_classes)
  place = make_placement(config, mesh)
  model = make_model(config, place.axis_name)
  objective = make_objective(config, data.train.num_classes, place.axis_name, mesh)
  optimizer = make_optimizer(config)
  image = data.train[0]["image"]
  init_key, step_key = jax.random.split(jax.random.key(config.seed))
  return Run(
    placement=place,
    train_step=step.make_train_step(
      model,
      objective,
      optimizer,
      key=step_key,
      axis_name=place.axis_name,
      chunks=config.accumulate,
    ),
    init_state=lambda: place.make_state(
      lambda: step.init_state(init_key, model, objective, optimizer, image)
    ),
    class_vectors=lambda state: objective.class_vectors(
      state.params["objective"], state.objective_state
    ),
    embed=make_embed(config, place),
    embed_test=make_embed(config, place, num_views=config.data.test_views),
  )


def steps(run: Run, config: Config, data: Data) -> Iterator[loop.Step]:
  """The steps of a run from its start, without a log or checkpoints."""
  return loop.steps(
    run.init_state(),
    run.train_step,
    train_batches(config, data.train),
    placement=run.placement,
    num_steps=config.steps,
  )


def restore(folder: Path) -> step.TrainState:
  """Reads the model from the newest checkpoint in a run's folder.

  The class vectors and the optimizer's state, which may be larger than a device, are
  not read.

  Raises:
    ValueError: if the run has no checkpoint yet.
  """
  path = folder / workdir.CHECKPOINTS
  if path.is_dir():
    with Checkpoints(path, read_only=True) as saved:
      if restored := saved.restore(leave=("objective", "objective_state", "opt_state")):
        return step.TrainState(**restored[0], objective_state={}, opt_state={})
  raise ValueError(f"{folder} holds no checkpoint yet: let its run reach one")
