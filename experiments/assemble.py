"""From a config to the parts of a run. The one place that reads every field."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from ccl_jax import (
  centers,
  loop,
  losses,
  objectives,
  optim,
  placement,
  probe,
  retrieval,
  step,
)
from ccl_jax.checkpoint import Checkpoints
from ccl_jax.data import (
  biased_glyphs,
  biased_mnist,
  folder,
  glyphs,
  pipeline,
  tfds_images,
  utkface,
  views,
)
from ccl_jax.data.examples import Examples, hold_out_classes, hold_out_images
from ccl_jax.models.glyph_net import GlyphNet
from ccl_jax.models.projection import Projected
from configs.base import Config
from experiments import workdir


class Data(NamedTuple):
  """The images of a run, by the use that is made of them."""

  train: Examples
  validation: Examples | None  # classes, or images, held out of the train ones
  test: Examples  # classes, or images, that no choice was made on


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
  train, test = _load_train_and_test(config)
  if config.probe != "none" and train.class_names != test.class_names:
    raise ValueError(
      f"probe={config.probe} needs test images of the train classes: give --config."
      "probe=none, or a dataset whose classes are the same in both"
    )
  hold_out = hold_out_classes if config.probe == "none" else hold_out_images
  train, validation = hold_out(train, config.validation_fraction, seed=config.seed)
  return Data(train, validation, test)


def _load_train_and_test(config: Config) -> tuple[Examples, Examples]:
  pixels = {"image_size": config.image_size, "channels": config.channels}
  if config.dataset == "glyphs":
    return glyphs.load(config.data_dir, fonts=config.fonts)
  if config.dataset == "biased_glyphs":
    return biased_glyphs.load(
      config.data_dir, rho=config.rho, image_size=config.image_size
    )
  if config.dataset == "biased_mnist":
    return biased_mnist.load(config.data_dir, rho=config.rho)
  if config.dataset == "tfds":
    if config.tfds_name is None:
      raise ValueError("dataset=tfds needs a name: add --config.tfds_name=cifar10")
    return tfds_images.load(
      config.tfds_name,
      config.data_dir,
      train=config.tfds_train,
      test=config.tfds_test,
      label=config.label,
      bias=config.bias,
      **pixels,
    )
  if config.images is None:
    raise ValueError(
      f"dataset={config.dataset} needs images: add --config.images=FOLDER, which holds "
      + (
        "a subfolder of images for each class" if config.dataset == "folder" else "them"
      )
    )
  load = folder.load if config.dataset == "folder" else utkface.load
  train, test = load(config.images, seed=config.seed, **pixels)
  folder.verify(train)
  folder.verify(test)
  return train, test


def make_model(config: Config) -> nn.Module:
  model = GlyphNet(dim=config.dim, widths=config.widths, depth=config.depth)
  return Projected(model, config.projection) if config.projection else model


def make_objective(
  config: Config, num_classes: int, axis_name: str | None
) -> objectives.Objective:
  """Binds the loss to trained centers or to the bank, where it takes any."""
  dim = config.projection[-1] if config.projection else config.dim
  if config.loss == "cross_entropy":
    return objectives.with_classifier(num_classes, dim)
  if config.loss in ("nt_xent", "supcon", "contex", "contex_p"):
    return objectives.without_state(_loss_of_views(config, axis_name))
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
    return objectives.with_trained_centers(loss, num_classes, dim)
  return objectives.with_bank(
    loss, num_classes, dim, momentum=config.momentum, axis_name=axis_name
  )


def _loss_of_views(config: Config, axis_name: str | None):
  shared = {"temperature": config.temperature, "axis_name": axis_name}

  def loss(embeddings, batch):
    ids = batch["label"], batch["example"]
    if config.loss == "nt_xent":
      return losses.nt_xent(embeddings, *ids, **shared)
    if config.loss == "supcon":
      return losses.supcon(embeddings, ids[0], **shared)
    clamp = config.loss == "contex_p"
    return losses.contex(embeddings, *ids, clamp=clamp, **shared)

  return loss


def make_optimizer(config: Config) -> optax.GradientTransformation:
  make = {"adamw": optim.adamw, "sgd": optim.sgd}[config.optimizer]
  return make(
    config.learning_rate,
    config.centers_learning_rate,
    steps=config.steps,
    warmup_steps=round(config.warmup_fraction * config.steps),
    weight_decay=config.weight_decay,
  )


def make_embed(config: Config) -> Embed:
  """Embeds all of a set of examples; compiled once, whatever their number."""
  method = "features" if config.projection else None
  embed_step = jax.jit(step.make_embed_step(make_model(config), method))

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
    "warp_and_grey": views.chain(views.warp, views.grey),
    "crop_and_flip": views.crop_and_flip,
    "simclr": views.chain(views.crop_and_flip, views.jitter, views.grey),
  }
  return iter(
    pipeline.train_batches(
      examples,
      batch_size=config.batch_size,
      seed=config.seed,
      view=known_views[config.view],
      num_views=config.views,
      num_workers=config.num_workers,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
  )


def make_run(config: Config, data: Data) -> Run:
  """Puts model, loss, optimizer and placement together."""
  place = make_placement(config)
  model = make_model(config)
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


class Tested(NamedTuple):
  """What a trained state does on images that no choice was made on."""

  metrics: dict[str, float]
  embeddings: np.ndarray  # [N, D]
  cells: np.ndarray | None  # accuracy of the linear probe [K, A], where there is a bias


def test(
  config: Config,
  embed: Embed,
  state: step.TrainState,
  data: Data,
  examples: Examples | None = None,
) -> Tested:
  """Retrieval among the test examples (or others), and the probes, if any."""
  examples = data.test if examples is None else examples
  embeddings, labels = embed(state, examples)
  metrics, cells = score(config, embeddings, labels), None
  if config.probe != "none":
    train_embeddings, _ = embed(state, data.train)
    probed, cells = _probe(config, data.train, train_embeddings, examples, embeddings)
    metrics |= probed
  return Tested(metrics, embeddings, cells)


def _probe(
  config: Config,
  train: Examples,
  train_embeddings: np.ndarray,
  examples: Examples,
  embeddings: np.ndarray,
) -> tuple[dict[str, float], np.ndarray | None]:
  """Accuracy of a linear probe and of the nearest neighbours, by cells too."""
  fitted = train_embeddings, train.labels, embeddings
  if config.probe == "lbfgs":
    by_line = probe.linear(*fitted)
  else:
    key = jax.random.key(config.seed)
    by_line = probe.linear_as_published(*fitted, key=key)
  predicted = {
    "probe": by_line,
    "neighbours": probe.neighbours(*fitted, k=config.neighbours),
  }
  metrics, cells = {}, None
  for name, classes in predicted.items():
    metrics[f"{name} accuracy"] = float(np.mean(classes == examples.labels))
    if train.bias is not None and examples.bias is not None:
      shape = train.num_classes, len(train.bias_names)
      found = probe.by_cell(classes, examples.labels, examples.bias, shape)
      aligned = probe.aligned_cells(train.labels, train.bias, shape)
      parts = probe.bias_metrics(found, aligned)
      metrics |= {f"{name} {part}": value for part, value in parts.items()}
      cells = found if name == "probe" else cells
  return metrics, cells


def describe_cells(examples: Examples, cells: np.ndarray) -> dict[str, Any]:
  """Accuracy by class and attribute, as JSON: None where there is no image."""
  return {
    "classes": list(examples.class_names),
    "attributes": list(examples.bias_names),
    "accuracy": [[None if np.isnan(x) else float(x) for x in row] for row in cells],
  }


def class_centers(state: step.TrainState) -> np.ndarray | None:
  """The class centers [K, D] at unit length, trained or from the bank, if any."""
  trained, remembered = state.params["objective"], state.objective_state
  if "centers" in trained:
    return np.asarray(centers.unit(trained["centers"]))
  return np.asarray(centers.unit(remembered.centers)) if remembered else None
