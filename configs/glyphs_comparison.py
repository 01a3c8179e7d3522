"""Fifteen methods on Glyphs: tuned alike, each over five seeds.

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458;
the benchmark, the network and all settings are this project's own.
Expected: the tables of experiments/results/glyphs/README.md.
Wall time: about 20 s for 1,000 steps of a run on one core of two; 270 runs in all.
Command: python -m experiments.compare --config=configs/glyphs_comparison.py \
  --results=experiments/results/glyphs
"""

import dataclasses
import functools

from configs import base
from configs.base import Config, Data, Model, Optimizer
from configs.comparison import AS_STORED, Comparison, Fields

# Half of the time of the main job's network; else everything is as there.
BASE = base.replace(
  Config(
    steps=1000,
    eval_every=250,
    data=Data(name="glyphs"),
    model=Model(depth=0, widths=(64, 128)),
    optimizer=Optimizer(learning_rate=4e-3),
  ),
  AS_STORED,  # but where a row says otherwise
)
# Trial 0 of each method has its published settings (the defaults in ccl_jax.losses),
# but for the rates, CCL (none are public), SoftTriple's 10 centers and the margin of
# the contrastive losses, which their authors set for other distances.
_PAIRS = {"data.images_per_class": 4}
_METHODS = {
  "CCL": {},
  "CCL, momentum bank": {"loss.centers": "bank"},
  "CCL, repelling bank": {
    "loss.centers": "bank",
    "loss.momentum": 0.9,
    "loss.sharpness": 8.0,
  },
  "NormSoftmax": {"loss.name": "normalized_softmax", "loss.scale": 20.0},
  "CosFace": {"loss.name": "cosface", "loss.scale": 64.0, "loss.margin": 0.35},
  "ArcFace": {"loss.name": "arcface", "loss.scale": 64.0, "loss.margin": 0.5},
  "ArcFace, repelling bank": {
    "loss.name": "arcface",
    "loss.centers": "bank",
    "loss.momentum": 0.9,
    "loss.sharpness": 8.0,
  },
  "ProxyNCA++": {"loss.name": "proxy_nca", "loss.temperature": 1 / 9},
  "Proxy-Anchor": {"loss.name": "proxy_anchor", "loss.scale": 32.0, "loss.margin": 0.1},
  "SoftTriple": {
    "loss.name": "soft_triple",
    "loss.scale": 20.0,
    "loss.margin": 0.01,
    "loss.centers_per_class": 5,
  },
  "SupCon": {"loss.name": "supcon", **_PAIRS},
  "Multi-Similarity": {"loss.name": "multi_similarity", **_PAIRS},
  "Triplet": {"loss.name": "triplet", **_PAIRS},
  "Contrastive": {"loss.name": "contrastive", "loss.margin": 1.0, **_PAIRS},
  "XBM": {
    "loss.name": "contrastive",
    "loss.margin": 1.0,
    "loss.memory_size": 8192,
    **_PAIRS,
  },
}
# A class's first visit: four images of it, contrasted within the batch.
_PAIRS_FIRST = {"data.first_images_per_class": 4, "loss.unvisited": "multi_similarity"}
_CCL_ROWS = "CCL", "CCL, momentum bank", "CCL, repelling bank"
_OURS = *_CCL_ROWS, "ArcFace, repelling bank"
# What ablations compare: the paper's loss, by gradient and over our bank; baselines.
_PAPERS = "CCL", "CCL, repelling bank"
_SOME = *_PAPERS, "NormSoftmax", "Multi-Similarity"

