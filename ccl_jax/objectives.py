"""Binds a loss to what it learns or remembers: pairs `(init, apply)`, as in optax.

One train step serves every loss, because each is seen as an `Objective`: class vectors
that are trained are its params, a center bank or a memory of past embeddings is its
state, and a loss over the pairs of a batch has neither.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from ccl_jax import centers, losses, streaming
from ccl_jax.class_mesh import ClassMesh
from ccl_jax.labels import drop_padding, gather_rows, mask_loss

# (embeddings [B,D], labels [B], class vectors [K,D], settings by name) -> loss [B]
ClassLoss = Callable[..., Array]


# Logits up to which a loss holds them all; above, it goes by blocks. A choice
# between two measured sizes: even at 16 x 999, blocks ahead at 128 x 11,264.
MOST_LOGITS = 2**20


class Objective(NamedTuple):
  """A loss together with its parameters and its state.

  Attributes:
    init: `init(key) -> (params, state)`; either may be empty.
    apply: `apply(params, state, embeddings [B,D], batch) -> (loss [B], new state)`,
      where `batch["label"]` is [B]. Differentiable in `params` and `embeddings`.
  """

  init: Callable[[Key[Array, ""]], tuple[PyTree, PyTree]]
  apply: Callable[
    [PyTree, PyTree, Array, Mapping[str, Any]], tuple[Float[Array, " B"], PyTree]
  ]


def dense_or_streaming(dense: ClassLoss, streamed: ClassLoss) -> ClassLoss:
  """One loss in two ways: `dense` while B x K is small, `streamed` above that.

  Both give the same numbers. What only `streamed` can do, a `mesh` or a `sample_rate`
  with its `key`, is passed on to it.
  """

  @functools.wraps(dense)
  def loss(
    embeddings,
    labels,
    class_vectors,
    *,
    mesh=None,
    sample_rate=1.0,
    key=None,
    **settings,
  ):
    few = len(labels) * len(class_vectors) <= MOST_LOGITS
    if few and mesh is None and sample_rate == 1:
      return dense(embeddings, labels, class_vectors, **settings)
    settings |= {"mesh": mesh, "sample_rate": sample_rate, "key": key}
    return streamed(embeddings, labels, class_vectors, **settings)

  return loss


# Also with `mesh=`; call those of `losses` or `streaming` to choose the way yourself.
center_contrastive = dense_or_streaming(
  losses.center_contrastive, streaming.center_contrastive
)
cosface = dense_or_streaming(losses.cosface, streaming.cosface)
normalized_softmax = dense_or_streaming(
  losses.normalized_softmax, streaming.normalized_softmax
)


def _once_read(embeddings: Array, losses_of_rows: Array) -> Array:
  """The embeddings, for an update that begins when the loss has read the bank.

  Without this dependency XLA cannot tell that the bank's old rows are no longer needed
  as the update writes the new ones, and copies the whole bank first. (jax 0.10 on CPU
  sees through an `optimization_barrier` here; 0 * x it leaves alone.) A loss that is
  not finite leaves the embeddings as they are.
  """
  values = jax.lax.stop_gradient(losses_of_rows)[:, None]
  nothing = jnp.where(jnp.isfinite(values), 0 * values, 0.0)
  return jax.lax.stop_gradient(embeddings) + nothing.astype(embeddings.dtype)


def with_bank(
  loss: ClassLoss,
  num_classes: int,
  dim: int,
  *,
  momentum: float,
  sharpness: float | None = None,
  axis_name: str | None = None,
  mesh: ClassMesh | None = None,
) -> Objective:
  """Contrasts with a center bank that every batch moves, after its loss is taken.

  Nothing of the size of the bank is differentiated, and no optimizer state of that size
  exists.

  Args:
    loss: `(embeddings, labels, centers) -> [B]`, for instance
      `partial(center_contrastive, scale=16.0, margin=0.2, center_weight=2.0)`.
    num_classes: K.
    dim: D.
    momentum: mu of `centers.update`.
    sharpness: tau of `centers.repel`; None moves the bank by class means alone.
    axis_name: the mapped axis under `pmap`; None under `jit`.
    mesh: lays the bank out over devices; `loss` is to be bound to it too.
  """
  rows = num_classes if mesh is None else mesh.num_rows

  def init(key):
    return {}, centers.init(key, rows, dim)

  def apply(params, bank, embeddings, batch):
    del params
    labels = batch["label"]
    values = loss(embeddings, labels, jax.lax.stop_gradient(bank.centers))
    new_bank = centers.update(
      bank,
      _once_read(embeddings, values),
      labels,
      momentum=momentum,
      sharpness=sharpness,
      axis_name=axis_name,
      mesh=mesh,
    )
    return values, new_bank

  return Objective(init, apply)


def with_trained_centers(
  loss: ClassLoss,
  num_classes: int,
  dim: int,
  *,
  centers_per_class: int | None = None,
  mesh: ClassMesh | None = None,
) -> Objective:
  """Contrasts with one vector per class, or several, that the optimizer trains.

  Args:
    loss: `(embeddings, labels, class vectors) -> [B]`, which scales the vectors to unit
      length itself: `losses.center_contrastive`, `losses.cosface`, ...
    num_classes: K.
    dim: D.
    centers_per_class: C, for a loss over [K, C, D] as `losses.soft_triple`; None: the
      loss is over [K, D].
    mesh: lays the vectors out over devices; `loss` is to be bound to it too.
  """
  rows = num_classes if mesh is None else mesh.num_rows

  def init(key):
    if centers_per_class is None:
      return {"centers": centers.init(key, rows, dim).centers}, {}
    all_rows = centers.init(key, rows * centers_per_class, dim).centers
    return {"centers": all_rows.reshape(rows, centers_per_class, dim)}, {}

  def apply(params, state, embeddings, batch):
    return loss(embeddings, batch["label"], params["centers"]), state

  return Objective(init, apply)


def with_sampled_classes(
  bind: Callable[[ClassLoss], Objective], loss: ClassLoss, sample_rate: float
) -> Objective:
  """An objective that contrasts each batch with a random part of the other classes.

  The state holds the key of the draws and their number beside the objective's own, so
  that a resumed run draws what an uninterrupted one would have drawn.

  Args:
    bind: a loss -> its objective, for instance `lambda loss: with_bank(loss, ...)`.
    loss: takes `sample_rate` and `key`, as `center_contrastive` above and those of
      `streaming` do.
    sample_rate: see `streaming.cosface`.
  """

  def init(key):
    objective_key, draw_key = jax.random.split(key)
    params, inner = bind(loss).init(objective_key)
    draws = {"key": jax.random.key_data(draw_key), "count": jnp.zeros((), jnp.int32)}
    return params, {"inner": inner, "draws": draws}

  def apply(params, state, embeddings, batch):
    draws = state["draws"]
    key = jax.random.wrap_key_data(draws["key"])
    key = jax.random.fold_in(key, draws["count"])
    objective = bind(functools.partial(loss, sample_rate=sample_rate, key=key))
    values, inner = objective.apply(params, state["inner"], embeddings, batch)
    draws = draws | {"count": draws["count"] + 1}
    return values, {"inner": inner, "draws": draws}

  return Objective(init, apply)


def without_state(
  loss: Callable[[Array, Mapping[str, Any]], Float[Array, " B"]],
) -> Objective:
  """A loss over the rows of a batch alone, which learns and remembers nothing.

  Args:
    loss: `(embeddings [B,D], batch) -> [B]`.
  """

  def apply(params, state, embeddings, batch):
    del params
    return loss(embeddings, batch), state

  return Objective(lambda key: ({}, {}), apply)


class Memory(NamedTuple):
  """Embeddings of the last batches, in a ring."""

  embeddings: Float[Array, "M D"]
  labels: Int[Array, " M"]  # < 0: an empty slot
  position: Int[Array, ""]  # of the oldest row, which is replaced next
  steps: Int[Array, ""]  # batches seen so far


def with_memory(
  loss: Callable[..., Float[Array, " B"]],
  size: int,
  dim: int,
  *,
  warmup_steps: int = 0,
  axis_name: str | None = None,
) -> Objective:
  """Contrasts a batch with those before it too: cross-batch memory (XBM).

  Embeddings drift slowly once a model has trained for a while, so that those of past
  steps serve as contrasts at no cost but their storage. The loss sees the memory as it
  was before the batch was written into it: a row never meets itself, but it may meet an
  earlier view of its image, as one of its class. No gradient reaches the memory.

  Args:
    loss: `(embeddings [B,D], batch, memory=[M,D], memory_labels=[M]) -> [B]`, which
      scales both embeddings to unit length itself and passes over memory labels < 0.
    size: M, the embeddings that are remembered, at least a global batch. Padding rows
      take places too, as empty slots.
    dim: D.
    warmup_steps: first steps, in which the memory fills but all of it counts as empty.
    axis_name: the mapped axis under `pmap`; None under `jit`. Each device remembers the
      global batch.

  Raises:
    ValueError: by `apply`, for a global batch of more than M rows.

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

  def apply(params, state, embeddings, batch):
    del params
    values = loss(
      embeddings,
      batch,
      memory=jax.lax.stop_gradient(state.embeddings),
      memory_labels=jnp.where(state.steps < warmup_steps, -1, state.labels),
    )
    rows = drop_padding(_once_read(embeddings, values), batch["label"])
    rows, labels = gather_rows(rows, axis_name), gather_rows(batch["label"], axis_name)
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
  """Cross-entropy of a linear classifier, with a bias, over embeddings of any length.

  Args:
    num_classes: K.
    dim: D.
  """

  def init(key):
    kernel = jax.random.normal(key, (dim, num_classes)) / dim**0.5
    return {"kernel": kernel, "bias": jnp.zeros(num_classes)}, {}

  def apply(params, state, embeddings, batch):
    labels = batch["label"]
    logits = drop_padding(embeddings, labels) @ params["kernel"] + params["bias"]
    own = jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
    values = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * own, axis=-1)
    return mask_loss(values, labels, num_classes), state

  return Objective(init, apply)


