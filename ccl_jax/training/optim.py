"""Optimizer and schedule from plain numbers."""

from collections.abc import Collection, Hashable, Mapping

import jax
import jax.numpy as jnp
import optax


def warmup_cosine(peak: float, steps: int, warmup_steps: int = 0) -> optax.Schedule:
  """Linear rise to `peak` over `warmup_steps`, then a cosine down to 0 at `steps`.

  Example:
    >>> from ccl_jax.training import optim
    >>> rate = optim.warmup_cosine(0.1, steps=100, warmup_steps=10)
    >>> print([f"{rate(step):.3f}" for step in (0, 10, 55, 100)])
    ['0.000', '0.100', '0.050', '0.000']
  """
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps)


def adamw(
  learning_rate: float,
  centers_learning_rate: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
  backbone_learning_rate: float | None = None,
  frozen_steps: int = 0,
  frozen: Collection[str] = (),
) -> optax.GradientTransformation:
  """AdamW on the model and Adam on the objective's class vectors, each at its own rate.

  Class vectors need a rate far above the model's, since few examples give a class its
  gradient; a pretrained backbone needs a rate far below. Only matrices decay: the
  decay of a bias, a gain or a class vector would only rescale it.

  Args:
    learning_rate: peak rate of `params["model"]`.
    centers_learning_rate: peak rate of `params["objective"]`.
    steps: length of the run, at whose end all rates are 0.
    warmup_steps: length of the linear rise of all rates.
    weight_decay: decoupled decay of the model's matrices.
    backbone_learning_rate: peak rate of `params["model"]["backbone"]`; None: the rate
      of the model.
    frozen_steps: first steps in which a backbone with its own rate does not change.
      Its moments, its warmup and its schedule start after them.
    frozen: names in `params["model"]["backbone"]` that never change, nor decay.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax.training import optim
    >>> optimizer = optim.adamw(1e-3, 0.03, steps=100, weight_decay=0.02)
    >>> params = {"model": {"kernel": jnp.ones((2, 2))}, "objective": {}}
    >>> print(type(optimizer.init(params)).__name__)
    PartitionState
  """

  def model_optimizer(peak: float, steps: int) -> optax.GradientTransformation:
    return optax.adamw(
      warmup_cosine(peak, steps, warmup_steps),
      weight_decay=weight_decay,
      mask=_are_matrices,
    )

  optimizers: dict[Hashable, optax.GradientTransformation] = {
    "model": model_optimizer(learning_rate, steps),
    "objective": optax.adam(warmup_cosine(centers_learning_rate, steps, warmup_steps)),
  }
  if backbone_learning_rate is None and not frozen:
    return _by_group(optimizers)

  rest = "model"
  if backbone_learning_rate is not None:
    # The schedule must be longer than its warmup, even if the run ends while the
    # backbone is frozen.
    left = max(steps - frozen_steps, warmup_steps + 1)
    rest = "backbone"
    optimizers[rest] = optax.conditionally_mask(
      model_optimizer(backbone_learning_rate, left),
      lambda step, **_: jnp.greater_equal(step, frozen_steps),
    )
  optimizers["frozen"] = optax.set_to_zero()

  def groups(params):
    names = params["model"]["backbone"]
    backbone = {name: "frozen" if name in frozen else rest for name in names}
    model = {name: "model" for name in params["model"] if name != "backbone"}
    return {"model": model | {"backbone": backbone}, "objective": "objective"}

  return optax.partition(optimizers, groups)


def muon(
  learning_rate: float,
  centers_learning_rate: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Muon on the model's kernels, Adam on its other parameters and the class vectors.

  The momentum of a kernel is made orthogonal before it becomes an update, so that all
  its directions learn at one pace. A convolution counts as a matrix from its window to
  its output channels. Updates have the size of Adam's, so rates compare with those of
  `adamw`, and so does the decay; the best rate was three times as high on Glyphs. It
  costs some products of the size of the weights a step, whatever the batch.

  The arguments are those of `adamw`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.training import optim
    >>> optimizer = optim.muon(0.1, 0.1, steps=100)
    >>> params = {"model": {"kernel": jnp.eye(2)}, "objective": {}}
    >>> large_and_small = jnp.diag(jnp.array([5.0, 0.1]))
    >>> grads = {"model": {"kernel": large_and_small}, "objective": {}}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> print((jnp.diag(updates["model"]["kernel"]) < -0.01).all())
    True

  References:
    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
    https://kellerjordan.github.io/posts/muon; the size of an update: Liu et al., 2025,
    https://arxiv.org/abs/2502.16982; the scaling by rows: Boissin et al., 2025,
    https://arxiv.org/abs/2512.04632
  """

  def dimensions(params):
    def of(path, leaf):
      inputs = tuple(range(leaf.ndim - 1))
      is_kernel = leaf.ndim > 1 and getattr(path[-1], "key", None) == "kernel"
      return optax.contrib.MuonDimensionNumbers(inputs, -1) if is_kernel else None

    return jax.tree_util.tree_map_with_path(of, params)

  return _by_group(
    {
      "model": optax.contrib.muon(
        warmup_cosine(learning_rate, steps, warmup_steps),
        weight_decay=weight_decay,
        weight_decay_mask=_are_matrices,
        muon_weight_dimension_numbers=dimensions,
        # Three steps after this scaling end where five do without it, and cost less.
        ns_steps=3,
        preconditioning="aol",
        consistent_rms=0.2,  # the root mean square of Adam's updates
      ),
      "objective": optax.adam(
        warmup_cosine(centers_learning_rate, steps, warmup_steps)
      ),
    }
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
  """SGD with momentum on the model and the class vectors; arguments as in `adamw`.

  The decay is added to the gradient of all of the model's parameters, as in the code of
  SupCon and ConTeX.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.training import optim
    >>> optimizer = optim.sgd(0.1, 0.1, steps=100)
    >>> params = {"model": {"kernel": jnp.ones(2)}, "objective": {}}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> print(updates["model"]["kernel"])
    [-0.1 -0.1]
  """

  def momentum_at(rate):
    return optax.sgd(warmup_cosine(rate, steps, warmup_steps), momentum)

  return _by_group(
    {
      "model": optax.chain(
        optax.add_decayed_weights(weight_decay), momentum_at(learning_rate)
      ),
      "objective": momentum_at(centers_learning_rate),
    }
  )


def _by_group(
  optimizers: Mapping[Hashable, optax.GradientTransformation],
) -> optax.GradientTransformation:
  """An optimizer of its own for each of `params["model"]` and `params["objective"]`."""
  return optax.partition(optimizers, lambda params: {group: group for group in params})


def _are_matrices(params):
  """Which leaves of a model decay: neither biases nor gains."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
