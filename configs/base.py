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
  "neighbors",
  "centers_per_class",
)
_FINITE = ("margin", "center_weight", "regularizer", "alpha", "beta", "base", "gamma")
DatasetName = Literal[
  "glyphs",
  "folder",
  "cub",
  "cars",
  "sop",
  "inshop",
  "biased_glyphs",
  "biased_mnist",
  "tfds",
  "utkface",
]
ViewName = Literal[
  "none", "warp", "warp_and_gray", "crop_and_flip", "simclr", "photo", "photo_color"
]
LossName = Literal[
  "center_contrastive",
  "normalized_softmax",
  "cosface",
  "arcface",
  "proxy_nca",
  "proxy_anchor",
  "soft_triple",
  "cross_entropy",
  "nt_xent",
  "supcon",
  "contex",
  "contex_p",
  "multi_similarity",
  "triplet",
  "contrastive",
]
# Those that can be contrasted with a memory.
PAIR_LOSSES = ("contrastive", "multi_similarity", "supcon", "triplet")


@dataclasses.dataclass
class Config:
  """All that a run depends on. Rates are per step; sizes are of the global batch."""

  seed: int = 0  # of parameters, data order, views and held-out classes

  # Data.
  dataset: DatasetName = "glyphs"  # embedded, a folder of yours, or a known one
  data_dir: str | None = None  # where TFDS keeps datasets; None: its own default
  fonts: str | None = None  # glyphs: a folder of .ttf/.otf in place of the 16 faces
  images: str | None = None  # the root of class/image files, or a benchmark's archive
  classes: int | None = None  # benchmarks: so many of each split, for a trial; or all
  tfds_name: str | None = None  # tfds: which dataset, as TFDS spells it
  tfds_train: str = "train"  # tfds: the split that trains
  tfds_test: str = "test"  # tfds: the split that tests
  label: str = "label"  # tfds: the feature that is the class
  bias: str | None = None  # tfds: an attribute that may stand in for the label
  rho: float = 0.99  # biased_glyphs, biased_mnist: how often the color tells the class
  image_size: int = 32  # pixels; pictures of another size are resized and cropped
  channels: Literal[1, 3] = 1  # gray or RGB
  validation_fraction: float = 0.1  # of the train classes (or images) held out
  imbalance: float = 1.0  # of a long tail of rare train classes; 1: as it is
  label_noise: float = 0.0  # of the train labels that are wrong
  seen_fraction: float = 0.0  # of each train class's images, set aside to test on
  shorter_side: int | None = None  # that pictures get before the central cut
  view: ViewName = "warp"  # random change of an image; photo: cut as it is decoded
  smallest_crop: float = 0.2  # photo: the least part of a picture's area
  views: int = 1  # V, rows that each image takes of a batch, each its own random change
  images_per_class: int = 0  # M, of each class of a batch; 0: shuffled, as they come
  num_workers: int = 0  # processes that decode images; 0: threads of this one

  # Model.
  model: Literal["glyph_net", "resnet18", "resnet50"] = "glyph_net"  # the network
  dim: int = 128  # D, length of an embedding
  widths: tuple[int, int] = (96, 128)  # channels of glyph_net's first two layers
  depth: int = 1  # residual 3 x 3 convolutions after them, the slow part on a CPU
  projection: tuple[int, ...] = ()  # dense layers that only the loss sees, if any
  weights: str | None = None  # resnet: .safetensors or .pth file to start from
  pooling: Literal["average", "max", "sum"] = "average"  # resnet: over positions
  layer_norm: bool = False  # resnet: normalize pooled features before the embedding
  frozen_batch_norm: bool = False  # resnet: keep the running statistics in training
  small_images: bool = False  # resnet: a stem for sides of 32 or so; no weights fit
  compute_dtype: Literal["float32", "bfloat16"] = "float32"  # resnet: in its backbone

  # Loss. Its numbers are None where they are the loss's own: the defaults, published
  # where they are, of the function in ccl_jax.losses, which also says what they mean. A
  # loss reads those that its signature names.
  loss: LossName = "center_contrastive"  # what is minimized
  centers: Literal["trained", "bank"] = "trained"  # by gradient, or by momentum
  scale: float | None = None  # s; normalized_softmax: 1 / temperature
  margin: float | None = None  # m: a cosine; arcface: an angle; triplet: a distance
  center_weight: float | None = None  # lambda of the pull to the own center
  temperature: float | None = None  # tau of nt_xent, supcon, contex; T of proxy_nca
  momentum: float = 0.9  # mu of the bank; of no effect on trained centers
  first_visit: Literal["replace", "mix"] = "replace"  # of a class's random center
  sharpness: float | None = 8.0  # tau of the bank's repulsion; none: class means
  memory_size: int = 0  # past embeddings that a loss over pairs sees too; 0: none
  memory_warmup_steps: int = 0  # first steps, in which that memory only fills
  sample_rate: float = 1.0  # part of the other classes that a step contrasts with
  centers_per_class: int = 10  # C of soft_triple
  gamma: float | None = None  # soft_triple: temperature among a class's centers
  regularizer: float | None = None  # soft_triple: draws a class's centers together
  alpha: float | None = None  # multi_similarity: sharpness of the positives
  beta: float | None = None  # multi_similarity: sharpness of the negatives
  base: float | None = None  # multi_similarity: cosine between the two kinds
  epsilon: float | None = None  # multi_similarity: slack of its miner; inf: all pairs
  mining: Literal["batch_hard", "semi_hard"] | None = None  # of triplet

  # Optimizer: by default AdamW for the model, Adam for what the loss trains.
  optimizer: Literal["adamw", "sgd"] = "adamw"  # with warm-up and cosine, both
  learning_rate: float = 3e-3  # peak, of the model
  backbone_learning_rate: float | None = None  # peak, of a resnet without its head
  frozen_backbone_fraction: float = 0.0  # of the steps, in which only the head learns
  centers_learning_rate: float = 0.03  # peak, of trained centers
  weight_decay: float = 0.02  # of the model's matrices
  warmup_fraction: float = 0.03  # of the steps, in which the rates rise linearly

  # Run.
  steps: int = 2000  # in all
  batch_size: int = 128  # of all devices together
  parallel: Literal["jit", "pmap", "class_sharded"] = "jit"  # how devices share a step
  class_shards: int = 0  # class_sharded: devices that share the centers; 0: all
  log_every: int = 20  # steps between lines of metrics.jsonl
  eval_every: int = 500  # steps between evaluations on validation classes
  checkpoint_every: int = 500  # steps between checkpoints
  keep_checkpoints: int = 2  # how many of the newest stay
  recall_at: tuple[int, ...] = (1, 2, 4, 8)  # the K of Recall@K
  probe: Literal["none", "lbfgs", "sgd"] = "none"  # of frozen features, by train images
  neighbors: int = 10  # with a probe: of the k-nearest-neighbor accuracy

  def __post_init__(self):
    """Raises ValueError for a number that no run can use."""
    for name in _COUNTS:
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
    for name in (
      "scale",
      "temperature",
      "gamma",
      "alpha",
      "beta",
      "learning_rate",
      "centers_learning_rate",
      "smallest_crop",
    ):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name}={value}: expected a number above 0")
    for name in (
      "momentum",
      "validation_fraction",
      "warmup_fraction",
      "frozen_backbone_fraction",
      "smallest_crop",
      "rho",
      "label_noise",
      "seen_fraction",
    ):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name}={getattr(self, name)}: expected 0 to 1")
    for name in (
      "seed",
      "images_per_class",
      "memory_size",
      "memory_warmup_steps",
      "num_workers",
      "weight_decay",
      "class_shards",
      "depth",
    ):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
    for name in _FINITE:
      value = getattr(self, name)
      if value is not None and not math.isfinite(value):
        raise ValueError(f"{name}={value}: expected a finite number")
    if self.sharpness is not None and not 0 <= self.sharpness < math.inf:
      raise ValueError(
        f"sharpness={self.sharpness}: expected 0 or more, or none for class means"
      )
    if self.first_visit == "mix" and self.centers != "bank":
      raise ValueError(
        f"first_visit=mix with centers={self.centers}: only centers=bank has visits"
      )
    if not 1 <= self.imbalance < math.inf:
      raise ValueError(f"imbalance={self.imbalance}: expected 1 or more")
    if not 0 < self.sample_rate <= 1:
      raise ValueError(f"sample_rate={self.sample_rate}: expected above 0, at most 1")
    if self.memory_size and self.loss not in PAIR_LOSSES:
      raise ValueError(
        f"memory_size={self.memory_size} with loss={self.loss}: only"
        f" {', '.join(PAIR_LOSSES)} can be contrasted with a memory"
      )
    if 0 < self.memory_size < self.batch_size * self.views:
      raise ValueError(
        f"memory_size={self.memory_size} is less than the {self.batch_size} x"
        f" {self.views} rows of a batch: give more, or 0 for no memory"
      )
    for name in ("weights", "backbone_learning_rate"):
      if getattr(self, name) is None:
        continue
      if self.model == "glyph_net" or self.projection:
        raise ValueError(
          f"{name}={getattr(self, name)}: only model=resnet50 or resnet18 without a"
          " projection has a backbone of its own"
        )
    if self.backbone_learning_rate is None and self.frozen_backbone_fraction:
      raise ValueError(
        f"frozen_backbone_fraction={self.frozen_backbone_fraction}: give the"
        " backbone_learning_rate of the steps afterwards"
      )
    if self.backbone_learning_rate is not None:
      if not 0 < self.backbone_learning_rate < math.inf:
        raise ValueError(
          f"backbone_learning_rate={self.backbone_learning_rate}: expected a number"
          " above 0"
        )
      if self.optimizer == "sgd":
        raise ValueError(
          f"backbone_learning_rate={self.backbone_learning_rate}: only adamw has it"
        )
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
