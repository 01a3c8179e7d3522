"""A small network for pictures of glyphs that trains within minutes on a CPU.

On a CPU, XLA multiplies matrices fast, but is slow where large activations are only
moved: padding, normalization, the gradients of a strided convolution. So the first
layers are matrix products over windows, which a reshape gives for free, and
convolutions come where few positions are left. `experiments.benchmarks.step` compares
the speed with PyTorch.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


class GlyphNet(nn.Module):
  """Embeds small pictures: overlapping windows, 3 x 3 convolutions, one dense head.

  The stem reads windows of 8 x 8 pixels, one every 4 pixels (32 x 32 pixels -> 8 x 8
  positions). The next layer joins 2 x 2 positions; `depth` residual convolutions work
  on 4 x 4 positions. The head reads all positions at once, since the place of a stroke
  distinguishes characters. Nothing is normalized: batch normalization would make an
  embedding depend on the other images; layer normalization cost time on a CPU, and its
  accuracy was not compared.

  Attributes:
    dim: D, length of the embedding.
    widths: channels after the stem and after the next layer.
    depth: residual convolutions.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> network, pictures = GlyphNet(dim=16), jnp.zeros((2, 32, 32, 1), jnp.uint8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> print(network.apply(variables, pictures).shape)
    (2, 16)
  """

  dim: int = 128
  widths: tuple[int, int] = (96, 128)
  depth: int = 1

  @nn.compact
  def __call__(
    self, images: Num[Array, "B H W C"], *, train: bool = False
  ) -> Float[Array, "B D"]:
    """Returns embeddings f32[B,D], not normalized, of images u8[B,H,W,C].

    `train` changes nothing here; other models need it.

    Raises:
      ValueError: if H or W is not a multiple of 8.
    """
    del train
    height, width = images.shape[1:3]
    if height % 8 or width % 8:
      raise ValueError(
        f"images are {height} x {width}: GlyphNet takes sides that are multiples of 8"
      )
    x = images.astype(jnp.float32) / 128 - 0.5
    x = nn.relu(nn.Dense(self.widths[0], name="stem")(_windows(x)))
    x = nn.Dense(self.widths[1], name="join")(_cells(x, 2))
    for i in range(self.depth):
      x = x + nn.Conv(self.widths[1], (3, 3), name=f"conv_{i}")(nn.relu(x))
    return nn.Dense(self.dim, name="head")(nn.relu(x).reshape(x.shape[0], -1))


def _cells(x: Float[Array, "B H W C"], side: int) -> Array:
  """Joins each square of side x side positions into one: [B, H/side, W/side, -1]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // side, side, width // side, side, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height // side, width // side, side * side * channels)


def _windows(x: Float[Array, "B H W C"]) -> Array:
  """Windows of 8 x 8 pixels, one every 4: [B, H/4, W/4, 64 C], 0 outside."""
  cells = _cells(jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), 4)
  corners = [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]]
  return jnp.concatenate(corners, axis=-1)
