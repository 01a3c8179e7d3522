"""Fifteen methods on Omniglot: does what wins on Glyphs win on real strokes?

Paper: Center Contrastive Loss for Metric Learning, https://arxiv.org/abs/2308.00458;
the network, the search and all other settings are those of the comparison on Glyphs.
Expected: the tables of experiments/results/omniglot/README.md.
Wall time: about 25 s for 1,000 steps of a run on one core of two; 180 runs in all.
Command: python -m experiments.compare --config=configs/omniglot_comparison.py \
  --results=experiments/results/omniglot --seeds=2
"""

from configs import base, glyphs_comparison
from configs.comparison import Comparison

# The 964 train characters and their quarter turns, about as many classes as Glyphs has.
BASE = base.replace(
  glyphs_comparison.BASE, {"data.name": "omniglot", "data.turned_classes": "train"}
)


def get_comparison() -> Comparison:
  """Every loss at two budgets."""
  return glyphs_comparison.fifteen_methods(BASE)


def get_studies() -> dict[str, Comparison]:
  """The conditions under which a bank should win, and the paper's other claims."""
  whole = get_comparison()
  return {**glyphs_comparison.with_muon(whole), **glyphs_comparison.of_claims(whole)}
