"""Each loss against pytorch-metric-learning, live: value and gradients, in float64.

It is no requirement of the tests: `tests/peers.txt` has it and PyTorch. Where its
definition differs from the published one, the case says how the one is mapped on the
other. No peer: center losses, ConTeX, and the miner's semi-hard triplets as such.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import losses

REASON = "not installed: pip install -r tests/peers.txt"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("pytorch_metric_learning", reason=REASON)
from pytorch_metric_learning import (  # noqa: E402
  distances,
  miners,
  reducers,
  regularizers,
)
from pytorch_metric_learning import losses as peers  # noqa: E402

NUM_CLASSES, DIM, PER_CLASS, BATCH = 7, 6, 3, 12
MEAN = reducers.MeanReducer()


def over_classes(loss, make, weight="W"):
  """A peer that holds class vectors: as columns of `W`, `fc`, or rows of `proxies`."""

  def theirs(x, y, vectors, **settings):
    peer = make(num_classes=NUM_CLASSES, embedding_size=DIM, **settings)
    rows = vectors.reshape(-1, DIM)
    setattr(peer, weight, None)
    delattr(peer, weight)
    setattr(peer, weight, rows if weight == "proxies" else rows.T)
    return peer(x, y)

  return loss, theirs


def normalized_softmax(**settings):
  """Its default distance leaves the embeddings' length as it is."""
  return peers.NormalizedSoftmaxLoss(distance=distances.CosineSimilarity(), **settings)


def arcface(*, margin, **settings):
  return peers.ArcFaceLoss(margin=np.degrees(margin), **settings)


def proxy_nca(*, temperature, **settings):
  """Its scale is 1 / T; the own proxy is in the denominator, as in ProxyNCA++."""
  return peers.ProxyNCALoss(softmax_scale=1 / temperature, **settings)


def proxy_anchor(*, scale, **settings):
  return peers.ProxyAnchorLoss(alpha=scale, **settings)


class WithOfficialSlack(regularizers.SparseCentersRegularizer):
  """Under the root the authors have 1e-5 and the library the least float."""

  def compute_loss(self, weights):
    among = self.distance(weights)[self.same_class_mask]
    losses = torch.sqrt(2 + 1e-5 - 2 * among)
    return {
      "loss": {
        "losses": losses,
        "indices": torch.arange(len(losses)),
        "reduction_type": "element",
        "divisor": 2 * len(losses),
      }
    }


def soft_triple(*, scale, regularizer, **settings):
  return peers.SoftTripleLoss(
    centers_per_class=PER_CLASS,
    la=scale,
    weight_regularizer=WithOfficialSlack(NUM_CLASSES, PER_CLASS),
    weight_reg_weight=regularizer,
    **settings,
  )


def supcon(x, y, *, temperature, base_temperature):
  """No factor tau / tau_0; it too leaves out anchors without positives."""
  loss = peers.SupConLoss(temperature=temperature)(x, y)
  return temperature / base_temperature * loss


def multi_similarity(x, y, *, epsilon, **settings):
  loss = peers.MultiSimilarityLoss(**settings)
  if epsilon == math.inf:  # all pairs
    return loss(x, y)
  return loss(x, y, miners.MultiSimilarityMiner(epsilon)(x, y))


def triplet(x, y, *, margin, mining):
  """By default it leaves triplets of loss 0 out of the mean."""
  squared = distances.LpDistance(power=2)
  loss = peers.TripletMarginLoss(margin, distance=squared, reducer=MEAN)
  if mining == "batch_hard":
    return loss(x, y, miners.BatchHardMiner(distance=squared)(x, y))
  # Its semi-hard triplets are all whose negative is farther by less than the margin;
  # of these ours has the nearest, at any margin, for each anchor and positive.
  all_farther = miners.TripletMarginMiner(9.0, "semihard", distance=squared)
  apart = squared(x).detach()
  nearest = {}
  for a, p, n in zip(*(each.tolist() for each in all_farther(x, y)), strict=True):
    if (a, p) not in nearest or apart[a, n] < apart[a, nearest[a, p]]:
      nearest[a, p] = n
  found = [(a, p, n) for (a, p), n in nearest.items()]
  return loss(x, y, tuple(torch.tensor(found).T))


class HalfSquares(reducers.AvgNonZeroReducer):
  """Hadsell's loss squares what the library's takes as it is."""

  def element_reduction_helper(self, losses, embeddings):
    return super().element_reduction_helper(losses**2 / 2, embeddings)


def contrastive(x, y, *, margin):
  return peers.ContrastiveLoss(neg_margin=margin, reducer=HalfSquares())(x, y)


def nt_xent_of(rows, labels, **settings):
  """Two views of each image, the labels being the images."""
  return losses.nt_xent(rows, labels, labels, **settings)


def nt_xent(x, y, *, temperature):
  """A mean over pairs of views; with as many of each image it is that over anchors."""
  return peers.NTXentLoss(temperature=temperature)(x, y)


