"""The small convolutional network by which papers on few examples compare methods."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


class ConvNet(nn.Module):
  """Embeds small pictures: convolution, BatchNorm, ReLU and max pooling, repeated.

  The default is "Conv-4" of few-shot papers (Vinyals et al. 2016, arXiv 1606.04080,
  Section 4.1): four layers of 64 channels, each halving the sides, which makes 64
  numbers of a picture of 28 x 28. The dense layer to D numbers after them is ours; with
  `dim=None` there is none. Pixels are read as 0..1, so that what convolutions pad with
  is the black ground of light strokes.

  Attributes:
    dim: D, length of the embedding; None: what the layers give, as published.
    widths: channels of each layer.
    axis_name: the mapped axis under `pmap`, over which a training batch is normalized.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models.conv_net import ConvNet
    >>> network, pictures = ConvNet(dim=16), jnp.zeros((2, 28, 28, 1), jnp.uint8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> print(network.apply(variables, pictures).shape, *variables)
    (2, 16) params batch_stats
  """

  dim: int | None = None
  widths: tuple[int, ...] = (64, 64, 64, 64)
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, images: Num[Array, "B H W C"], *, train: bool = False
  ) -> Float[Array, "B D"]:
    """Returns embeddings f32[B,D], not normalized, of images u8[B,H,W,C].

    With `train`, the batch statistics normalize, and the running ones move a tenth of
    the way to them.

    Raises:
      ValueError: if H or W is less than the layers halve.
    """
    least = 2 ** len(self.widths)
    if min(images.shape[1:3]) < least:
      raise ValueError(
        f"images are {images.shape[1]} x {images.shape[2]}: ConvNet with"
        f" {len(self.widths)} layers takes sides of {least} or more"
      )
    x = images.astype(jnp.float32) / 255
    for i, width in enumerate(self.widths):
      x = nn.Conv(width, (3, 3), use_bias=False, name=f"conv_{i}")(x)
      x = nn.BatchNorm(
        not train, momentum=0.9, axis_name=self.axis_name, name=f"norm_{i}"
      )(x)
      x = nn.relu(_max_pool(x))
    x = x.reshape(x.shape[0], -1)
    return x if self.dim is None else nn.Dense(self.dim, name="head")(x)


def _max_pool(x: Float[Array, "B H W C"]) -> Array:
  """The maxima of 2 x 2 positions; a last odd row or column is dropped.

  Maxima of slices, since the gradient of XLA's windowed maximum takes most of a step on
  a CPU.
  """
  x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
  x = jnp.maximum(x[:, ::2], x[:, 1::2])
  return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])
