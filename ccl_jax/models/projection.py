"""A head for the loss only; evaluation uses the features below it."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Num


class Projected(nn.Module):
  """An encoder with a multilayer perceptron on top, as contrastive training uses it.

  A call gives embeddings for the loss; the method `features` gives features to keep.

  Attributes:
    encoder: maps images to features.
    widths: widths of the dense layers, with a ReLU between them; the last is D.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> from ccl_jax.models.projection import Projected
    >>> network = Projected(GlyphNet(dim=64), widths=(32, 8))
    >>> pictures = jnp.zeros((2, 32, 32, 1), jnp.uint8)
    >>> variables = network.init(jax.random.key(0), pictures)
    >>> kept = network.apply(variables, pictures, method="features")
    >>> print(network.apply(variables, pictures).shape, kept.shape)
    (2, 8) (2, 64)
  """

  encoder: nn.Module
  widths: tuple[int, ...]

  def setup(self):
    """Makes the dense layers, as Flax asks for."""
    self.layers = [nn.Dense(width) for width in self.widths]

  def __call__(
    self, images: Num[Array, "B H W C"], *, train: bool = False
  ) -> Float[Array, "B D"]:
    """Embeddings of images; the losses scale them to unit length themselves."""
    x = self.features(images, train=train)
    for i, layer in enumerate(self.layers):
      x = layer(nn.relu(x) if i else x)
    return x

  def features(
    self, images: Num[Array, "B H W C"], *, train: bool = False
  ) -> Float[Array, "B F"]:
    """The encoder's features of images."""
    encoder: Any = self.encoder
    return encoder(images, train=train)
