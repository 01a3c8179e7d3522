"""The card of an exported network: what it is, how good, from what, and its limits."""

import json
import math
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ccl_jax.data.sources import typefaces
from ccl_jax.models import Embedder
from configs import base
from configs.base import Config

MODEL, STABLEHLO, CARD = "model.safetensors", "model.stablehlo", "README.md"

_TEXT = string.Template("""\
# $data: pictures of $width x $height pixels to $dim numbers

A $network of $size numbers, trained with ccl_jax so that pictures of one class lie
close to each other by cosine, those of classes that it has never seen included.

```python
import numpy as np
from ccl_jax import models

embed = models.load("$model")
pictures = np.zeros((2, $height, $width, $channels), np.uint8)  # yours, 0 to 255
embeddings = embed(pictures)  # [2, $dim], not normalized
```

Without ccl_jax: `jax.export.deserialize(bytearray(data)).call(pictures)`, with the
bytes of $stablehlo.

## Measured

By the run itself, on the pictures of $test_classes test classes$views:

| metric | value |
| --- | --- |
$metrics

## Data

$pictures

$train_classes classes trained; $validation_classes more were held out to validate on.

## Training

Seed $seed, $steps steps of $batch_size pictures, loss $loss, $seconds s. Settings that
are not the defaults of ccl_jax: $settings.

Versions: $versions.

## Limits

- The metrics are of one seed, and of pictures made as those of training were: measure
  on yours before you rely on it.
- A picture must have $height x $width pixels and $channels channel(s), and look as
  those of training do.
- It places pictures: it names no class, and gives no probability.
""")
_GLYPHS = """\
Glyphs: pictures of Unicode characters, drawn white on black from {fonts}, and warped
at random. Characters that look alike in any face are one class; half of the
classes train, half test. {licenses}"""
_DEFAULT_LICENSES = """\
No font is part of these files. DejaVu 2.37 is under the
Bitstream Vera and Arev licenses, with its own changes in the public domain; STIX
General is under the STIX Font License of 2010. matplotlib ships both texts beside the
fonts (LICENSE_DEJAVU, LICENSE_STIX)."""
# Of files of the machine that trained, a card tells the name alone.
_PATHS = ("data.data_dir", "data.fonts", "data.images", "data.lists", "model.weights")
_OTHER_LICENSES = (
  "The license is that of their source, which the run does not\nknow: look it up before"
  " you publish the network."
)


def about(config: Config, result: Mapping[str, Any]) -> dict[str, str]:
  """What the header of the file says of the run."""
  return {
    "data": config.data.name,
    "loss": config.loss.name,
    "seed": str(config.seed),
    "steps": str(result["steps"]),
    "metrics": json.dumps(_metrics(result)),
    "test_views": str(config.data.test_views),  # of the metrics
    "versions": json.dumps(result["versions"]),
  }


def text(config: Config, result: Mapping[str, Any], embedder: Embedder) -> str:
  """The card, as Markdown."""
  height, width, channels = embedder.image_shape
  one = jax.ShapeDtypeStruct((1, *embedder.image_shape), "uint8")
  leaves = jax.tree.leaves(embedder.variables)
  classes, defaults = result["classes"], base.fields(Config())
  changed = {k: v for k, v in base.fields(config).items() if v != defaults[k]}
  changed |= {k: Path(changed[k]).name for k in _PATHS if changed.get(k)}
  rows = (f"| {name} | {value:.4f} |" for name, value in _metrics(result).items())
  return _TEXT.substitute(
    data=config.data.name,
    height=height,
    width=width,
    channels=channels,
    dim=jax.eval_shape(embedder, one).shape[1],
    network=type(embedder.network).__name__,
    size=f"{sum(math.prod(leaf.shape) for leaf in leaves):,}",
    model=MODEL,
    stablehlo=STABLEHLO,
    metrics="\n".join(rows),
    pictures=_pictures(config),
    train_classes=f"{classes['train']:,}",
    validation_classes=f"{classes['validation']:,}",
    test_classes=f"{classes['test']:,}",
    views=_views(config),
    seed=config.seed,
    steps=f"{result['steps']:,}",
    batch_size=config.batch_size,
    loss=config.loss.name,
    seconds=f"{result['seconds']:.0f}",
    settings=_listed(changed) or "none",
    versions=_listed(result["versions"]),
  )


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
  found = {name: value for name, value in result.items() if isinstance(value, float)}
  del found["seconds"]
  return found


def _views(config: Config) -> str:
  """Says where the metrics are of more than what the exported network sees."""
  if config.data.test_views == 1:
    return ""
  return (
    f", each by the\nmean of {config.data.test_views} views of it, where `embed` takes"
    " one and finds less"
  )


def _listed(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{name} {value}" for name, value in values.items())


def _pictures(config: Config) -> str:
  if config.data.name == "glyphs":
    if config.data.fonts is not None:
      return _GLYPHS.format(fonts="a folder of fonts", licenses=_OTHER_LICENSES)
    fonts = f"{len(typefaces.DEFAULT_FONTS)} faces of\nDejaVu and STIX General"
    return _GLYPHS.format(fonts=fonts, licenses=_DEFAULT_LICENSES)
  name = config.data.tfds_name or config.data.name
  kind = "A folder of pictures" if name == "folder" else f"The pictures of {name}"
  return f"{kind}. {_OTHER_LICENSES}"
