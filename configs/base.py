"""The schema of an experiment: every field, its bounds and its default, once.

Read by `experiments` alone; the library takes explicit arguments. A field's full name
is `SECTION.FIELD`, or `FIELD` for those of the run itself: so it stands on the command
line (`--config.loss.scale=16`), in config.json and in stored results.
"""

import dataclasses
import functools
import itertools
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple


class Bound(NamedTuple):
  """What a number must be."""

  expected: str
  holds: Callable[[Any], bool]


Count = Annotated[int, Bound("1 or more", lambda n: n >= 1)]
Natural = Annotated[int, Bound("0 or more", lambda n: n >= 0)]
Positive = Annotated[float, Bound("a number above 0", lambda x: 0 < x < math.inf)]
NonNegative = Annotated[float, Bound("0 or more", lambda x: 0 <= x < math.inf)]
AtLeastOne = Annotated[float, Bound("1 or more", lambda x: 1 <= x < math.inf)]
Finite = Annotated[float, Bound("a finite number", math.isfinite)]
Fraction = Annotated[float, Bound("0 to 1", lambda x: 0 <= x <= 1)]
Part = Annotated[float, Bound("above 0, at most 1", lambda x: 0 < x <= 1)]

# The losses that can be contrasted with a memory.
PAIR_LOSSES = ("contrastive", "multi_similarity", "supcon", "triplet")


@dataclasses.dataclass
class Data:
  """The images of a run, and how a batch is made of them."""

  name: Literal[
    "glyphs",
    "folder",
    "cub",
    "cars",
    "sop",
    "inshop",
    "biased_glyphs",
    "biased_mnist",
    "omniglot",
    "tfds",
    "utkface",
    "features",
  ] = "glyphs"  # embedded, a folder of yours, or a known benchmark
  data_dir: str | None = None  # where TFDS keeps datasets; None: its own default
  fonts: str | None = None  # glyphs: a folder of .ttf/.otf in place of the 16 faces
  images: str | None = None  # the root of class/image files, or a benchmark's archive
  features: str | None = None  # features: an .npz file of embeddings, or a folder
  classes: int | None = None  # benchmarks: the first N of each split, for a trial
  tfds_name: str | None = None  # tfds: the dataset, as TFDS spells it
  tfds_train: str = "train"  # tfds: the split that trains
  tfds_test: str = "test"  # tfds: the split that tests
  lists: str | None = None  # omniglot: a folder with trainval.txt and test.txt
  label: str = "label"  # tfds: the feature that is the class
  bias: str | None = None  # tfds: an attribute that may stand in for the label
  rho: Fraction = 0.99  # biased_*: share of train images whose color tells the class
  image_size: Count = 32  # pixels; pictures of another size are resized and cropped
  channels: Literal[1, 3] = 1  # gray or RGB
  shorter_side: int | None = None  # pixels of pictures before their central cut
  validation_fraction: Fraction = 0.1  # share of train classes (or images) held out
  unseen_classes: bool = False  # train on the first half of the classes, test on others
  seen_fraction: Fraction = 0.0  # share of each train class set aside to test on
  turned_classes: Literal["none", "train", "all"] = "none"  # quarter turns as classes
  imbalance: AtLeastOne = 1.0  # images of the most frequent class / of the rarest
  label_noise: Fraction = 0.0  # share of the train labels that are made wrong
  view: Literal[
    "none",
    "warp",
    "warp_far",
    "warp_and_gray",
    "crop_and_flip",
    "simclr",
    "photo",
    "photo_color",
  ] = "warp"  # random change of an image; photo: cut while it is decoded
  smallest_crop: Part = 0.2  # photo: the least share of a picture's area
  views: Count = 1  # V: rows of a batch for each image, each changed by its own draw
  test_views: Count = 1  # averaged for a test image: itself, and views drawn for it
  images_per_class: Natural = 0  # M in a batch; 0: shuffled without regard to classes
  first_images_per_class: Natural = 0  # M until each class was in a batch; 0: as later
  num_workers: Natural = 0  # processes that decode images; 0: threads of this process


