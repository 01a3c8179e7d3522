"""Binds a loss to what it learns or remembers: pairs `(init, apply)`, as in optax.

One train step serves every loss, because each is seen as an `Objective`: class vectors
that are trained are its params, a center bank is its state, and a loss over pairs has
neither.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from ccl_jax import centers, losses, streaming
from ccl_jax.labels import drop_padding, mask_loss

# (embeddings [B,D], labels [B], class vectors [K,D]) -> loss [B]
ClassLoss = Callable[[Array, Array, Array], Array]


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


def center_contrastive(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  class_vectors: Num[Array, "K D"],
  *,
  scale: float,
  margin: float,
  center_weight: float,
) -> Float[Array, " B"]:
  """`losses.center_contrastive`, by blocks of classes where B x K is large.

  Both ways give the same numbers; call `losses.center_contrastive` or
  `streaming.center_contrastive` to choose yourself.
  """
  few = len(labels) * len(class_vectors) <= MOST_LOGITS
  loss = losses.center_contrastive if few else streaming.center_contrastive
  return loss(
    embeddings,
    labels,
    class_vectors,
    scale=scale,
    margin=margin,
    center_weight=center_weight,
  )


def with_bank(
  loss: ClassLoss,
  num_classes: int,
  dim: int,
  *,
  momentum: float,
  axis_name: str | None = None,
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
    axis_name: the mapped axis under `pmap`; None under `jit`.
  """

  def init(key):
    return {}, centers.init(key, num_classes, dim)

  def apply(params, bank, embeddings, batch):
    del params
    labels = batch["label"]
    values = loss(embeddings, labels, jax.lax.stop_gradient(bank.centers))
    new_bank = centers.update(
      bank, embeddings, labels, momentum=momentum, axis_name=axis_name
    )
    return values, new_bank

  return Objective(init, apply)


def with_trained_centers(loss: ClassLoss, num_classes: int, dim: int) -> Objective:
  """Contrasts with one vector per class that the optimizer trains.

  Args:
    loss: `(embeddings, labels, class vectors) -> [B]`, which scales the vectors to unit
      length itself: `losses.center_contrastive`, `losses.cosface`, ...
    num_classes: K.
    dim: D.
  """

  def init(key):
    return {"centers": centers.init(key, num_classes, dim).centers}, {}

  def apply(params, state, embeddings, batch):
    return loss(embeddings, batch["label"], params["centers"]), state

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
  axis_name: str | None = None,
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
    axis_name: a mapped axis (`pmap`, or `shard_map` with `check_vma=False`) over which
      the batch is split; loss and bank are then those of the global batch, the same on
      every device, and gradients are to be averaged with `lax.pmean`.

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
  )
  loss = losses.mean_over_examples(values, labels, axis_name)
  new_bank = centers.update(
    bank, embeddings, labels, momentum=momentum, axis_name=axis_name
  )
  return loss, new_bank
