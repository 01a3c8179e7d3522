"""What a wrong call of a public function says, without the tests' own shape checks."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import ccl_jax
from ccl_jax import centers, class_mesh, few_shot, losses, objectives, retrieval

KEY = jax.random.key(0)
BANK = centers.init(KEY, num_classes=5, dim=4)
C = BANK.centers
Z = jax.random.normal(KEY, (6, 4))
Y = jnp.arange(6) % 5
SHORT = Z[:, :3]
ccl = ccl_jax.center_contrastive_loss


def applied(objective, batch):
  return objective.apply(*objective.init(KEY), Z, batch)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    # Rows and labels.
    (
      lambda: ccl(Z, Y[:5], BANK),
      "embeddings (6, 4) and labels (5,): expected [B, D] and [B]",
    ),
    (
      lambda: ccl(Z[0], Y, BANK),
      "embeddings (4,) and labels (6,): expected [B, D] and [B]",
    ),
    (
      lambda: losses.arcface(Z, jnp.eye(6, 5, dtype=int), C),
      "embeddings (6, 4) and labels (6, 5): expected [B, D] and [B]",
    ),
    (
      lambda: centers.update(BANK, Z, Y[:3]),
      "embeddings (6, 4) and labels (3,): expected [B, D] and [B]",
    ),
    (
      lambda: losses.contex(Z, Y, Y[:3]),
      "labels (6,) and images (3,): expected [B] each",
    ),
    (
      lambda: losses.center_loss(Z, Y, C[:0]),
      "centers (0, 4): expected [K, D] with a class at least",
    ),
    (
      lambda: few_shot.draw(3, ways=1, shots=1, queries=1, tasks=1, seed=0),
      "labels (): expected [N], a class for each row",
    ),
    (
      lambda: losses.supcon(Z, Y, positives=jnp.ones((6, 5), bool)),
      "positives (6, 5) of bool: expected (6, 6) of bool",
    ),
    (
      lambda: losses.triplet(Z, Y, positives=jnp.ones((6, 6), int)),
      "positives (6, 6) of int32: expected (6, 6) of bool",
    ),
    (
      lambda: losses.matryoshka(losses.arcface, [2, 5])(Z, Y, C),
      "length 5: expected 1 to 4, as embeddings have",
    ),
    (
      lambda: losses.matryoshka(losses.supcon, []),
      "lengths are empty: give some, such as [32, 64, 128]",
    ),
    # What is no array of numbers.
    (
      lambda: losses.triplet([[1.0, 0.0]] * 6, Y),
      "embeddings: expected an array of numbers, got list",
    ),
    (
      lambda: losses.nt_xent(Z, Y, [0, 0, 1, 1, 2, 2]),
      "images: expected an array of numbers, got list",
    ),
    (
      lambda: losses.cosface(Z, Y, "proxies"),
      "class_vectors: expected an array of numbers, got str",
    ),
    (
      lambda: losses.soft_triple(Z, Y, None),
      "centers: expected an array of numbers, got NoneType",
    ),
    (
      lambda: losses.center_loss(Z > 0, Y, C),
      "embeddings: expected an array of numbers, got bool",
    ),
    (
      lambda: losses.proxy_anchor(Z[0, 0], Y, C),
      "embeddings: expected an array [..., D], got a single number",
    ),
    (
      lambda: retrieval.search([[1.0, 0.0]] * 6, k=2),
      "queries: expected an array of numbers, got list",
    ),
    (
      lambda: ccl(None, Y, BANK),
      "embeddings: expected an array of numbers, got NoneType",
    ),
    (
      lambda: losses.mean_over_examples(None, Y),
      "loss: expected an array of numbers, got NoneType",
    ),
    (
      lambda: losses.arcface(Z, Y, C[:0]),
      "class_vectors (0, 4): expected [K, D] with a class at least",
    ),
    # Types of labels.
    (
      lambda: ccl(Z, Y * 1.0, BANK),
      "labels are float32; expected an array of integers 0..K-1",
    ),
    (
      lambda: losses.triplet(Z, Y > 0),
      "labels are bool; expected an array of integers 0..K-1",
    ),
    (
      lambda: losses.supcon(Z, [0, 1, 2, 3, 4, 0]),
      "labels are list; expected an array of integers 0..K-1",
    ),
    (
      lambda: losses.supcon(Y, Z),  # in the wrong order
      "labels are float32; expected an array of integers 0..K-1",
    ),
    (
      lambda: ccl_jax.check_labels(Y, 4),
      "label 4 at position 4 has no class: num_classes is 4, so labels go from 0 to 3",
    ),
    (
      lambda: losses.cosface(Z, Y.astype(jnp.int8), jnp.ones((300, 4))),
      "labels of int8 cannot be compared with num_classes=300: make them int32",
    ),
    # Dimensions.
    (
      lambda: ccl(SHORT, Y, BANK),
      "embeddings have dimension 3 and the bank's centers 4; make the bank with dim=3",
    ),
    (
      lambda: losses.arcface(SHORT, Y, C),
      "embeddings (6, 3) and class_vectors (5, 4) differ in dimension, their last axis",
    ),
    (
      lambda: losses.proxy_anchor(SHORT, Y, C),
      "embeddings (6, 3) and proxies (5, 4) differ in dimension, their last axis",
    ),
    (
      lambda: losses.center_loss(SHORT, Y, C),
      "embeddings (6, 3) and centers (5, 4) differ in dimension, their last axis",
    ),
    (
      lambda: losses.contrastive_center(SHORT, Y, C),
      "embeddings (6, 3) and centers (5, 4) differ in dimension, their last axis",
    ),
    (
      lambda: centers.update(BANK, SHORT, Y),
      "embeddings (6, 3) and centers (5, 4) differ in dimension, their last axis",
    ),
    (
      lambda: losses.soft_triple(Z, Y, C),
      "centers (5, 4): expected [K, C, D], C vectors a class",
    ),
    (
      lambda: losses.soft_triple(SHORT, Y, C[:, None]),
      "embeddings (6, 3) and centers (5, 1, 4) differ in dimension, their last axis",
    ),
    (
      lambda: losses.supcon(SHORT, Y, memory=Z, memory_labels=Y),
      "embeddings (6, 3) and memory (6, 4) differ in dimension, their last axis",
    ),
    (
      lambda: retrieval.search(Z, SHORT, k=2),
      "queries (6, 4) and gallery (6, 3) differ in dimension, their last axis",
    ),
    (
      lambda: retrieval.evaluate(Z, Y, SHORT, Y),
      "queries (6, 4) and gallery (6, 3) differ in dimension, their last axis",
    ),
    # Options, banks and objectives.
    (
      lambda: losses.triplet(Z, Y, mining="hardest"),
      "mining=hardest: expected batch_hard or semi_hard",
    ),
    (
      lambda: losses.supcon(Z, Y, memory=Z),
      "memory and memory_labels: give both or neither",
    ),
    (
      lambda: losses.arcface(Z, Y, C, sample_rate=0.1),
      "sample_rate=0.1 needs a key, to draw the classes",
    ),
    (
      lambda: losses.arcface(Z, Y, C, block_size=0),
      "block_size=0: a block holds at least 1 class",
    ),
    (
      lambda: centers.init(KEY, 1, 4),
      "num_classes=1, dim=4: a bank contrasts at least 2 classes in at least 1"
      " dimension",
    ),
    (
      lambda: centers.grow(BANK, KEY, 3),
      "num_classes=3 is smaller than the bank's 5; a bank only grows",
    ),
    (
      lambda: class_mesh.make(16, 3),
      "class_shards=3 does not divide the 8 devices; take one of [1, 2, 4, 8]",
    ),
    (
      lambda: applied(objectives.with_memory(losses.supcon, 4, 4), {"label": Y}),
      "a memory of 4 rows is smaller than the batch of 6: give size=6 or more",
    ),
    # Retrieval.
    (
      lambda: retrieval.search(Z[0], k=2),
      "queries must be [rows, D] with a row at least, got (4,)",
    ),
    (
      lambda: retrieval.search(Z.at[3].set(jnp.nan), k=2),
      "queries row 3 is not finite in float32",
    ),
    (
      lambda: retrieval.evaluate(Z, Y),
      "each of ks must lie between 1 and the 5 gallery rows a query can find, got 8",
    ),
    (
      lambda: retrieval.evaluate(Z, Y[:4]),
      "queries has 6 rows and needs a label for each, got labels of shape (4,)",
    ),
    (
      lambda: retrieval.evaluate(Z, Y, Z),
      "gallery and gallery_labels go together; only one was given",
    ),
    (
      lambda: retrieval.evaluate(Z, jnp.arange(6), ks=[1]),
      "none of 6 queries has its class in the gallery",
    ),
  ],
)
def test_a_wrong_call_names_what_does_not_fit(call, message, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
  with pytest.raises(ValueError) as error:
    call()
  assert str(error.value) == message