CLASS_CASES = {
  "normalized_softmax": (
    over_classes(losses.normalized_softmax, normalized_softmax),
    [{"temperature": 0.05}, {"temperature": 0.5}],
  ),
  "cosface": (
    over_classes(losses.cosface, peers.CosFaceLoss),
    [{"scale": 64.0, "margin": 0.35}, {"scale": 8.0, "margin": 0.0}],
  ),
  "arcface": (
    over_classes(losses.arcface, arcface),
    [{"scale": 64.0, "margin": 0.5}, {"scale": 8.0, "margin": 2.0}],
  ),
  "proxy_nca": (
    over_classes(losses.proxy_nca, proxy_nca, "proxies"),
    [{"temperature": 1 / 9}, {"temperature": 1.0}],
  ),
  "proxy_anchor": (
    over_classes(losses.proxy_anchor, proxy_anchor, "proxies"),
    [{"scale": 32.0, "margin": 0.1}, {"scale": 4.0, "margin": 0.3}],
  ),
  "soft_triple": (
    over_classes(losses.soft_triple, soft_triple, "fc"),
    [
      {"scale": 20.0, "gamma": 0.1, "margin": 0.01, "regularizer": 0.2},
      {"scale": 5.0, "gamma": 1.0, "margin": 0.3, "regularizer": 2.0},
    ],
  ),
}
PAIR_CASES = {
  "supcon": (
    (losses.supcon, supcon),
    [
      {"temperature": 0.1, "base_temperature": 0.07},
      {"temperature": 0.5, "base_temperature": 0.5},
    ],
  ),
  "multi_similarity": (
    (losses.multi_similarity, multi_similarity),
    [
      {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1},
      {"alpha": 3.0, "beta": 10.0, "base": 0.2, "epsilon": -0.2},
      {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": math.inf},
    ],
  ),
  "triplet": (
    (losses.triplet, triplet),
    [
      {"margin": margin, "mining": mining}
      for margin in (0.2, 1.0)
      for mining in ("batch_hard", "semi_hard")
    ],
  ),
  "contrastive": (
    (losses.contrastive, contrastive),
    [{"margin": 1.0}, {"margin": 1.4}],
  ),
  "nt_xent": ((nt_xent_of, nt_xent), [{"temperature": 0.07}, {"temperature": 0.5}]),
}


def expand(cases):
  return [
    pytest.param(*pair, settings, id=f"{name}-{number}")
    for name, (pair, listed) in cases.items()
    for number, settings in enumerate(listed)
  ]


def assert_same(ours, theirs, settings, labels, *arrays):
  """Value and all gradients of the mean loss."""
  tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
  rows, *rest = tensors
  value = theirs(rows, torch.tensor(labels), *rest, **settings)
  slopes = torch.autograd.grad(value, tensors)

  def mean(rows, *rest):
    values = ours(rows, jnp.asarray(labels), *rest, **settings)
    return losses.mean_over_examples(values, jnp.asarray(labels))

  with jax.enable_x64(True):
    both = jax.value_and_grad(mean, argnums=tuple(range(len(arrays))))
    found, gradients = jax.jit(both)(*map(jnp.asarray, arrays))
  assert value.item() > 0.01
  np.testing.assert_allclose(found, value.item(), rtol=1e-9)
  for gradient, slope in zip(gradients, slopes, strict=True):
    assert slope.abs().max() > 1e-4
    atol = 1e-9 * slope.abs().max().item()
    np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-9, atol=atol)


def embeddings_of(rng):
  return rng.normal(size=(BATCH, DIM)) * rng.uniform(0.1, 9, size=(BATCH, 1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("ours", "theirs", "settings"), expand(CLASS_CASES))
def test_over_class_vectors(ours, theirs, settings, seed):
  rng = np.random.default_rng(seed)
  shape = (NUM_CLASSES, PER_CLASS, DIM)
  if ours is not losses.soft_triple:
    shape = (NUM_CLASSES, DIM)
  labels = rng.integers(0, NUM_CLASSES - 1, BATCH)  # the last class is absent
  assert_same(
    ours, theirs, settings, labels, embeddings_of(rng), rng.normal(size=shape)
  )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("ours", "theirs", "settings"), expand(PAIR_CASES))
def test_over_pairs(ours, theirs, settings, seed):
  rng = np.random.default_rng(seed)
  labels = rng.permutation([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4])
  if theirs is nt_xent:
    labels = rng.permutation(np.repeat(np.arange(BATCH // 2), 2))
  assert_same(ours, theirs, settings, labels, embeddings_of(rng))


@pytest.mark.parametrize("seed", range(3))
def test_a_memory_is_its_reference_rows(seed):
  """Which it contrasts with instead of the batch; ours with those of the batch too."""
  rng = np.random.default_rng(seed)
  labels, past_labels = rng.integers(0, 3, BATCH), rng.integers(0, 4, 2 * BATCH)
  past = rng.normal(size=(2 * BATCH, DIM))

  def theirs(x, y, *, temperature, base_temperature):
    del base_temperature
    rows = torch.cat([x, torch.tensor(past)])
    row_labels = torch.cat([y, torch.tensor(past_labels)])
    every = torch.arange(len(rows))[None, :]
    others = every != torch.arange(len(x))[:, None]
    same = row_labels[None, :] == y[:, None]
    pairs = *torch.where(others & same), *torch.where(others & ~same)
    loss = peers.SupConLoss(temperature=temperature)
    return loss(x, y, pairs, ref_emb=rows, ref_labels=row_labels)

  with jax.enable_x64(True):
    memory = {"memory": jnp.asarray(past), "memory_labels": jnp.asarray(past_labels)}
  settings = {"temperature": 0.2, "base_temperature": 0.2}
  assert_same(
    partial(losses.supcon, **memory), theirs, settings, labels, embeddings_of(rng)
  )
