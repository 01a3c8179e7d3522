"""ResNets written a second time: in float64 NumPy, and as PyTorch modules.

Both take weights by the names that torchvision gives them, in PyTorch's layout.
"""

import numpy as np


def shapes(depths, *, bottleneck, width=64, stem=7):
  """Name -> shape of every array of a ResNet, without its classifier."""
  found = {"conv1.weight": (width, 3, stem, stem), **_norm("bn1", width)}
  before = width
  for stage, depth in enumerate(depths):
    inner = width * 2**stage
    outer = 4 * inner if bottleneck else inner
    for i in range(depth):
      block = f"layer{stage + 1}.{i}"
      sides = (1, 3, 1) if bottleneck else (3, 3)
      widths = (before, inner, inner, outer) if bottleneck else (before, inner, outer)
      for n, side in enumerate(sides):
        found[f"{block}.conv{n + 1}.weight"] = (widths[n + 1], widths[n], side, side)
        found |= _norm(f"{block}.bn{n + 1}", widths[n + 1])
      if i == 0 and (stage > 0 or before != outer):
        found[f"{block}.downsample.0.weight"] = (outer, before, 1, 1)
        found |= _norm(f"{block}.downsample.1", outer)
      before = outer
  return found


def _norm(name, width):
  parts = ("weight", "bias", "running_mean", "running_var")
  return {f"{name}.{part}": (width,) for part in parts}


def random_weights(depths, *, seed=0, **sizes):
  """Weights in float32 with no gain or mean at 0 or 1.

  Activations stay near 1, and a block adds a little to its shortcut, as in a trained
  network: where it adds as much, fifty layers and ReLUs turn float32's rounding into
  gradients that are off by percents, PyTorch's own among them.
  """
  rng = np.random.default_rng(seed)
  last = ".bn3.weight" if sizes["bottleneck"] else ".bn2.weight"
  weights = {}
  for name, shape in shapes(depths, **sizes).items():
    if len(shape) == 4:
      value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    elif name.endswith(last):
      value = rng.uniform(0.1, 0.3, shape)
    elif name.endswith("running_var") or name.endswith("weight"):
      value = rng.uniform(0.5, 1.5, shape)
    else:
      value = rng.normal(0, 0.2, shape)
    weights[name] = value.astype(np.float32)
  return weights


def features(weights, images, *, train, pooling="average", small_images=False):
  """Pooled features f64[B,F] of u8[B,H,W,3], and the batch statistics by name."""
  w = {name: value.astype(np.float64) for name, value in weights.items()}
  statistics = {}

  def norm(x, name):
    if train:
      mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
      statistics[name] = mean, var
    else:
      mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / np.sqrt(var + 1e-5)
    shift = w[f"{name}.bias"] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]

  def relu(x):
    return np.maximum(x, 0)

  mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
  x = ((images / 255 - mean) / deviation).transpose(0, 3, 1, 2)
  x = relu(norm(conv(x, w["conv1.weight"], 1 if small_images else 2), "bn1"))
  if not small_images:
    x = max_pool(x)
  blocks = sorted({n.rsplit(".", 2)[0] for n in w if n.endswith(".conv1.weight")})
  for block in blocks:
    stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
    last = 3 if f"{block}.conv3.weight" in w else 2
    y = x
    for n in range(1, last + 1):
      kernel = w[f"{block}.conv{n}.weight"]
      # The first 3 x 3 convolution of a block has the stride.
      strided = n == (2 if last == 3 else 1)
      y = norm(conv(y, kernel, stride if strided else 1), f"{block}.bn{n}")
      y = relu(y) if n < last else y
    if f"{block}.downsample.0.weight" in w:
      x = conv(x, w[f"{block}.downsample.0.weight"], stride)
      x = norm(x, f"{block}.downsample.1")
    x = relu(x + y)
  average, highest = x.mean((2, 3)), x.max((2, 3))
  pooled = {"average": average, "max": highest, "sum": average + highest}[pooling]
  return pooled, statistics


def conv(x, kernel, stride):
  """A convolution of [B,C,H,W] with [O,C,S,S], padded by S // 2 on every side."""
  out, _, side, _ = kernel.shape
  pad = side // 2
  x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
  height, width = ((n - side) // stride + 1 for n in x.shape[2:])
  total = np.zeros((len(x), out, height, width))
  for i in range(side):
    for j in range(side):
      seen = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
      total += np.einsum("bchw,oc->bohw", seen, kernel[:, :, i, j])
  return total


def max_pool(x):
  """The highest of each 3 x 3, one every 2, nothing outside."""
  x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
  height, width = ((n - 3) // 2 + 1 for n in x.shape[2:])
  return np.max(
    [
      x[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2]
      for i in range(3)
      for j in range(3)
    ],
    axis=0,
  )


def torch_resnet(depths, *, bottleneck, width=64):
  """A PyTorch ResNet up to its pooled features, to be called with u8[B,H,W,3]."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  class Block(nn.Module):
    def __init__(self, before, inner, stride):
      super().__init__()
      outer = 4 * inner if bottleneck else inner
      # (width before, width after, side, stride) of each convolution.
      if bottleneck:
        plan = [(before, inner, 1, 1), (inner, inner, 3, stride), (inner, outer, 1, 1)]
      else:
        plan = [(before, inner, 3, stride), (inner, outer, 3, 1)]
      for n, (one, other, side, step) in enumerate(plan, 1):
        layer = nn.Conv2d(one, other, side, step, padding=side // 2, bias=False)
        setattr(self, f"conv{n}", layer)
        setattr(self, f"bn{n}", nn.BatchNorm2d(other))
      self.layers, self.downsample = len(plan), None
      if stride > 1 or before != outer:
        self.downsample = nn.Sequential(
          nn.Conv2d(before, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
        )

    def forward(self, x):
      y = x
      for n in range(1, self.layers + 1):
        y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
        y = F.relu(y) if n < self.layers else y
      return F.relu(y + (x if self.downsample is None else self.downsample(x)))

  class ResNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
      self.bn1 = nn.BatchNorm2d(width)
      before = width
      for stage, depth in enumerate(depths):
        inner, blocks = width * 2**stage, []
        for i in range(depth):
          blocks.append(Block(before, inner, 2 if stage > 0 and i == 0 else 1))
          before = 4 * inner if bottleneck else inner
        setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
      self.fc = nn.Linear(before, 10)

    def forward(self, images):
      mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
      x = ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)
      x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
      for stage in range(len(depths)):
        x = getattr(self, f"layer{stage + 1}")(x)
      return x.mean((2, 3))

  return ResNet()
