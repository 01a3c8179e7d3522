"""Vision transformers with an embedding head, for the weights of DINOv2 and timm.

The network of Dosovitskiy et al. 2021, arXiv 2010.11929, with LayerScale and with the
registers of Darcet et al. 2024, arXiv 2309.16588. Every module is named as in those
files, with `_` for `.`, so that `import_torch` can load them.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Num

from ccl_jax.models.resnet import normalize_pixels

__all__ = ["ViT", "frozen", "vit_base", "vit_large", "vit_small"]

Tokens = Literal["class", "mean", "both"]


class ViT(nn.Module):
  """Embeds images: patches, blocks of attention, tokens, and one dense layer.

  Its params are `{"backbone": ..., "head": ...}`, so that each can be trained at a rate
  of its own. Pixels are normalized by the statistics of ImageNet, as DINOv2 does.

  Attributes:
    dim: D, length of the embedding; None: the tokens themselves, without a head.
    width: length of a token.
    depth: number of blocks.
    heads: heads of an attention.
    patch: side of a patch in pixels, which must divide the sides of an image.
    grid: position embeddings a side: 37 in DINOv2 (518 / 14), 14 for 224 / 16. They are
      resampled for images of another size, as timm does.
    registers: tokens that belong to no patch, after the class token.
    tokens: what is embedded: the class token, the mean over the patches, or both.
    trained_blocks: the last blocks, to which the gradient goes; 0: to the head alone;
      None: to the whole network. The optimizer has to leave the others alone too, see
      `frozen`.
    remat: compute a block again on the way back, in place of holding its activations.
    dtype: type in which the matrix products are computed.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models.vit import ViT
    >>> network = ViT(dim=16, width=12, depth=2, heads=2, patch=8, grid=4)
    >>> pictures = jnp.zeros((2, 32, 32, 3), jnp.uint8)
    >>> variables = jax.eval_shape(network.init, jax.random.key(0), pictures)
    >>> print(sorted(variables["params"]["backbone"])[:2])
    ['blocks_0', 'blocks_1']
  """

  dim: int | None = 512
  width: int = 384
  depth: int = 12
  heads: int = 6
  patch: int = 14
  grid: int = 37
  registers: int = 0
  tokens: Tokens = "class"
  trained_blocks: int | None = None
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, images: Num[Array, "B H W C"], *, train: bool = False
  ) -> Float[Array, "B D"]:
    """Returns embeddings f32[B,D], not normalized, of images u8[B,H,W,C].

    Gray images (C = 1) are read as three equal channels. `train` changes nothing here.

    Raises:
      ValueError: if the patches do not divide the sides, or C is neither 1 nor 3.
    """
    del train
    features = Backbone(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      patch=self.patch,
      grid=self.grid,
      registers=self.registers,
      tokens=self.tokens,
      trained_blocks=self.trained_blocks,
      remat=self.remat,
      dtype=self.dtype,
      name="backbone",
    )(images)
    return features if self.dim is None else nn.Dense(self.dim, name="head")(features)


class Backbone(nn.Module):
  """A vision transformer up to its tokens; its attributes are those of `ViT`."""

  width: int
  depth: int
  heads: int
  patch: int
  grid: int
  registers: int
  tokens: Tokens
  trained_blocks: int | None
  remat: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, images: Num[Array, "B H W C"]) -> Float[Array, "B F"]:
    height, width, channels = images.shape[1:]
    if height % self.patch or width % self.patch or channels not in (1, 3):
      raise ValueError(
        f"images are {height} x {width} x {channels}: this ViT takes sides that are"
        f" multiples of {self.patch}, and 1 or 3 channels"
      )
    x = normalize_pixels(images)
    side = (self.patch, self.patch)
    x = nn.Conv(
      self.width, side, side, "VALID", dtype=self.dtype, name="patch_embed_proj"
    )(x)
    cells = x.shape[1], x.shape[2]
    x = x.reshape(len(x), -1, self.width).astype(jnp.float32)
    drawn = nn.initializers.truncated_normal(0.02)
    places = 1 + self.grid**2
    positions = self.param("pos_embed", drawn, (1, places, self.width))
    x = x + _resampled(positions[:, 1:], self.grid, cells)
    first = self.param("cls_token", drawn, (1, 1, self.width)) + positions[:, :1]
    if self.registers:
      shape = 1, self.registers, self.width
      first = jnp.concatenate([first, self.param("reg_token", drawn, shape)], axis=1)
    first = jnp.broadcast_to(first, (len(x), *first.shape[1:]))
    x = jnp.concatenate([first, x], axis=1)
    make: Any = nn.remat(Block) if self.remat else Block
    trained = self.depth if self.trained_blocks is None else self.trained_blocks
    for i in range(self.depth):
      if i == self.depth - trained > 0:
        x = jax.lax.stop_gradient(x)
      x = make(self.heads, self.dtype, name=f"blocks_{i}")(x)
    x = nn.LayerNorm(1e-6, name="norm")(x)
    if trained == 0:
      x = jax.lax.stop_gradient(x)
    class_token, patches = x[:, 0], x[:, 1 + self.registers :].mean(axis=1)
    if self.tokens == "both":
      return jnp.concatenate([class_token, patches], axis=1)
    return class_token if self.tokens == "class" else patches


class Block(nn.Module):
  """Attention and a perceptron, each beside a shortcut and scaled by LayerScale."""

  heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "B N F"]) -> Float[Array, "B N F"]:
    dense, width = partial(nn.Dense, dtype=self.dtype), x.shape[-1]
    gain = nn.initializers.ones
    y = nn.LayerNorm(1e-6, name="norm1")(x)
    y = dense(3 * width, name="attn_qkv")(y)
    y = y.reshape(*y.shape[:2], 3, self.heads, width // self.heads)
    y = jax.nn.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])
    y = dense(width, name="attn_proj")(y.reshape(x.shape)).astype(jnp.float32)
    x = x + self.param("ls1_gamma", gain, (width,))[None, None, :] * y
    y = nn.LayerNorm(1e-6, name="norm2")(x)
    y = nn.gelu(dense(4 * width, name="mlp_fc1")(y), approximate=False)
    y = dense(width, name="mlp_fc2")(y).astype(jnp.float32)
    return x + self.param("ls2_gamma", gain, (width,))[None, None, :] * y


def frozen(depth: int, trained_blocks: int | None) -> set[str]:
  """The names in `params["backbone"]` that do not train with `trained_blocks`.

  Example:
    >>> from ccl_jax.models import vit
    >>> print(sorted(vit.frozen(3, trained_blocks=2)))
    ['blocks_0', 'cls_token', 'patch_embed_proj', 'pos_embed', 'reg_token']
  """
  if trained_blocks is None or trained_blocks >= depth:
    return set()
  names = {"patch_embed_proj", "pos_embed", "cls_token", "reg_token"}
  names |= {f"blocks_{i}" for i in range(depth - trained_blocks)}
  return names if trained_blocks else names | {"norm"}


def _resampled(
  positions: Float[Array, "1 N F"], grid: int, cells: tuple[int, int]
) -> Float[Array, "1 M F"]:
  """Position embeddings of grid x grid patches for an image of other sides."""
  if cells == (grid, grid):
    return positions
  width = positions.shape[-1]
  square = positions.reshape(grid, grid, width)
  resized = jax.image.resize(square, (*cells, width), "cubic")
  return resized.reshape(1, -1, width)


vit_small = partial(ViT, width=384, depth=12, heads=6)
vit_base = partial(ViT, width=768, depth=12, heads=12)
vit_large = partial(ViT, width=1024, depth=24, heads=16)