@dataclasses.dataclass
class Model:
  """The network from images to embeddings."""

  name: Literal[
    "glyph_net",
    "conv_net",
    "resnet18",
    "resnet20",
    "resnet50",
    "vit_small",
    "vit_base",
    "vit_large",
    "head",
  ] = "glyph_net"  # which
  dim: Count = 128  # D, length of an embedding
  widths: tuple[Count, Count] = (96, 128)  # channels of glyph_net's first two layers
  depth: Natural = 1  # glyph_net: residual 3 x 3 convolutions, the slow part on a CPU
  hidden: tuple[Count, ...] = ()  # head: widths before the last layer; none: linear
  projection: tuple[Count, ...] = ()  # dense layers that only the loss sees
  weights: str | None = None  # resnet, vit: .safetensors or .pth file to start from
  pooling: Literal["average", "max", "sum"] = "average"  # resnet: over positions
  layer_norm: bool = False  # resnet: normalize pooled features before the embedding
  frozen_batch_norm: bool = False  # resnet: keep the running statistics in training
  small_images: bool = False  # resnet: a stem for sides of 32 or so; no weights fit
  patch: Count = 14  # vit: side of a patch in pixels
  grid: Count = 37  # vit: position embeddings a side; 14 in most files of timm
  registers: Natural = 0  # vit: tokens beside the class token; 4 in "reg4" files
  tokens: Literal["class", "mean", "both"] = "class"  # vit: what is embedded
  trained_blocks: Natural | None = None  # vit: the last ones alone train; 0: the head
  remat: bool = False  # vit: less memory for a second computation of each block
  compute_dtype: Literal["float32", "bfloat16"] = "float32"  # resnet, vit: its backbone


@dataclasses.dataclass
class Loss:
  """What is minimized, and the class vectors that it is contrasted with.

  A number that is None is the loss's own: the default of the function in
  `ccl_jax.losses`, published where one is, whose docstring says what it means. A loss
  reads the numbers that its signature names.
  """

  name: Literal[
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
    "prototypical",
  ] = "center_contrastive"  # the loss
  centers: Literal["trained", "bank"] = "trained"  # by gradient, or by momentum
  scale: Positive | None = None  # s; normalized_softmax: 1 / temperature
  margin: Finite | None = None  # m: a cosine; arcface: an angle; triplet: a distance
  center_weight: Finite | None = None  # lambda of the pull to the own center
  temperature: Positive | None = (
    None  # tau of nt_xent, supcon, contex; T of proxy_nca, prototypical
  )
  momentum: Fraction = 0.9  # bank: mu
  first_visit: Literal["replace", "mix"] = "replace"  # bank: of a random center
  # bank: the loss of rows whose class no batch has visited; bank: as of all others
  unvisited: Literal["bank", "multi_similarity", "supcon"] = "bank"
  sharpness: NonNegative | None = 8.0  # bank: of its repulsion; none: class means
  memory_size: Natural = 0  # past embeddings that a loss over pairs sees too
  memory_warmup_steps: Natural = 0  # first steps, in which that memory only fills
  prefixes: tuple[Count, ...] = ()  # lengths of an embedding that serve alone, too
  sample_rate: Part = 1.0  # share of the other classes that a step contrasts with
  centers_per_class: Count = 10  # soft_triple: C
  gamma: Positive | None = None  # soft_triple: temperature among a class's centers
  regularizer: Finite | None = None  # soft_triple: draws a class's centers together
  alpha: Positive | None = None  # multi_similarity: sharpness of the positives
  beta: Positive | None = None  # multi_similarity: sharpness of the negatives
  base: Finite | None = None  # multi_similarity: cosine between the two kinds
  epsilon: float | None = None  # multi_similarity: slack of its miner; inf: all pairs
  mining: Literal["batch_hard", "semi_hard"] | None = None  # triplet: which triplets


@dataclasses.dataclass
class Optimizer:
  """AdamW or Muon for the model and Adam for trained centers, or SGD; by a cosine."""

  name: Literal["adamw", "muon", "sgd"] = "adamw"  # with warm-up and cosine, all
  learning_rate: Positive = 3e-3  # peak, of the model
  backbone_learning_rate: Positive | None = None  # peak, of resnet, vit without head
  frozen_backbone_fraction: Fraction = 0.0  # share of steps that train the head alone
  centers_learning_rate: Positive = 0.03  # peak, of trained centers
  weight_decay: NonNegative = 0.02  # of the model's matrices
  warmup_fraction: Fraction = 0.03  # share of steps in which the rates rise linearly


