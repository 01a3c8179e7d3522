"""Networks from images to embeddings; any of them can be swapped for your own.

`load` gives a trained one as a function of pictures; `save` writes its file.
"""

from ccl_jax.models import (
  conv_net,
  glyph_net,
  head,
  import_torch,
  model_file,
  projection,
  resnet,
  vit,
)
from ccl_jax.models.model_file import Embedder, load, save

__all__ = [
  "Embedder",
  "conv_net",
  "glyph_net",
  "head",
  "import_torch",
  "load",
  "model_file",
  "projection",
  "resnet",
  "save",
  "vit",
]