_RATE = {"optimizer.learning_rate": (2e-3, 4e-3, 6e-3, 1e-2)}
_CENTERS_RATE = {"optimizer.centers_learning_rate": (0.01, 0.03, 0.1)}
_SCALE = {"loss.scale": (8.0, 12.0, 16.0, 24.0, 32.0)}
_CCL = {
  **_RATE,
  **_SCALE,
  "loss.margin": (0.0, 0.1, 0.2, 0.3),
  "loss.center_weight": (0.5, 1.0, 2.0, 4.0),
}
_REPELLING = {
  "loss.momentum": (0.7, 0.8, 0.9, 0.95),
  "loss.sharpness": (4.0, 8.0, 12.0),
}
_OF_PAIRS = {**_RATE, "data.images_per_class": (2, 4, 8)}
_SPACES = {
  "CCL": {**_CCL, **_CENTERS_RATE},
  "CCL, momentum bank": {**_CCL, "loss.momentum": (0.3, 0.5, 0.7, 0.9)},
  "CCL, repelling bank": {**_CCL, **_REPELLING},
  "NormSoftmax": {**_RATE, **_CENTERS_RATE, **_SCALE},
  "CosFace": {**_RATE, **_CENTERS_RATE, **_SCALE, "loss.margin": (0.1, 0.2, 0.3)},
  "ArcFace": {**_RATE, **_CENTERS_RATE, **_SCALE, "loss.margin": (0.1, 0.2, 0.3)},
  "ArcFace, repelling bank": {
    **_RATE,
    **_SCALE,
    **_REPELLING,
    "loss.margin": (0.1, 0.2, 0.3),
  },
  "ProxyNCA++": {**_RATE, **_CENTERS_RATE, "loss.temperature": (0.06, 1 / 9, 0.2, 0.3)},
  "Proxy-Anchor": {
    **_RATE,
    **_CENTERS_RATE,
    "loss.scale": (16.0, 24.0, 32.0, 48.0),
    "loss.margin": (0.0, 0.1, 0.2),
  },
  "SoftTriple": {
    **_RATE,
    **_CENTERS_RATE,
    **_SCALE,
    "loss.gamma": (0.05, 0.1, 0.2),
    "loss.margin": (0.01, 0.1, 0.2),
    "loss.centers_per_class": (2, 5),
  },
  "SupCon": {**_OF_PAIRS, "loss.temperature": (0.05, 0.07, 0.1, 0.15)},
  "Multi-Similarity": {
    **_OF_PAIRS,
    "loss.alpha": (1.0, 2.0, 4.0),
    "loss.beta": (20.0, 50.0),
    "loss.base": (0.3, 0.5, 0.7),
  },
  "Triplet": {
    **_OF_PAIRS,
    "loss.margin": (0.1, 0.2, 0.4),
    "loss.mining": ("batch_hard", "semi_hard"),
  },
  "Contrastive": {**_OF_PAIRS, "loss.margin": (0.5, 0.8, 1.1, 1.4)},
  "XBM": {
    **_OF_PAIRS,
    "loss.name": ("contrastive", "supcon"),
    "loss.margin": (0.5, 0.8, 1.1, 1.4),
    "loss.temperature": (0.07, 0.1),
    "loss.memory_size": (512, 2048, 8192),
    "loss.memory_warmup_steps": (0, 300),
  },
}


def get_comparison() -> Comparison:
  """Every loss at two budgets."""
  return fifteen_methods(BASE)


def fifteen_methods(start: Config) -> Comparison:
  """Every loss at two budgets, all else as a config has it."""
  return Comparison(
    methods={name: base.replace(start, m) for name, m in _METHODS.items()},
    columns={f"{steps:,} steps": {"steps": steps} for steps in (1000, 2000)},
    spaces=_SPACES,
    trial={"seed": 100, "data.validation_fraction": 0.3},
    trials=8,
    ours=_OURS,
  )


def with_muon(whole: Comparison) -> dict[str, Comparison]:
  """Studies of the strongest methods by another optimizer, each tuned anew."""
  rows = "CCL, repelling bank", "ArcFace", "ArcFace, repelling bank", "Multi-Similarity"
  rates = {"optimizer.learning_rate": (5e-3, 1e-2, 2e-2, 4e-2)}
  fields = {"optimizer.name": "muon", "optimizer.learning_rate": 1e-2}
  methods = {f"{r}, Muon": base.replace(whole.methods[r], fields) for r in rows}
  tuned_as = {f"{r}, pairs first, Muon": f"{r}, Muon" for r in rows if "bank" in r}
  steps = dataclasses.replace(
    whole,
    methods=methods
    | {r: base.replace(methods[of], _PAIRS_FIRST) for r, of in tuned_as.items()},
    tuned_as=tuned_as,
    columns=_values_of("steps", (500, 1000, 2000, 4000)),
    spaces={f"{r}, Muon": {**whole.spaces[r], **rates} for r in rows},
    metrics=("recall@1", "map@r"),
    ours=(*tuned_as.values(), *tuned_as),
    palette=(*(f"{r}, Muon" for r in whole.methods), *tuned_as),
  )
  return {"steps_muon": steps, "axes_muon": _along_all_axes(steps)}