SECTIONS = {"data": Data, "model": Model, "loss": Loss, "optimizer": Optimizer}


@dataclasses.dataclass
class Config:
  """All that a run depends on. Rates are per step; sizes are of the global batch."""

  seed: Natural = 0  # of parameters, data order, views and held-out classes
  steps: Count = 2000  # in all
  batch_size: Count = 128  # images of all devices together
  accumulate: Count = 1  # parts of a batch that are embedded one after the other
  parallel: Literal["jit", "pmap", "class_sharded"] = "jit"  # how devices share a step
  class_shards: Natural = 0  # class_sharded: devices that share the centers; 0: all
  log_every: Count = 20  # steps between lines of metrics.jsonl
  eval_every: Count = 500  # steps between evaluations on validation classes
  checkpoint_every: Count = 500  # steps between checkpoints
  profile_steps: Natural = 0  # traced for TensorBoard, from the third step on
  keep_checkpoints: Count = 2  # how many of the newest stay
  recall_at: tuple[Count, ...] = (1, 2, 4, 8)  # the K of Recall@K
  probe: Literal["none", "lbfgs", "sgd"] = "none"  # of frozen features, by train images
  neighbors: Count = 10  # with a probe: K of the k-nearest-neighbor accuracy
  few_shot_tasks: Natural = 0  # of each kind, of the test classes; 0: none
  init_from: str | None = None  # a run's folder to start from, as --init-from gives it

  data: Data = dataclasses.field(default_factory=Data)
  model: Model = dataclasses.field(default_factory=Model)
  loss: Loss = dataclasses.field(default_factory=Loss)
  optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

  def __post_init__(self):
    """Raises ValueError for a value, or a pair of values, that no run can use."""
    for name, section in SECTIONS.items():
      if not isinstance(getattr(self, name), section):
        given = getattr(self, name)
        raise TypeError(f"{name}={given!r}: expected a configs.base.{section.__name__}")
    values = fields(self)
    for name, hint in hints(include_extras=True).items():
      _check_bound(name, values[name], hint)
    _check_memory(self)
    _check_backbone(self)
    _check_frozen(self)
    _check_features(self)
    if self.init_from is not None and self.model.weights is not None:
      raise ValueError(
        f"init_from={self.init_from} with model.weights={self.model.weights}: give one"
      )
    if self.loss.first_visit == "mix" and self.loss.centers != "bank":
      raise ValueError(
        f"loss.first_visit=mix with loss.centers={self.loss.centers}: only a bank has"
        " visits"
      )
    if self.loss.unvisited != "bank" and (
      self.loss.centers != "bank" or self.loss.first_visit == "mix"
    ):
      raise ValueError(
        f"loss.unvisited={self.loss.unvisited} with loss.centers={self.loss.centers},"
        f" loss.first_visit={self.loss.first_visit}: only a bank with first_visit"
        "=replace has classes without a center"
      )
    for name in ("views", "test_views"):
      if (count := getattr(self.data, name)) > 1 and self.data.view == "none":
        raise ValueError(
          f"data.{name}={count} with data.view=none would all be the same: choose a"
          " view"
        )
    if self.few_shot_tasks == 1:
      raise ValueError("few_shot_tasks=1 have no interval: expected 0, or 2 or more")
    if not self.recall_at:
      raise ValueError("recall_at is empty: expected integers of 1 or more")


def fields(config: Config) -> dict[str, Any]:
  """Full name -> value of every field."""
  own = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
  sections = {name: own.pop(name) for name in SECTIONS}
  for name, section in sections.items():
    own |= {f"{name}.{field}": value for field, value in vars(section).items()}
  return own


