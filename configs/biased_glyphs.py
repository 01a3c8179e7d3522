"""BiasedGlyphs: does the network see the digit, or the color that goes along with it?

Paper: Context-Enriched Contrastive Loss, https://arxiv.org/abs/2512.02152; the data and
all settings but the loss and its temperature are this project's own.
Expected: unbiased accuracy .734 by the linear probe, .658 by ten neighbors.
Wall time: 8 minutes on two loaded CPU cores, 3 minutes of CPU time.
Command: python -m experiments.train --config=configs/biased_glyphs.py \
  --workdir=runs/biased_glyphs
The table over losses and rho: python -m experiments.compare \
  --config=configs/biased_glyphs.py --results=experiments/results/biased_glyphs
"""

from configs import base
from configs.base import Config, Data, Loss, Model, Optimizer
from configs.comparison import AS_STORED, Comparison

# Of the published views only the gray one: a digit that is mirrored or cut out of its
# picture is another digit, and a jittered hue would blur the colors that are the bias.
# The warp stands in for the others.
_VIEW = "warp_and_gray"
_RHOS = (0.999, 0.997, 0.995, 0.99, 0.95)
_METHODS = {
  "cross-entropy": {"loss.name": "cross_entropy", "model.projection": ()},
  "SimCLR": {"loss.name": "nt_xent"},
  "SupCon": {"loss.name": "supcon"},
  "ConTeX": {"loss.name": "contex"},
  "ConTeX-p": {"loss.name": "contex_p"},
  "CCL": {"loss.name": "center_contrastive"},
}


def get_config() -> Config:
  return Config(
    batch_size=64,
    steps=3000,
    eval_every=1000,
    checkpoint_every=1000,
    probe="lbfgs",
    data=Data(
      name="biased_glyphs",
      rho=0.95,
      channels=3,
      view=_VIEW,
      views=2,
      validation_fraction=0.0,
    ),
    model=Model(dim=128, depth=0, projection=(128, 64)),
    loss=Loss(name="contex", temperature=0.1),
    optimizer=Optimizer(warmup_fraction=0.1),
  )


def get_comparison() -> Comparison:
  """Each method at each rho, small enough for 150 runs on one core."""
  small = base.replace(
    get_config(),
    {
      "data.image_size": 16,
      "model.widths": (64, 128),
      "model.dim": 64,
      "model.projection": (64, 32),
      "steps": 1000,
      **AS_STORED,
    },
  )
  return Comparison(
    methods={name: base.replace(small, m) for name, m in _METHODS.items()},
    columns={f"rho {rho}": {"data.rho": rho} for rho in _RHOS},
    metrics=("probe unbiased",),
  )
