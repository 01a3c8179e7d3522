"""Times the training step of the default run in ccl_jax and in PyTorch.

  python -m experiments.benchmarks.step --out=step.json

All train the network of configs/glyphs.py with Center Contrastive Loss and trained
centers on the same batches, drawn in advance; by AdamW, since PyTorch has it, and
ccl_jax also by the config's own Muon. PyTorch starts from the weights
of JAX, and the first losses are compared before anything is timed. Each contestant runs
in a process of its own, and contestants take turns, so that a busy machine slows both
alike; the ratio is that of the median turns. A further row also reads and warps its
images.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from configs.base import Config
from experiments.run import assemble, command_line, datasets

CONFIG = Path("configs", "glyphs.py")
# What all train with: the PyTorch step reads the loss's numbers too, and has AdamW.
SETTINGS = {
  "loss.scale": "16.0",
  "loss.margin": "0.2",
  "loss.center_weight": "2.0",
  "optimizer.name": "adamw",
}
TURNS, STEPS, DRAWN = 9, 20, 32  # turns; steps in a turn; batches drawn in advance


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=Path, help="where to write JSON")
  out = parser.parse_args().out
  glyphs = command_line.load_config(str(CONFIG), SETTINGS)
  datasets.load_data(glyphs)  # built once, before the contestants ask for it

  names = list(CONTESTANTS)
  if importlib.util.find_spec("torch") is None:
    print("PyTorch is not installed: see experiments/benchmarks/requirements.txt")
    names.remove("PyTorch")
  contestants = {name: Contestant(name) for name in names}
  first = {name: contestant.take(1)[0] for name, contestant in contestants.items()}
  if "PyTorch" in first:
    np.testing.assert_allclose(first["PyTorch"], first["ccl_jax"], rtol=1e-3)

  times: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(TURNS):
    for name, contestant in contestants.items():
      times[name].append(contestant.take(STEPS)[1] / STEPS)
  report(glyphs, times, out)


class Contestant:
  """A training run in a process of its own, undisturbed by the threads of others."""

  def __init__(self, name: str):
    context = multiprocessing.get_context("spawn")
    self._pipe, theirs = context.Pipe()
    context.Process(target=serve, args=(name, theirs), daemon=True).start()

  def take(self, steps: int) -> tuple[float, float]:
    """Takes that many steps; returns the last loss, and the seconds they took."""
    self._pipe.send(steps)
    return self._pipe.recv()


def serve(name: str, pipe) -> None:
  """Takes the steps that the pipe asks for, until its other end closes."""
  settings = SETTINGS | ({"optimizer.name": "muon"} if "Muon" in name else {})
  config = command_line.load_config(str(CONFIG), settings)
  data = datasets.load_data(config)
  run = assemble.make_run(config, data)
  batches = assemble.train_batches(config, data.train)
  if name != "ccl_jax with its data":
    batches = itertools.cycle([next(batches) for _ in range(DRAWN)])
  take = CONTESTANTS[name](config, run, batches)
  with contextlib.suppress(EOFError):
    while True:
      steps = pipe.recv()
      start = time.perf_counter()
      loss = take(steps)
      pipe.send((loss, time.perf_counter() - start))


def jax_steps(config: Config, run: assemble.Run, batches) -> Callable[[int], float]:
  """A function that takes n steps and returns the last loss."""
  del config
  step = run.placement.compile_step(run.train_step)
  state = run.init_state()

  def take(count: int) -> float:
    nonlocal state
    for _ in range(count):
      state, metrics = step(state, run.placement.put_batch(next(batches)))
    return float(metrics["loss"])

  return take


def torch_steps(config: Config, run: assemble.Run, batches) -> Callable[[int], float]:
  """The same steps in PyTorch, from the same weights."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  state = run.init_state()

  class GlyphNet(nn.Module):
    """`ccl_jax.models.GlyphNet`, as one writes it in PyTorch: with convolutions."""

    def __init__(self, stem: int = 96, width: int = 128):
      super().__init__()
      self.stem = nn.Conv2d(1, stem, 8, 4, padding=2)
      self.join = nn.Conv2d(stem, width, 2, 2)
      self.conv_0 = nn.Conv2d(width, width, 3, padding=1)
      self.head = nn.Linear(16 * width, config.model.dim)

    def forward(self, images):
      x = images.float() / 128 - 0.5
      x = self.join(F.relu(self.stem(x)))
      x = F.relu(x + self.conv_0(F.relu(x)))
      return self.head(x.permute(0, 2, 3, 1).flatten(1))

  weights = {}
  for layer, arrays in jax.device_get(state.params["model"]).items():
    kernel = torch.tensor(np.asarray(arrays["kernel"]))
    if layer == "stem":  # rows by corner of the window, then by pixel of the corner
      kernel = kernel.reshape(2, 2, 4, 4, -1).transpose(1, 2).reshape(8, 8, 1, -1)
    elif layer == "join":  # rows by position in the square, then by channel
      kernel = kernel.reshape(2, 2, -1, kernel.shape[1])
    order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    weights[f"{layer}.weight"] = kernel.permute(order)
    weights[f"{layer}.bias"] = torch.tensor(np.asarray(arrays["bias"]))
  model = GlyphNet()
  model.load_state_dict(weights)
  model = model.to(memory_format=torch.channels_last)
  centers = nn.Parameter(torch.tensor(np.asarray(state.params["objective"]["centers"])))
  num_classes = len(centers)
  matrices = [p for p in model.parameters() if p.ndim > 1]
  others = [p for p in model.parameters() if p.ndim == 1]
  optimizer = torch.optim.AdamW(
    [
      {"params": matrices, "weight_decay": config.optimizer.weight_decay},
      {"params": others, "weight_decay": 0.0},
      {
        "params": [centers],
        "weight_decay": 0.0,
        "lr": config.optimizer.centers_learning_rate,
      },
    ],
    lr=config.optimizer.learning_rate,
  )
  warmup = max(1, round(config.optimizer.warmup_fraction * config.steps))
  schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: min(step / warmup, 1.0)
  )

  def take(count: int) -> float:
    for _ in range(count):
      batch = next(batches)
      images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)
      labels = torch.from_numpy(batch["label"]).long()
      z = F.normalize(model(images), dim=1)
      c = F.normalize(centers, dim=1)
      logits = config.loss.scale * (z @ c.T)
      logits = logits - config.loss.scale * config.loss.margin * F.one_hot(
        labels, num_classes
      )
      pull = (z - c[labels]).square().sum(1)
      loss = F.cross_entropy(logits, labels) + config.loss.center_weight * pull.mean()
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      schedule.step()
    return loss.item()

  return take


CONTESTANTS = {
  "ccl_jax": jax_steps,
  "ccl_jax with its data": jax_steps,
  "ccl_jax, Muon": jax_steps,
  "PyTorch": torch_steps,
}


def report(config: Config, times: dict[str, list[float]], out: Path | None) -> None:
  """Prints a table, and writes the same as JSON."""
  medians = {name: statistics.median(values) for name, values in times.items()}
  rows = {
    name: {
      "milliseconds": round(1000 * seconds, 2),
      "fastest_milliseconds": round(1000 * min(times[name]), 2),
      "images_per_second": round(config.batch_size / seconds),
      "times_ccl_jax": round(seconds / medians["ccl_jax"], 3),
    }
    for name, seconds in medians.items()
  }
  print(f"{'':24}{'ms a step':>12}{'fastest':>12}{'images/s':>12}{'x ccl_jax':>12}")
  for name, row in rows.items():
    print(f"{name:24}" + "".join(f"{value:>12}" for value in row.values()))
  if out:
    machine = {
      "cpus": os.cpu_count(),
      "processor": platform.processor() or platform.machine(),
      "device": jax.devices()[0].device_kind,
      "jax": jax.__version__,
    }
    out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
  main()