def center_contrastive_loss(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  bank: centers.CenterBank,
  *,
  scale: float = 16.0,
  margin: float = 0.2,
  center_weight: float = 2.0,
  momentum: float = 0.5,
  sharpness: float | None = None,
  axis_name: str | None = None,
  mesh: ClassMesh | None = None,
) -> tuple[Float[Array, ""], centers.CenterBank]:
  """Center Contrastive Loss over a batch, and the bank that the batch has moved.

  The loss contrasts with the bank as it was; the new bank carries no gradient. Pass it
  on to the next call, with `has_aux=True`::

    (loss, bank), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, bank, batch)

  Args:
    embeddings: [B, D], any length, any float type; computed in float32.
    labels: [B]; a negative label marks padding: no loss, no update, not counted. A
      label >= K makes the loss NaN (see `ccl_jax.check_labels`).
    bank: from `ccl_jax.centers.init`, K rows of D.
    scale: s, the inverse temperature. The defaults of s, m and lambda are our choice,
      tuned on validation classes of Glyphs; no public source states the paper's.
    margin: m, in units of cosine.
    center_weight: lambda, the weight of the pull to the own center.
    momentum: mu of the center update, in [0, 1].
    sharpness: lets the batch's other classes push the centers away, by
      `centers.repel`, our addition; None is the bank of class means.
    axis_name: a mapped axis (`pmap`, or `shard_map` with `check_vma=False`) over which
      the batch is split; loss and bank are then those of the global batch, the same on
      every device, and gradients are to be averaged with `lax.pmean`.
    mesh: of a bank of `mesh.num_rows` rows that is split by class over devices; the
      batch is the global one, as under `jit` with shardings.

  Returns:
    The mean loss, a scalar, and the new bank.

  Raises:
    ValueError: if embeddings and centers differ in dimension.

  References:
    Cai, Xiong, Tian, Center Contrastive Loss for Metric Learning, 2023, Eq. 5,
    https://arxiv.org/abs/2308.00458
  """
  if embeddings.shape[-1] != bank.centers.shape[-1]:
    raise ValueError(
      f"embeddings have dimension {embeddings.shape[-1]} and the bank's centers "
      f"{bank.centers.shape[-1]}; make the bank with dim={embeddings.shape[-1]}"
    )
  values = center_contrastive(
    embeddings,
    labels,
    jax.lax.stop_gradient(bank.centers),
    scale=scale,
    margin=margin,
    center_weight=center_weight,
    mesh=mesh,
  )
  loss = losses.mean_over_examples(values, labels, axis_name)
  new_bank = centers.update(
    bank,
    _once_read(embeddings, values),
    labels,
    momentum=momentum,
    sharpness=sharpness,
    axis_name=axis_name,
    mesh=mesh,
  )
  return loss, new_bank
