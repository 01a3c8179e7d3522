"""Times a training step of ResNet-50 on photographs in ccl_jax and in PyTorch.

  python -m experiments.benchmarks.resnet --batch=256 --out=resnet.json

Both train the network and the loss of configs/sop.py (center contrastive loss over a
momentum bank; PyTorch trains its centers) with AdamW, on one batch of random pixels
that is on the device, in bfloat16 with float32 parameters: PyTorch channels-last with
autocast, ccl_jax as configured. Weights are random, and the statistics of the batch
normalization are fixed in both, as configured. Contestants run in processes of their
own, one after the other. Images a second are the median of --turns turns, after one
that compiles and warms up.
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs import base, sop
from configs.base import Config

OURS = "ccl_jax"
CLASSES = 11318  # Stanford Online Products' train classes


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--batch", type=int, default=256)
  parser.add_argument("--side", type=int, default=224, help="pixels (default: 224)")
  parser.add_argument("--network", default="resnet50", choices=["resnet50", "resnet18"])
  parser.add_argument("--steps", type=int, default=20, help="of a turn")
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--out", type=Path, help="where to write JSON")
  flags = parser.parse_args(argv)
  config = make_config(flags.batch, flags.side, flags.network)
  rows: dict[str, dict[str, Any]] = {}
  for name, (package, make) in CONTESTANTS.items():
    if package and importlib.util.find_spec(package) is None:
      rows[name] = {"missing": f"{package} is not installed"}
      continue
    try:
      with multiprocessing.get_context("spawn").Pool(1) as pool:
        turns = pool.apply(measure, (make, config, flags.turns, flags.steps))
    except Exception as error:  # a peer's failure is not to cost our number
      if name == OURS:
        raise
      rows[name] = {"missing": f"failed: {str(error).strip().splitlines()[0]}"}
      continue
    speed = flags.batch * flags.steps / statistics.median(turns)
    rows[name] = {"images_per_second": round(speed, 1), "turns": turns}
  for name, row in rows.items():
    found = f"{row['images_per_second']:,.0f} images/s" if "turns" in row else ""
    print(f"{name:12}{found or row['missing']:>28}")
  if flags.out:
    sizes = {"batch": flags.batch, "side": flags.side, "network": flags.network}
    flags.out.write_text(json.dumps({**sizes, "rows": rows}, indent=2))


def make_config(batch_size: int, side: int = 224, network: str = "resnet50") -> Config:
  """configs/sop.py with a bank, and another batch, side or network."""
  fields = {"batch_size": batch_size, "data.image_size": side, "model.name": network}
  return base.replace(sop.get_config(), {**fields, "loss.centers": "bank"})


def measure(make, config: Config, turns: int, steps: int) -> list[float]:
  """Seconds of each turn; to be called in a fresh process."""
  rng = np.random.default_rng(0)
  side = config.data.image_size
  images = rng.integers(0, 256, (config.batch_size, side, side, 3), np.uint8)
  labels = rng.integers(CLASSES, size=config.batch_size).astype(np.int32)
  take = make(config, images, labels)
  take(2)
  seconds = []
  for _ in range(turns):
    start = time.perf_counter()
    value = take(steps)
    seconds.append(time.perf_counter() - start)
    assert np.isfinite(value), value
  return seconds


def make_step(config: Config) -> tuple[Callable, Callable]:
  """`init()` of the state, and the train step; neither is compiled yet."""
  import jax

  from ccl_jax.training import step
  from experiments.run import assemble
  from experiments.run.objective import make_objective

  model, optimizer = assemble.make_model(config), assemble.make_optimizer(config)
  objective = make_objective(config, CLASSES)
  key, side = jax.random.key(0), config.data.image_size
  blank = np.zeros((side, side, 3), np.uint8)

  def init():
    return step.init_state(key, model, objective, optimizer, blank)

  return init, step.make_train_step(model, objective, optimizer, key=key)


def with_jax(config: Config, images, labels) -> Callable[[int], float]:
  """A function that takes n steps and returns the last loss."""
  import jax

  from ccl_jax.training import placement

  place = placement.with_jit(jax.devices()[:1])
  init, train_step = make_step(config)
  step, state = place.compile_step(train_step), init()
  batch = place.put_batch({"image": images, "label": labels})

  def take(count: int) -> float:
    nonlocal state
    for _ in range(count):
      state, metrics = step(state, batch)
    return float(metrics["loss"])

  return take


def with_torch(config: Config, images, labels) -> Callable[[int], float]:
  """The same network and loss, as one trains it in PyTorch."""
  import torch
  import torchvision
  from torch import nn
  from torch.nn import functional as F

  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.backends.cudnn.benchmark = True
  model = getattr(torchvision.models, config.model.name)()
  model.fc = nn.Linear(model.fc.in_features, config.model.dim)
  model = model.to(device, memory_format=torch.channels_last).train()
  for module in model.modules():
    if isinstance(module, nn.BatchNorm2d) and config.model.frozen_batch_norm:
      module.eval()
  centers = nn.Parameter(torch.randn(CLASSES, config.model.dim, device=device))
  groups = [{"params": model.parameters()}, {"params": [centers], "lr": 1e-2}]
  optimizer = torch.optim.AdamW(groups, lr=1e-4)
  pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # channels stay last
  classes = torch.from_numpy(labels).long().to(device)

  def take(count: int) -> float:
    for _ in range(count):
      with torch.autocast(device, dtype=torch.bfloat16):
        z = model((pixels.float() / 255 - 0.45) / 0.225)
      z, c = F.normalize(z.float(), dim=1), F.normalize(centers, dim=1)
      own = F.one_hot(classes, CLASSES)
      loss = F.cross_entropy(16 * (z @ c.T - 0.2 * own), classes)
      loss = loss + (z - c[classes]).square().sum(1).mean()
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
    return loss.item()

  return take


# Name -> the package that it needs, and what makes it.
CONTESTANTS: dict[str, tuple[str | None, Callable]] = {
  OURS: (None, with_jax),
  "PyTorch": ("torchvision", with_torch),
}


if __name__ == "__main__":
  main()
