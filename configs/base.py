"""The schema of an experiment: every field and its default, once.

Read by `experiments` alone; the library takes explicit arguments.
"""

import dataclasses
import math
from typing import Literal

_COUNTS = (
  "image_size",
  "dim",
  "steps",
  "batch_size",
  "log_every",
  "eval_every",
  "checkpoint_every",
  "keep_checkpoints",
  "views",
  "neighbours",
)
LossName = Literal[
  "center_contrastive",
  "normalized_softmax",
  "cosface",
  "cross_entropy",
  "nt_xent",
  "supcon",
  "contex",
  "contex_p",
]
ViewName = Literal["none", "warp", "warp_and_grey", "crop_and_flip", "simclr"]
DatasetName = Literal[
  "glyphs", "folder", "biased_glyphs", "biased_mnist", "tfds", "utkface"
]


@dataclasses.dataclass
class Config:
  """All that a run depends on. Rates are per step; sizes are of the global batch."""

  seed: int = 0  # of parameters, data order, views and held-out classes

  # Data.
  dataset: DatasetName = "glyphs"  # embedded, a folder of yours, or one that TFDS has
  data_dir: str | None = None  # where TFDS keeps datasets; None: its own default
  fonts: str | None = None  # glyphs: a folder of .ttf/.otf in place of the 16 faces
  images: str | None = None  # folder, utkface: the root of the image files
  tfds_name: str | None = None  # tfds: which dataset, as TFDS spells it
  tfds_train: str = "train"  # tfds: the split that trains
  tfds_test: str = "test"  # tfds: the split that tests
  label: str = "label"  # tfds: the feature that is the class
  bias: str | None = None  # tfds: an attribute that may stand in for the label
  rho: float = 0.99  # biased_glyphs, biased_mnist: how often the colour tells the class
  image_size: int = 32  # pixels; pictures of another size are resized and cropped
  channels: Literal[1, 3] = 1  # grey or RGB
  validation_fraction: float = 0.1  # of the train classes (or images) held out
  view: ViewName = "warp"  # random change of an image; simclr: crop, flip, jitter, grey
  views: int = 1  # V, rows that each image takes of a batch, each its own random change
  num_workers: int = 0  # processes that decode images; 0: threads of this one

  # Model.
  dim: int = 128  # D, length of an embedding
  widths: tuple[int, int] = (96, 128)  # channels of its first two layers
  depth: int = 1  # residual 3 x 3 convolutions after them, the slow part on a CPU
  projection: tuple[int, ...] = ()  # dense layers that only the loss sees, if any

  # Loss. Which of the numbers a loss reads: its docstring in ccl_jax.losses.
  loss: LossName = "center_contrastive"  # what is minimised
  centers: Literal["trained", "bank"] = "trained"  # by gradient, or by momentum
  scale: float = 16.0  # s; normalized_softmax: 1 / temperature
  margin: float = 0.2  # m, in units of cosine
  center_weight: float = 2.0  # lambda of the pull to the own center
  temperature: float = 0.1  # tau of nt_xent, supcon and contex
  momentum: float = 0.5  # mu of the bank; of no effect on trained centers

  # Optimizer: by default AdamW for the model, Adam for what the loss trains.
  optimizer: Literal["adamw", "sgd"] = "adamw"  # with warm-up and cosine, both
  learning_rate: float = 3e-3  # peak, of the model
  centers_learning_rate: float = 0.03  # peak, of trained centers
  weight_decay: float = 0.02  # of the model's matrices
  warmup_fraction: float = 0.03  # of the steps, in which the rates rise linearly

  # Run.
  steps: int = 2000  # in all
  batch_size: int = 128  # of all devices together
  parallel: Literal["jit", "pmap"] = "jit"  # how the step is spread over devices
  log_every: int = 20  # steps between lines of metrics.jsonl
  eval_every: int = 500  # steps between evaluations on validation classes
  checkpoint_every: int = 500  # steps between checkpoints
  keep_checkpoints: int = 2  # how many of the newest stay
  recall_at: tuple[int, ...] = (1, 2, 4, 8)  # the K of Recall@K
  probe: Literal["none", "lbfgs", "sgd"] = "none"  # of frozen features, by train images
  neighbours: int = 10  # with a probe: of the k-nearest-neighbour accuracy

  def __post_init__(self):
    """Raises ValueError for a number that no run can use."""
    for name in _COUNTS:
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
    for name in ("scale", "temperature", "learning_rate", "centers_learning_rate"):
      if not 0 < getattr(self, name) < math.inf:
        raise ValueError(f"{name}={getattr(self, name)}: expected a number above 0")
    for name in ("momentum", "validation_fraction", "warmup_fraction", "rho"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name}={getattr(self, name)}: expected 0 to 1")
    for name in ("seed", "num_workers", "weight_decay", "depth"):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
    if len(self.widths) != 2 or min(*self.widths, *self.projection, 1) < 1:
      raise ValueError(
        f"widths={self.widths}, projection={self.projection}: expected two widths, and"
        " each 1 or more"
      )
    if self.views > 1 and self.view == "none":
      raise ValueError(
        f"views={self.views} with view=none would all be the same: choose a view"
      )
    if not self.recall_at or min(self.recall_at) < 1:
      raise ValueError(f"recall_at={self.recall_at}: expected integers of 1 or more")
