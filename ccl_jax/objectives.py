"""Binds a loss to what it learns or remembers, as pure functions.

One train step serves every loss, since each becomes an `Objective`. Trained class
vectors are its params; a center bank or a memory of past embeddings is its state; a
loss over the pairs of a batch has neither.

Losses see the global batch and know no device. Under `jit` the batch is global anyway.
Over a mapped axis (`pmap`, or `shard_map` with `check_vma=False`), an objective gathers
the rows of all devices once, calls the loss, and returns the values of its own device's
rows; the caller averages the gradients with `lax.pmean`.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from ccl_jax import centers, losses
from ccl_jax.class_mesh import ClassMesh
from ccl_jax.labels import drop_padding, mask_loss
from ccl_jax.vectors import check_arrays, unit, widen

__all__ = [
  "Memory",
  "Objective",
  "center_contrastive_loss",
  "global_mean",
  "over_rows",
  "with_bank",
  "with_classifier",
  "with_memory",
  "with_trained_centers",
]

# (embeddings [B,D], labels [B], class vectors [K,D], settings by name) -> loss [B]
ClassLoss = Callable[..., Array]
# (embeddings [B,D], labels [B]) -> loss [B]
PairLoss = Callable[[Array, Array], Array]


def _no_class_vectors(params: PyTree, state: PyTree) -> None:
  del params, state


class Objective(NamedTuple):
  """A loss together with its parameters and its state.

  Attributes:
    init: `init(key) -> (params, state)`; either may be empty.
    apply: `apply(params, state, embeddings [B, D], batch, key) -> (loss [B], new
      state)`, where `batch["label"]` is [B]; the key of the step is needed by
      objectives that draw. Differentiable in params and embeddings.
    class_vectors: `class_vectors(params, state) -> [K, D]`, one direction per class,
      then the padding rows of a mesh; None where the loss has no class vectors.
    rows_apart: whether a row's loss depends on its own row alone, so that a batch may
      be gone through in parts.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import losses, objectives
    >>> objective = objectives.over_rows(losses.supcon)
    >>> params, state = objective.init(jax.random.key(0))
    >>> batch = {"label": jnp.array([0, 0])}
    >>> values, state = objective.apply(params, state, jnp.eye(2), batch)
    >>> print(values.shape, objective.class_vectors(params, state))
    (2,) None
  """

  init: Callable[[Key[Array, ""]], tuple[PyTree, PyTree]]
  apply: Callable[..., tuple[Float[Array, " B"], PyTree]]
  class_vectors: Callable[[PyTree, PyTree], Float[Array, "K D"] | None] = (
    _no_class_vectors
  )
  rows_apart: bool = False


def with_bank(
  loss: ClassLoss,
  num_classes: int,
  dim: int,
  *,
  rule: centers.Rule = centers.repulsion,
  momentum: float = 0.9,
  axis_name: str | None = None,
  mesh: ClassMesh | None = None,
  sample_rate: float = 1.0,
  relates_rows: bool = False,
  unvisited: PairLoss | None = None,
) -> Objective:
  """Contrasts a batch with a center bank, then lets the batch move the bank.

  No gradient and no optimizer state of the size of the bank exists.

  A class has a center of its own from its first visit on; before, its row of the bank
  is a random direction. By default rows of that first visit are pulled to it all the
  same, as to an untrained proxy. With `unvisited`, they are contrasted within their
  batch instead. First batches of several images of a class then lay the classes out by
  what they look like: `first_images_per_class` of `data.pipeline.train_batches`. Ours,
  measured in experiments/results/glyphs.

  Args:
    loss: `(embeddings, labels, centers) -> [B]`, for instance `losses.arcface`. A loss
      that takes `**over` (see `losses.Over`) is told that the centers have unit length.
    num_classes: K.
    dim: D.
    rule: where a batch moves its centers; see `centers.update`.
    momentum: mu of `centers.update`.
    axis_name: the mapped axis under `pmap`; None under `jit`.
    mesh: lays the bank out over devices; passed on to the loss.
    sample_rate: share of the other classes that a step visits, see `losses.Over`;
      below 1, `apply` needs its key.
    relates_rows: whether a row's loss depends on the other rows of the batch, as in
      `losses.proxy_anchor`; the loss then needs the rows of all devices.
    unvisited: a loss over a batch alone, `(embeddings, labels) -> [B]`, such as
      `losses.multi_similarity`, for rows whose class no batch has visited yet; None:
      they have `loss` like the others.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import losses, objectives
    >>> objective = objectives.with_bank(losses.arcface, num_classes=3, dim=2)
    >>> params, bank = objective.init(jax.random.key(0))
    >>> batch = {"label": jnp.array([0, 1])}
    >>> values, bank = objective.apply(params, bank, jnp.eye(2), batch)
    >>> print(params, values.shape, bank.counts)
    {} (2,) [1 1 0]
  """

  def init(key):
    return {}, centers.init(key, num_classes, dim, mesh=mesh)

  def apply(params, bank, embeddings, batch, key=None):
    del params
    rows = embeddings, batch["label"]
    contrast = _bind(loss, mesh, sample_rate, key)
    if "over" in inspect.signature(loss).parameters:
      contrast = functools.partial(contrast, unit_length=True)
    vectors = jax.lax.stop_gradient(bank.centers)
    values = _values(contrast, rows, axis_name if relates_rows else None, vectors)
    if unvisited is not None:
      visits = centers.visits(bank, batch["label"], mesh=mesh)
      values = jnp.where(visits == 0, _values(unvisited, rows, axis_name), values)
    rows = _gather((_once_read(embeddings, values), batch["label"]), axis_name)
    return values, centers.update(bank, *rows, rule=rule, momentum=momentum, mesh=mesh)

  rows_apart = not relates_rows and unvisited is None
  return Objective(init, apply, lambda params, bank: bank.centers, rows_apart)


def with_trained_centers(
  loss: ClassLoss,
  num_classes: int,
  dim: int,
  *,
  centers_per_class: int | None = None,
  axis_name: str | None = None,
  mesh: ClassMesh | None = None,
  sample_rate: float = 1.0,
  relates_rows: bool = False,
) -> Objective:
  """Contrasts a batch with class vectors that the optimizer trains.

  The arguments that are not listed are those of `with_bank`.

  Args:
    loss: `(embeddings, labels, class vectors) -> [B]`, which scales the vectors to unit
      length itself: `losses.center_contrastive`, `losses.cosface`, ...
    centers_per_class: C, for a loss over [K, C, D] such as `losses.soft_triple`; None
      for a loss over [K, D].

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import losses, objectives
    >>> objective = objectives.with_trained_centers(losses.proxy_anchor, 3, 2)
    >>> params, state = objective.init(jax.random.key(0))
    >>> print(params["centers"].shape, state)
    (3, 2) {}
  """

  def init(key):
    if centers_per_class is None:
      return {"centers": centers.init(key, num_classes, dim, mesh=mesh).centers}, {}
    rows = centers.init(key, num_classes * centers_per_class, dim).centers
    return {"centers": rows.reshape(num_classes, centers_per_class, dim)}, {}

  def apply(params, state, embeddings, batch, key=None):
    rows = embeddings, batch["label"]
    contrast = _bind(loss, mesh, sample_rate, key)
    along = axis_name if relates_rows else None
    return _values(contrast, rows, along, params["centers"]), state

  def class_vectors(params, state):
    del state
    vectors = params["centers"]
    return vectors if vectors.ndim == 2 else unit(vectors).mean(axis=1)

  return Objective(init, apply, class_vectors, not relates_rows)


def over_rows(
  loss: Callable[..., Float[Array, " B"]],
  *,
  reads: Sequence[str] = ("label",),
  axis_name: str | None = None,
) -> Objective:
  """A loss over the rows of a batch alone, which learns and remembers nothing.

  Args:
    loss: `(embeddings [B,D], *arrays [B]) -> [B]`, such as `losses.supcon`.
    reads: names of the arrays in the batch that the loss takes after the embeddings:
      `("label", "example")` for `losses.contex`.
    axis_name: the mapped axis under `pmap`; None under `jit`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import losses, objectives
    >>> objective = objectives.over_rows(losses.nt_xent, reads=("label", "example"))
    >>> batch = {"label": jnp.array([0, 0]), "example": jnp.array([7, 7])}
    >>> values, _ = objective.apply({}, {}, jnp.eye(2), batch)
    >>> print(values.shape)
    (2,)
  """

  def apply(params, state, embeddings, batch, key=None):
    del params, key
    rows = embeddings, *(batch[name] for name in reads)
    return _values(loss, rows, axis_name), state

  return Objective(lambda key: ({}, {}), apply)


class Memory(NamedTuple):
  """Embeddings of the last batches, in a ring.

  Example:
    >>> import jax
    >>> from ccl_jax import losses, objectives
    >>> _, memory = objectives.with_memory(losses.supcon, 4, 2).init(jax.random.key(0))
    >>> print(memory.labels, memory.position)
    [-1 -1 -1 -1] 0
  """

  embeddings: Float[Array, "M D"]
  labels: Int[Array, " M"]  # < 0: an empty slot
  position: Int[Array, ""]  # the oldest row, which is replaced next
  steps: Int[Array, ""]  # batches seen so far


def with_memory(
  loss: Callable[..., Float[Array, " B"]],
  size: int,
  dim: int,
  *,
  warmup_steps: int = 0,
  axis_name: str | None = None,
) -> Objective:
  """Contrasts a batch with itself and with past batches: cross-batch memory (XBM).

  Embeddings drift slowly once a model has trained for a while, so that embeddings of
  past steps can serve as contrasts. A batch enters the memory after its loss is taken:
  no row meets itself, but it may meet an earlier view of its image. No gradient reaches
  the memory.

  Args:
    loss: `(embeddings [B,D], labels [B], memory=[M,D], memory_labels=[M]) -> [B]`,
      which scales all rows to unit length itself and skips memory labels < 0:
      `losses.supcon` and the others of `losses.pair`.
    size: M, the rows of the memory, at least those of a global batch. Padding rows
      take places too, as empty slots.
    dim: D.
    warmup_steps: the first steps, which fill the memory but do not contrast with it.
    axis_name: the mapped axis under `pmap`; None under `jit`. Each device remembers the
      global batch.

  Raises:
    ValueError: by `apply`, for a global batch of more than M rows.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import losses, objectives
    >>> objective = objectives.with_memory(losses.supcon, size=4, dim=2)
    >>> params, memory = objective.init(jax.random.key(0))
    >>> batch = {"label": jnp.array([0, 1])}
    >>> values, memory = objective.apply(params, memory, jnp.eye(2), batch)
    >>> print(memory.labels, memory.position)
    [ 0  1 -1 -1] 2

  References:
    Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020, Algorithm 1,
    https://arxiv.org/abs/1912.06798
  """

  def init(key):
    del key
    return {}, Memory(
      embeddings=jnp.zeros((size, dim)),
      labels=jnp.full(size, -1, jnp.int32),
      position=jnp.zeros((), jnp.int32),
      steps=jnp.zeros((), jnp.int32),
    )

  def apply(params, state, embeddings, batch, key=None):
    del params, key
    contrast = functools.partial(
      loss,
      memory=jax.lax.stop_gradient(state.embeddings),
      memory_labels=jnp.where(state.steps < warmup_steps, -1, state.labels),
    )
    values = _values(contrast, (embeddings, batch["label"]), axis_name)
    rows = widen(drop_padding(_once_read(embeddings, values), batch["label"]))
    rows, labels = _gather((rows, batch["label"]), axis_name)
    if len(labels) > size:
      raise ValueError(
        f"a memory of {size} rows is smaller than the batch of {len(labels)}: give"
        f" size={len(labels)} or more"
      )
    places = (state.position + jnp.arange(len(labels))) % size
    return values, Memory(
      embeddings=state.embeddings.at[places].set(rows),
      labels=state.labels.at[places].set(labels.astype(jnp.int32)),
      position=(state.position + len(labels)) % size,
      steps=state.steps + 1,
    )

  return Objective(init, apply)


def with_classifier(num_classes: int, dim: int) -> Objective:
  """Cross-entropy of a linear classifier [D, K], with a bias; embeddings unscaled.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import objectives
    >>> objective = objectives.with_classifier(num_classes=3, dim=2)
    >>> params, state = objective.init(jax.random.key(0))
    >>> batch = {"label": jnp.array([0, 2])}
    >>> values, _ = objective.apply(params, state, jnp.eye(2), batch)
    >>> print(params["kernel"].shape, values.shape)
    (2, 3) (2,)
  """

  def init(key):
    kernel = jax.random.normal(key, (dim, num_classes)) / dim**0.5
    return {"kernel": kernel, "bias": jnp.zeros(num_classes)}, {}

  def apply(params, state, embeddings, batch, key=None):
    del key
    labels = batch["label"]
    logits = widen(drop_padding(embeddings, labels)) @ params["kernel"]
    logits += params["bias"][None, :]
    own = jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
    values = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * own, axis=-1)
    return mask_loss(values, labels, num_classes), state

  return Objective(init, apply, rows_apart=True)


def global_mean(
  values: Float[Array, " C"], labels: Int[Array, " B"], axis_name: str | None = None
) -> Float[Array, ""]:
  """`losses.mean_over_examples` of the global batch, also over a mapped axis.

  Args:
    values: [B], zero on padding rows; or those of a chunk of the batch, whose part of
      the mean is then returned.
    labels: [B].
    axis_name: the mapped axis that splits the batch.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import objectives
    >>> print(objectives.global_mean(jnp.array([2.0, 4.0, 0.0]), jnp.array([0, 1, -1])))
    3.0
  """
  total, count = values.sum(), (labels >= 0).sum()
  if axis_name is not None:
    total, count = jax.lax.psum((total, count), axis_name)
  return total / jnp.maximum(count, 1).astype(total.dtype)


def center_contrastive_loss(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  bank: centers.CenterBank,
  *,
  scale: float = 16.0,
  margin: float = 0.2,
  center_weight: float = 2.0,
  rule: centers.Rule = centers.repulsion,
  momentum: float = 0.9,
  unvisited: PairLoss | None = None,
  axis_name: str | None = None,
  mesh: ClassMesh | None = None,
) -> tuple[Float[Array, ""], centers.CenterBank]:
  """Center Contrastive Loss of a batch, and the bank after the batch has moved it.

  The loss is taken with the old bank; the new bank carries no gradient. Pass it on to
  the next call: `jax.value_and_grad(loss_fn, has_aux=True)` returns `((loss, bank),
  grads)`.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32.
    labels: [B]; a negative label marks padding, which has no loss, moves no center and
      is not counted. A label >= K makes the loss NaN (see `ccl_jax.check_labels`).
    bank: from `ccl_jax.centers.init`, K rows of D.
    scale: s, the inverse temperature. The defaults of s, m and lambda are our choice,
      tuned on validation classes of Glyphs; no public source states the paper's.
    margin: m, in units of cosine.
    center_weight: lambda, the weight of the pull to the own center.
    rule: where a batch moves its centers. `centers.repulsion`, our own default, also
      pushes them away from the batch's other classes; `centers.class_means` is the
      plain reading of the paper, which names no rule.
    momentum: mu of the center update, in [0, 1]; class means work well with .5.
    unvisited: a loss over the batch alone for rows whose class has no center yet, such
      as `losses.multi_similarity`; it pays off where the first batches have several
      images of a class, see `objectives.with_bank`. None: they have this loss as well.
    axis_name: a mapped axis (`pmap`, or `shard_map` with `check_vma=False`) over which
      the batch is split. Loss and bank are those of the global batch, the same on every
      device; average the gradients with `lax.pmean`.
    mesh: splits a bank of `mesh.num_rows` rows by class over devices; the batch is the
      global one, as under `jit` with shardings.

  Returns:
    The mean loss, a scalar, and the new bank.

  Raises:
    ValueError: if embeddings and centers differ in dimension.

  Example:
    >>> import jax, jax.numpy as jnp, ccl_jax
    >>> bank = ccl_jax.centers.init(jax.random.key(0), num_classes=3, dim=2)
    >>> embeddings, labels = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([1, 0])
    >>> loss, bank = ccl_jax.center_contrastive_loss(embeddings, labels, bank)
    >>> print(loss.shape, bank.counts)
    () [1 1 0]

  References:
    Cai, Xiong, Tian, Center Contrastive Loss for Metric Learning, 2023, Eq. 5,
    https://arxiv.org/abs/2308.00458
  """
  check_arrays(embeddings=embeddings, centers=bank.centers)
  num_rows, dim = bank.centers.shape
  if embeddings.shape[-1] != dim:
    raise ValueError(
      f"embeddings have dimension {embeddings.shape[-1]} and the bank's centers "
      f"{dim}; make the bank with dim={embeddings.shape[-1]}"
    )
  loss = functools.partial(
    losses.center_contrastive, scale=scale, margin=margin, center_weight=center_weight
  )
  objective = with_bank(
    loss,
    num_rows if mesh is None else mesh.num_classes,
    dim,
    rule=rule,
    momentum=momentum,
    unvisited=unvisited,
    axis_name=axis_name,
    mesh=mesh,
  )
  values, new_bank = objective.apply({}, bank, embeddings, {"label": labels})
  return global_mean(values, labels, axis_name), new_bank


def _bind(
  loss: ClassLoss, mesh: ClassMesh | None, sample_rate: float, key
) -> ClassLoss:
  """The loss with the options of `losses.Over` that the objective was given."""
  if mesh is not None:
    loss = functools.partial(loss, mesh=mesh)
  if sample_rate < 1:
    loss = functools.partial(loss, sample_rate=sample_rate, key=key)
  return loss


def _values(loss, rows: tuple[Array, ...], axis_name: str | None, *others: Array):
  """`loss(*rows, *others)` over the rows of all devices; the values of this device."""
  values = loss(*_gather(rows, axis_name), *others)
  if axis_name is None:
    return values
  size = len(rows[0])
  start = jax.lax.axis_index(axis_name) * size
  return jax.lax.dynamic_slice_in_dim(values, start, size)


def _gather(rows: PyTree, axis_name: str | None) -> PyTree:
  """The rows of all devices, in order; the rows as they are without a mapped axis."""
  return rows if axis_name is None else jax.lax.all_gather(rows, axis_name, tiled=True)


def _once_read(embeddings: Array, losses_of_rows: Array) -> Array:
  """The embeddings, made to depend on the loss, which has read the bank by then.

  Without this dependency XLA cannot tell that the loss no longer needs the old rows
  when the update writes new ones, and copies the whole bank first. (jax 0.10 on CPU
  removes an `optimization_barrier` here; it keeps 0 * x.) A loss that is not finite
  adds nothing.
  """
  values = jax.lax.stop_gradient(losses_of_rows)[:, None]
  nothing = jnp.where(jnp.isfinite(values), 0 * values, 0.0)
  return jax.lax.stop_gradient(embeddings) + nothing.astype(embeddings.dtype)
