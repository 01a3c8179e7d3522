"""ResNet-18, ResNet-20 and ResNet-50 with an embedding head, for photographs.

This is the network of He et al. in the form whose ImageNet weights are public ("v1.5":
a bottleneck strides in its 3 x 3 convolution), so that `import_torch` can load them.
Every module is named as in those files, with `_` for `.`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Num

__all__ = ["ResNet", "normalize_pixels", "resnet18", "resnet20", "resnet50"]

# Statistics of ImageNet's pixels in 0..1, which the public weights expect.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STANDARD_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

Pooling = Literal["average", "max", "sum"]
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def normalize_pixels(images: Num[Array, "B H W C"]) -> Float[Array, "B H W 3"]:
  """Pixels of 0..255, in one channel or three, by the statistics of ImageNet.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax.models.resnet import normalize_pixels
    >>> print(normalize_pixels(jnp.zeros((1, 1, 1, 1), jnp.uint8))[0, 0, 0].round(2))
    [-2.12 -2.04 -1.8 ]
  """
  mean, deviation = (s.reshape(1, 1, 1, 3) for s in (MEAN, STANDARD_DEVIATION))
  return (images.astype(jnp.float32) / 255 - mean) / deviation  # one channel to three


class ResNet(nn.Module):
  """Embeds images: residual stages, pooling over all positions, one dense layer.

  Its params are `{"backbone": ..., "head": ...}`, so that each can be trained at a rate
  of its own. Batch statistics are those of the global batch: always under `jit`, and
  under `pmap` if `axis_name` is given.

  Attributes:
    dim: D, length of the embedding.
    depths: residual blocks of each stage.
    bottleneck: blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions (ResNet-50 and deeper),
      whose output is four times as wide; else blocks of two 3 x 3 convolutions.
    width: channels of the first stage; each stage doubles them.
    pooling: "average", "max", or "sum" of both.
    layer_norm: normalize pooled features over their channels, without gain and bias,
      before the dense layer.
    frozen_batch_norm: normalize with the running statistics in training too, and do not
      update them; gains and biases are trained in any case.
    small_images: a 3 x 3 stem without stride and max pooling, for sides of about 32;
      the public weights do not fit it.
    dtype: type in which the backbone computes; parameters, statistics, pooling and the
      head are float32.
    axis_name: the mapped axis under `pmap`, over which a training batch is normalized.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax.models.resnet import ResNet
    >>> network = ResNet(dim=16, depths=(1, 1), width=8, bottleneck=False)
    >>> pictures = jnp.zeros((2, 64, 64, 3), jnp.uint8)
    >>> variables = jax.eval_shape(network.init, jax.random.key(0), pictures)
    >>> print(sorted(variables["params"]))
    ['backbone', 'head']
  """

  dim: int = 512
  depths: Sequence[int] = (3, 4, 6, 3)
  bottleneck: bool = True
  width: int = 64
  pooling: Pooling = "average"
  layer_norm: bool = False
  frozen_batch_norm: bool = False
  small_images: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, images: Num[Array, "B H W C"], *, train: bool = False
  ) -> Float[Array, "B D"]:
    """Returns embeddings f32[B,D], not normalized, of images u8[B,H,W,C].

    Gray images (C = 1) are read as three equal channels. With `train`, features are
    normalized by the batch statistics, and the running statistics in `batch_stats` move
    a tenth of the way to them, unless they are frozen.

    Raises:
      ValueError: if C is neither 1 nor 3.
    """
    features = Backbone(
      depths=self.depths,
      bottleneck=self.bottleneck,
      width=self.width,
      pooling=self.pooling,
      frozen_batch_norm=self.frozen_batch_norm,
      small_images=self.small_images,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name="backbone",
    )(images, train=train)
    if self.layer_norm:
      features = nn.LayerNorm(use_bias=False, use_scale=False)(features)
    return nn.Dense(self.dim, name="head")(features)


class Backbone(nn.Module):
  """A ResNet up to its pooled features; its attributes are those of `ResNet`."""

  depths: Sequence[int]
  bottleneck: bool
  width: int
  pooling: Pooling
  frozen_batch_norm: bool
  small_images: bool
  dtype: DTypeLike
  axis_name: str | None

  @nn.compact
  def __call__(
    self, images: Num[Array, "B H W C"], *, train: bool
  ) -> Float[Array, "B F"]:
    if images.shape[-1] not in (1, 3):
      raise ValueError(f"images have {images.shape[-1]} channels: ResNet takes 1 or 3")
    norm = partial(
      nn.BatchNorm,
      use_running_average=not train or self.frozen_batch_norm,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name=self.axis_name,
    )
    block = partial(Bottleneck if self.bottleneck else BasicBlock, norm, self.dtype)
    x = normalize_pixels(images)
    if self.small_images:
      x = _conv(self.width, 3, self.dtype, "conv1")(x)
      x = nn.relu(norm(name="bn1")(x))
    else:
      x = _conv(self.width, 7, self.dtype, "conv1", stride=2)(x)
      x = nn.relu(norm(name="bn1")(x))
      pads: Any = ((1, 1), (1, 1))  # Flax takes pairs, though it declares a string
      x = nn.max_pool(x, (3, 3), (2, 2), pads)
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        stride = 2 if stage > 0 and i == 0 else 1
        name = f"layer{stage + 1}_{i}"
        x = block(self.width * 2**stage, stride, name=name)(x)
    x = x.astype(jnp.float32)
    if self.pooling == "average":
      return x.mean((1, 2))
    if self.pooling == "max":
      return x.max((1, 2))
    return x.mean((1, 2)) + x.max((1, 2))


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions beside a shortcut."""

  norm: Callable[..., nn.BatchNorm]
  dtype: DTypeLike
  width: int
  stride: int

  @nn.compact
  def __call__(self, x: Float[Array, "B H W C"]) -> Array:
    y = _conv(self.width, 3, self.dtype, "conv1", stride=self.stride)(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = _conv(self.width, 3, self.dtype, "conv2")(y)
    y = self.norm(name="bn2", scale_init=nn.initializers.zeros)(y)
    return nn.relu(y + _shortcut(x, self.norm, self.dtype, self.width, self.stride))


class Bottleneck(nn.Module):
  """1 x 1, strided 3 x 3 and widening 1 x 1 convolutions beside a shortcut."""

  norm: Callable[..., nn.BatchNorm]
  dtype: DTypeLike
  width: int
  stride: int

  @nn.compact
  def __call__(self, x: Float[Array, "B H W C"]) -> Array:
    y = _conv(self.width, 1, self.dtype, "conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = _conv(self.width, 3, self.dtype, "conv2", stride=self.stride)(y)
    y = nn.relu(self.norm(name="bn2")(y))
    y = _conv(4 * self.width, 1, self.dtype, "conv3")(y)
    y = self.norm(name="bn3", scale_init=nn.initializers.zeros)(y)
    return nn.relu(y + _shortcut(x, self.norm, self.dtype, 4 * self.width, self.stride))


def _conv(
  width: int, side: int, dtype: DTypeLike, name: str, stride: int = 1
) -> nn.Conv:
  # Explicit padding as in PyTorch; "SAME" would pad a strided convolution unevenly.
  return nn.Conv(
    width,
    (side, side),
    stride,
    padding=side // 2,
    use_bias=False,
    dtype=dtype,
    kernel_init=_KERNEL_INIT,
    name=name,
  )


def _shortcut(x, norm, dtype, width, stride):
  """x itself, or projected to the shape of the block's output."""
  if stride == 1 and x.shape[-1] == width:
    return x
  x = _conv(width, 1, dtype, "downsample_0", stride=stride)(x)
  return norm(name="downsample_1")(x)


# A block's last gain starts at 0 (in `BasicBlock` and `Bottleneck`), so that the
# network starts as its shortcuts alone: Goyal et al. 2017, arXiv 1706.02677, 5.1.
resnet18 = partial(ResNet, depths=(2, 2, 2, 2), bottleneck=False)
# The network for CIFAR of the ResNet paper, section 4.2, but for its shortcuts: where a
# stage widens, they are convolutions here, and padded with zeros there.
resnet20 = partial(
  ResNet, depths=(3, 3, 3), bottleneck=False, width=16, small_images=True
)
resnet50 = partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True)
