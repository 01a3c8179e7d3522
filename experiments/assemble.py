"""From a config to the parts of a run; to its loss, in `objective.py`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax import (
  centers,
  class_mesh,
  clustering,
  loop,
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
  cars,
  cub,
  folder,
  glyphs,
  inshop,
  pipeline,
  sop,
  tfds_images,
  utkface,
  views,
)
from ccl_jax.data.examples import Examples, hold_out_classes, hold_out_images
from ccl_jax.models import import_torch, resnet
from ccl_jax.models.glyph_net import GlyphNet
from ccl_jax.models.projection import Projected
from configs.base import Config
from experiments import workdir
from experiments.objective import make_objective


class Data(NamedTuple):
  """The images of a run, by the use that is made of them."""

  train: Examples
  validation: Examples | None  # classes, or images, held out of the train ones
  test: Examples  # that no choice was made on; where a gallery is, the queries
  gallery: Examples | None = None  # what they are searched in; None: among each other


class Embedded(NamedTuple):
  """Embeddings and labels of test examples, in their order, and of any gallery."""

  queries: np.ndarray  # [Q, D]
  labels: np.ndarray  # [Q]
  gallery: np.ndarray | None = None  # [N, D]
  gallery_labels: np.ndarray | None = None  # [N]


BENCHMARKS = {"cub": cub, "cars": cars, "sop": sop, "inshop": inshop}
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
  train, test, *gallery = (
    dataclasses.replace(examples, shorter_side=config.shorter_side)
    for examples in _load_splits(config)
  )
  if config.probe != "none" and train.class_names != test.class_names:
    raise ValueError(
      f"probe={config.probe} needs test images of the train classes: give --config."
      "probe=none, or a dataset whose classes are the same in both"
    )
  hold_out = hold_out_classes if config.probe == "none" else hold_out_images
  train, validation = hold_out(train, config.validation_fraction, seed=config.seed)
  data = Data(train, validation, test, *gallery)
  _check_depths(config, data)
  return data


def _load_splits(config: Config) -> tuple[Examples, ...]:
  """Train and test examples, and a gallery where the benchmark has one."""
  pixels = {"image_size": config.image_size, "channels": config.channels}
  if config.dataset == "glyphs":
    return glyphs.load(config.data_dir, fonts=config.fonts)
  if config.dataset in BENCHMARKS:
    return BENCHMARKS[config.dataset].load(
      config.data_dir, images=config.images, classes=config.classes, **pixels
    )
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


def _check_depths(config: Config, data: Data) -> None:
  """Refuses a Recall@K that asks for more neighbours than a split has."""
  found = [len(data.gallery) if data.gallery else len(data.test) - 1]
  found += [len(data.validation) - 1] if data.validation else []
  if max(config.recall_at) > min(found):
    raise ValueError(
      f"recall_at={config.recall_at} with {min(found)} images to find: give a smaller"
      " K, or more images"
    )


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
    model = GlyphNet(dim=config.dim, widths=config.widths, depth=config.depth)
  else:
    model = _make_resnet(config, axis_name)
  return Projected(model, config.projection) if config.projection else model


def _make_resnet(config: Config, axis_name: str | None) -> nn.Module:
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


def make_optimizer(config: Config) -> optax.GradientTransformation:
  make = {
    "sgd": optim.sgd,
    "adamw": functools.partial(
      optim.adamw,
      backbone_learning_rate=config.backbone_learning_rate,
      frozen_steps=round(config.frozen_backbone_fraction * config.steps),
    ),
  }[config.optimizer]
  return make(
    config.learning_rate,
    config.centers_learning_rate,
    steps=config.steps,
    warmup_steps=round(config.warmup_fraction * config.steps),
    weight_decay=config.weight_decay,
  )


def make_embed(
  config: Config, place: placement.Placement | None = None, *, flip: bool = False
) -> Embed:
  """Embeds all of a set of examples; compiled once, whatever their number.

  Args:
    config: of the run.
    place: where the state lives, with all processes; None: this process's first device.
    flip: take the mean of the embeddings of an image and of its mirror image, each at
      unit length.
  """
  processes = (0, 1) if place is None else (jax.process_index(), jax.process_count())
  place = place or placement.with_jit(jax.local_devices()[:1])
  method = "features" if config.projection else None
  embed_step = step.make_embed_step(make_model(config), method)

  def embed_both(state: step.TrainState, images: jax.Array) -> jax.Array:
    both = embed_step(state, images), embed_step(state, images[:, :, ::-1])
    return sum(map(centers.unit, both)) / 2

  compiled = place.compile_embed(embed_both if flip else embed_step)

  def embed(state: step.TrainState, examples: Examples):
    batches = pipeline.eval_batches(
      examples,
      batch_size=config.batch_size,
      process_index=processes[0],
      process_count=processes[1],
    )
    return loop.embed(compiled, state, batches, len(examples)), examples.labels

  return embed


def make_mesh(config: Config, num_classes: int) -> class_mesh.ClassMesh | None:
  """The mesh that the centers are split over, if they are."""
  if config.parallel != "class_sharded":
    return None
  return class_mesh.make(num_classes, config.class_shards or None)


def make_placement(
  config: Config, mesh: class_mesh.ClassMesh | None = None
) -> placement.Placement:
  """Checks the batch against the devices; refuses what does not divide."""
  placement.check_batch_size(config.batch_size, jax.device_count())
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
  known_views = {
    "none": None,
    "warp": views.warp,
    "warp_and_grey": views.chain(views.warp, views.grey),
    "crop_and_flip": views.crop_and_flip,
    "photo": views.flip,
    "photo_color": views.chain(views.flip, views.color_jitter, views.grey),
    "simclr": views.chain(views.crop_and_flip, views.color_jitter, views.grey),
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
      num_views=config.views,
      num_workers=config.num_workers,
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
      model, objective, optimizer, key=step_key, axis_name=place.axis_name
    ),
    init_state=lambda: place.make_state(
      lambda: step.init_state(init_key, model, objective, optimizer, image)
    ),
    embed=make_embed(config, place),
  )


def restore(rundir: Path) -> step.TrainState:
  """What the newest checkpoint in a run's folder has of the model.

  The class vectors and the optimizer's state, which may be larger than a device, stay
  on the disk.

  Raises:
    ValueError: if the run has saved none yet.
  """
  path = rundir / workdir.CHECKPOINTS
  if path.is_dir():
    with Checkpoints(path, read_only=True) as saved:
      if restored := saved.restore(leave=("objective", "objective_state", "opt_state")):
        return step.TrainState(**restored[0], objective_state={}, opt_state={})
  raise ValueError(f"{rundir} holds no checkpoint yet: let its run reach one")


def embed_test(embed: Embed, state: step.TrainState, data: Data) -> Embedded:
  """Embeds the test examples, and the gallery where there is one."""
  gallery = embed(state, data.gallery) if data.gallery else ()
  return Embedded(*embed(state, data.test), *gallery)


def score(config: Config, embedded: Embedded) -> dict[str, float]:
  """Recall@K, MAP@R and R-precision, each row searched in the gallery or the others."""
  return retrieval.evaluate(*embedded, ks=config.recall_at)


def score_clusters(config: Config, embedded: Embedded) -> dict[str, float]:
  """NMI and AMI of k-means over all test embeddings, those of the gallery included."""
  embeddings, labels = embedded.queries, embedded.labels
  if embedded.gallery is not None and embedded.gallery_labels is not None:
    embeddings = np.concatenate([embeddings, embedded.gallery])
    labels = np.concatenate([labels, embedded.gallery_labels])
  return clustering.evaluate(embeddings, labels, seed=config.seed)


class Tested(NamedTuple):
  """What a trained state does on images that no choice was made on."""

  metrics: dict[str, float]
  embedded: Embedded
  cells: np.ndarray | None  # accuracy of the linear probe [K, A], where there is a bias


def test(
  config: Config,
  embed: Embed,
  state: step.TrainState,
  data: Data,
) -> Tested:
  """Retrieval among the test examples, and the probes, if any."""
  embedded = embed_test(embed, state, data)
  metrics, cells = score(config, embedded), None
  if config.probe != "none":
    of_train, _ = embed(state, data.train)
    probed, cells = _probe(config, data.train, of_train, data.test, embedded.queries)
    metrics |= probed
  return Tested(metrics, embedded, cells)


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


def has_centers(state: step.TrainState) -> bool:
  """Whether the loss learns or remembers a center for each class."""
  return _centers_of(state) is not None


def _centers_of(state: step.TrainState) -> jax.Array | None:
  trained, bank = state.params["objective"], state.objective_state
  if "centers" in trained:
    return trained["centers"]
  if isinstance(bank, dict):  # of sampled classes, or none
    bank = bank.get("inner")
  return bank.centers if bank else None


def class_centers(state: step.TrainState, classes: np.ndarray) -> np.ndarray:
  """The centers [n, D] of n classes, trained or from the bank, at unit length.

  Of a class with several it is their mean.
  """
  vectors = _centers_of(state)
  assert vectors is not None
  # Of a sharded bank only these rows are copied, to each device.
  mesh = getattr(vectors.sharding, "mesh", None)
  everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None

  @functools.partial(jax.jit, out_shardings=everywhere)
  def pick(rows):
    chosen = centers.unit(rows[classes])
    return chosen if chosen.ndim == 2 else centers.unit(chosen.mean(axis=1))

  return np.asarray(pick(vectors))
