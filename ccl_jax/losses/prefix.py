"""A loss over several leading parts of an embedding, so that each can be used alone."""

from collections.abc import Callable, Sequence

from jaxtyping import Array, Float, Int, Num

from ccl_jax.vectors import check_arrays

__all__ = ["matryoshka"]


def matryoshka(
  loss: Callable[..., Float[Array, " B"]], lengths: Sequence[int]
) -> Callable[..., Float[Array, " B"]]:
  r"""The mean of a loss over the first d coordinates, for each length d.

  .. math::
    \ell_i = \frac{1}{|M|} \sum_{d \in M} \ell_i(z_{1:d}, c_{1:d})

  Embeddings can then be cut, which makes a gallery smaller and its search faster. Class
  vectors and a memory are cut alike, so that nothing more is learned or kept ("MRL-E"
  in the reference, which weighs each length by 1 and takes the sum).

  Args:
    loss: any of `ccl_jax.losses`; class vectors come by position, a memory by name.
    lengths: M, each between 1 and D; D itself is among them where the whole is used.

  Returns:
    A loss of the same arguments as `loss`.

  Raises:
    ValueError: without a length; and when called, for a length that is not in 1..D.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> loss = losses.matryoshka(losses.supcon, [1, 2])
    >>> embeddings = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> print(loss(embeddings, labels).shape)
    (4,)

  References:
    Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, Eq. 1,
    https://arxiv.org/abs/2205.13147
  """
  if not lengths:
    raise ValueError("lengths are empty: give some, such as [32, 64, 128]")

  def nested(
    embeddings: Num[Array, "B D"], labels: Int[Array, " B"], *others: Array, **options
  ) -> Float[Array, " B"]:
    check_arrays(embeddings=embeddings)
    dim = embeddings.shape[-1]
    if bad := [length for length in lengths if not 1 <= length <= dim]:
      raise ValueError(f"length {bad[0]}: expected 1 to {dim}, as embeddings have")

    def at(length):
      def cut(array):  # `loss` says what is wrong with what is no such array
        return array[..., :length] if getattr(array, "ndim", 0) > 1 else array

      memory = {"memory": cut(options["memory"])} if "memory" in options else {}
      return loss(cut(embeddings), labels, *map(cut, others), **options | memory)

    return sum(map(at, lengths[1:]), at(lengths[0])) / len(lengths)

  return nested
