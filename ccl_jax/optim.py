"""Optimizer and schedule from plain numbers."""

import jax
import optax


def warmup_cosine(peak: float, steps: int, warmup_steps: int = 0) -> optax.Schedule:
  """Linear rise to `peak` over `warmup_steps`, then a cosine down to 0 at `steps`."""
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps)


def adamw(
  learning_rate: float,
  centers_learning_rate: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """AdamW on the model and Adam on the objective's class vectors, each at its own rate.

  A class vector sees a gradient only through its own few examples, so it takes a rate
  of its own, far above the model's. Only matrices decay: a decayed bias, gain or class
  vector would only be rescaled.

  Args:
    learning_rate: peak for `params["model"]`.
    centers_learning_rate: peak for `params["objective"]`.
    steps: length of the run, at whose end both rates are 0.
    warmup_steps: length of the linear rise of both.
    weight_decay: decoupled decay of the model's matrices.
  """

  def matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)

  return optax.partition(
    {
      "model": optax.adamw(
        warmup_cosine(learning_rate, steps, warmup_steps),
        weight_decay=weight_decay,
        mask=matrices,
      ),
      "objective": optax.adam(
        warmup_cosine(centers_learning_rate, steps, warmup_steps)
      ),
    },
    lambda params: {group: group for group in params},
  )


def sgd(
  learning_rate: float,
  centers_learning_rate: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
  momentum: float = 0.9,
) -> optax.GradientTransformation:
  """SGD with momentum, each group at its own rate; see `adamw` for the arguments.

  The decay is added to the gradient, and reaches all of the model's parameters, as in
  the code of SupCon and ConTeX.
  """

  def momentum_at(rate):
    return optax.sgd(warmup_cosine(rate, steps, warmup_steps), momentum)

  return optax.partition(
    {
      "model": optax.chain(
        optax.add_decayed_weights(weight_decay), momentum_at(learning_rate)
      ),
      "objective": momentum_at(centers_learning_rate),
    },
    lambda params: {group: group for group in params},
  )