def _along_all_axes(steps: Comparison) -> Comparison:
  """One setting changed, at 1,000 steps or as many images, for the default's bank."""
  conditions = {
    **_batches_of((16, 64, 256, 512), images=128_000),
    **_values_of("data.images_per_class", (2, 4, 8)),
    **_values_of("model.dim", (16, 32, 64, 256)),
    **_values_of("data.label_noise", (0.2, 0.4)),
  }
  rows = [row for row in steps.spaces if row != "ArcFace, repelling bank, Muon"]
  return dataclasses.replace(
    steps,
    methods={row: steps.methods[row] for row in rows},
    tuned_as={},
    columns={
      column: {"steps": 1000, "eval_every": 100_000, **fields}
      for column, fields in conditions.items()
    },
    spaces={row: steps.spaces[row] for row in rows},
    ours=(rows[0],),
  )


def get_studies() -> dict[str, Comparison]:
  """Ablations: what changes with one setting, all others as the search found them."""
  whole = get_comparison()
  longest = *_PAPERS, "NormSoftmax", "ArcFace", _OURS[-1], "Multi-Similarity"
  pairs = *_PAPERS, "Multi-Similarity"
  bank, repelling = _CCL_ROWS[1:], _CCL_ROWS[2:]
  study = functools.partial(_study, whole)
  return {
    "steps": study(longest, "steps", (500, 1000, 2000, 4000)),
    **with_muon(whole),
    **of_claims(whole),
    "batch_size": study(pairs, "batch_size", (16, 64, 256, 512)),
    "batch_size_same_images": _same_images(whole, pairs, 128_000),
    "imbalance_pairs": study(  # the same batches for all, two images of each class
      _SOME,
      "data.imbalance",
      (1.0, 10.0),
      others={"data.seen_fraction": 1 / 3, "data.images_per_class": 2},
    ),
    "label_noise": study(_SOME, "data.label_noise", (0.0, 0.2, 0.4)),
    "images_per_class": study(
      (*_PAPERS, "SupCon"), "data.images_per_class", (0, 2, 4, 8)
    ),
    "dim": study(_PAPERS, "model.dim", (16, 32, 64, 128, 256)),
    "scale": study(_PAPERS, "loss.scale", (4.0, 8.0, 16.0, 32.0, 64.0)),
    "momentum": study(bank, "loss.momentum", (0.0, 0.5, 0.9, 0.97)),
    "first_visit": study(bank, "loss.first_visit", ("replace", "mix")),
    "sharpness": study(repelling, "loss.sharpness", (None, 0.0, 4.0, 8.0, 16.0)),
  }


def of_claims(whole: Comparison) -> dict[str, Comparison]:
  """Studies of what the paper says of unequal classes, the margin and the pull."""
  return {
    "imbalance": _study(
      whole, _SOME, "data.imbalance", (1.0, 10.0), {"data.seen_fraction": 1 / 3}
    ),
    "margin": _study(whole, _PAPERS, "loss.margin", (0.0, 0.1, 0.2, 0.4)),
    "center_weight": _study(whole, _PAPERS, "loss.center_weight", (0.0, 1.0, 4.0, 8.0)),
  }


def _study(
  whole: Comparison,
  rows: tuple[str, ...],
  field: str,
  values: tuple,
  others: Fields | None = None,
) -> Comparison:
  return dataclasses.replace(
    whole,
    methods={row: whole.methods[row] for row in rows},
    columns={
      column: {"steps": 1000, **fields, **(others or {})}
      for column, fields in _values_of(field, values).items()
    },
    spaces={row: whole.spaces[row] for row in rows},
    metrics=("recall@1", "map@r"),
  )


def _same_images(whole: Comparison, rows: tuple[str, ...], images: int) -> Comparison:
  """Smaller batches for more steps."""
  return dataclasses.replace(
    _study(whole, rows, "batch_size", (128,)),
    columns={
      column: {**fields, "eval_every": fields["steps"] // 4}
      for column, fields in _batches_of((16, 64, 128, 512), images).items()
    },
  )


def _values_of(field: str, values: tuple) -> dict[str, Fields]:
  """Columns that differ in one field."""
  name = field.rpartition(".")[2]
  return {f"{name} {value}": {field: value} for value in values}


def _batches_of(sizes: tuple[int, ...], images: int) -> dict[str, Fields]:
  """Columns of batches of other sizes that see as many images."""
  steps = {size: images // size for size in sizes}
  return {
    f"batch_size {size}, {count:,} steps": {"batch_size": size, "steps": count}
    for size, count in steps.items()
  }
