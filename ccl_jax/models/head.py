"""A head on embeddings that another network has made."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from ccl_jax.vectors import unit


class Head(nn.Module):
  """Maps stored embeddings to others: a matrix, or a multilayer perceptron.

  Rows are scaled to the length of sqrt(F) first, so that their numbers are about 1
  whatever network made them; retrieval by cosine does not see their length anyway. The
  matrices start orthogonal: a linear head as wide as its input starts with the
  distances that the embeddings have.

  Attributes:
    dim: D, length of the new embedding.
    hidden: widths of the layers before the last, each followed by a GELU; none: linear.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models.head import Head
    >>> embeddings = jnp.eye(3, 8)
    >>> new, _ = Head(dim=4).init_with_output(jax.random.key(0), embeddings)
    >>> print(new.shape)
    (3, 4)
  """

  dim: int = 128
  hidden: tuple[int, ...] = ()

  @nn.compact
  def __call__(
    self, embeddings: Num[Array, "B F"], *, train: bool = False
  ) -> Float[Array, "B D"]:
    """Returns new embeddings f32[B, D], not normalized.

    `train` changes nothing here; other models need it.

    Raises:
      ValueError: if these are not rows of numbers.
    """
    del train
    if embeddings.ndim != 2:
      raise ValueError(
        f"embeddings {embeddings.shape}: a head takes [B, F], not pictures; for those"
        " give another model"
      )
    x = unit(embeddings) * jnp.sqrt(embeddings.shape[1])
    for i, width in enumerate(self.hidden):
      x = nn.gelu(_dense(width, f"hidden_{i}")(x))
    return _dense(self.dim, "head")(x)


def _dense(width: int, name: str) -> nn.Dense:
  return nn.Dense(width, kernel_init=nn.initializers.orthogonal(), name=name)