def replace(config: Config, values: Mapping[str, Any]) -> Config:
  """A copy with other values, by full name: `{"steps": 100, "loss.scale": 16.0}`.

  Raises:
    TypeError: a name that is no field.
    ValueError: a value that no run can use.
  """
  sections: dict[str, dict[str, Any]] = {}
  for name, value in values.items():
    section, _, field = name.rpartition(".")
    sections.setdefault(section, {})[field] = value
  own = sections.pop("", {})
  changed = {
    name: dataclasses.replace(getattr(config, name), **sections.pop(name, {}))
    for name in SECTIONS
  }
  if sections:
    raise TypeError(f"no section {sorted(sections)}: expected some of {[*SECTIONS]}")
  return dataclasses.replace(config, **changed, **own)


@functools.cache
def hints(*, include_extras: bool = False) -> Mapping[str, Any]:
  """Full name -> type of every field."""
  found = typing.get_type_hints(Config, include_extras=include_extras)
  for name, section in SECTIONS.items():
    del found[name]
    own = typing.get_type_hints(section, include_extras=include_extras)
    found |= {f"{name}.{field}": hint for field, hint in own.items()}
  return types.MappingProxyType(found)


def _check_bound(name: str, value: Any, hint: Any) -> None:
  """Raises ValueError for a number out of the bound that its type names."""
  parts, args = [value], typing.get_args(hint)
  if typing.get_origin(hint) is tuple:
    parts, hint = list(value), args[0]
    if Ellipsis not in args and len(parts) != len(args):
      raise ValueError(f"{name}={value}: expected {len(args)} numbers")
  for part, bound in itertools.product(parts, _bounds(hint)):
    if part is not None and not bound.holds(part):
      raise ValueError(f"{name}={value}: expected {bound.expected}")


def _bounds(hint: Any) -> Iterator[Bound]:
  """The bounds of a type, or of the types that it is a union of."""
  yield from (part for part in getattr(hint, "__metadata__", ()))
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    for part in typing.get_args(hint):
      yield from _bounds(part)


def _check_memory(config: Config) -> None:
  size, rows = config.loss.memory_size, config.batch_size * config.data.views
  if size and config.loss.name not in PAIR_LOSSES:
    raise ValueError(
      f"loss.memory_size={size} with loss.name={config.loss.name}: only"
      f" {', '.join(PAIR_LOSSES)} can be contrasted with a memory"
    )
  if 0 < size < rows:
    raise ValueError(
      f"loss.memory_size={size} is less than the {config.batch_size} x"
      f" {config.data.views} rows of a batch: give more, or 0 for no memory"
    )


def _check_backbone(config: Config) -> None:
  model, optimizer = config.model, config.optimizer
  for name, value in (
    ("model.weights", model.weights),
    ("optimizer.backbone_learning_rate", optimizer.backbone_learning_rate),
  ):
    has_own = model.name.startswith(("resnet", "vit")) and not model.projection
    if value is not None and not has_own:
      raise ValueError(
        f"{name}={value}: only a ResNet or ViT (model.name) without a projection has a"
        " backbone of its own"
      )
  if optimizer.backbone_learning_rate is None and optimizer.frozen_backbone_fraction:
    raise ValueError(
      f"optimizer.frozen_backbone_fraction={optimizer.frozen_backbone_fraction}: give"
      " the optimizer.backbone_learning_rate of the steps afterwards"
    )
  if optimizer.backbone_learning_rate is not None and optimizer.name != "adamw":
    raise ValueError(
      f"optimizer.backbone_learning_rate={optimizer.backbone_learning_rate}: only"
      " optimizer.name=adamw has it"
    )


def _check_frozen(config: Config) -> None:
  model, optimizer = config.model, config.optimizer
  if model.trained_blocks is None:
    return
  if not model.name.startswith("vit") or model.projection or optimizer.name != "adamw":
    raise ValueError(
      f"model.trained_blocks={model.trained_blocks}: only a ViT (model.name) without a"
      " projection, by optimizer.name=adamw, can be trained in part"
    )


def _check_features(config: Config) -> None:
  stored, head = config.data.name == "features", config.model.name == "head"
  if stored != head:
    raise ValueError(
      f"model.name={config.model.name} with data.name={config.data.name}: a head goes"
      " with features, and features with a head"
    )
  if stored and config.data.view != "none":
    raise ValueError(
      f"data.view={config.data.view} with data.name=features: embeddings are no"
      " pictures; give none"
    )
