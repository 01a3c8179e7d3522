"""A batch by chunks: the same loss and gradient, and less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ccl_jax
from ccl_jax import accumulate, losses

BATCH, FEATURES, WIDTH, DIM, NUM_CLASSES = 32, 12, 24, 8, 10


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, NUM_CLASSES, BATCH).astype(np.int32)
  labels[5] = -1
  return {
    "image": jnp.asarray(rng.normal(size=(BATCH, FEATURES)), jnp.float32),
    "label": jnp.asarray(labels),
    "example": jnp.arange(BATCH, dtype=jnp.int32) // 2,
  }


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(1)
  shapes = (FEATURES, WIDTH), (WIDTH, DIM)
  return [jnp.asarray(rng.normal(size=s) / 4, jnp.float32) for s in shapes]


def model(params, images):
  return jnp.tanh(images @ params[0]) @ params[1]


def over_bank(embeddings, rows):
  bank = ccl_jax.centers.init(jax.random.key(0), NUM_CLASSES, DIM)
  return ccl_jax.center_contrastive_loss(embeddings, rows["label"], bank)


def over_pairs(embeddings, rows):
  values = losses.supcon(embeddings, rows["label"])
  return losses.mean_over_examples(values, rows["label"]), ()


def over_views(embeddings, rows):
  values = losses.contex(embeddings, rows["label"], rows["example"])
  return losses.mean_over_examples(values, rows["label"]), ()


@pytest.mark.parametrize("chunks", [2, 4, 16])
@pytest.mark.parametrize("loss", [over_bank, over_pairs, over_views])
def test_loss_gradient_and_bank_are_those_of_the_whole_batch(
  loss, chunks, params, rows
):
  def by_chunks(params):
    embeddings = accumulate.embed(
      lambda images: model(params, images), rows["image"], chunks=chunks
    )
    return loss(embeddings, rows)

  def at_once(params):
    return loss(model(params, rows["image"]), rows)

  for found, expected in zip(
    jax.tree.leaves(jax.value_and_grad(by_chunks, has_aux=True)(params)),
    jax.tree.leaves(jax.value_and_grad(at_once, has_aux=True)(params)),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunks", [2, 4, 16])
def test_a_sum_over_rows_needs_one_pass(chunks, params, rows):
  vectors = jnp.eye(NUM_CLASSES, DIM)

  def loss_fn(params, rows, number):
    embeddings = model(params, rows["image"])
    values = losses.cosface(embeddings, rows["label"], vectors)
    return values.sum() / BATCH, (number, embeddings)

  (loss, (numbers, embeddings)), grads = accumulate.value_and_grad(
    loss_fn, params, rows, chunks=chunks
  )
  (expected, (_, together)), expected_grads = jax.value_and_grad(loss_fn, has_aux=True)(
    params, rows, 0
  )
  np.testing.assert_array_equal(numbers, np.arange(chunks))
  np.testing.assert_allclose(accumulate.join(embeddings), together, atol=1e-6)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  for found, wanted in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [over_pairs, over_views])
def test_the_peak_memory_is_that_of_a_chunk(loss, rows):
  """Of the compiled gradient: a deep model on many rows, beside 32 x 32 pairs."""
  layers, width = 8, 512
  params = jnp.zeros((layers, width, width))
  images = jnp.zeros((BATCH, 64, width))

  def deep(params, images):
    for layer in range(layers):
      images = jnp.tanh(images @ params[layer])
    return images.mean(axis=1)[:, :DIM]

  def peak(chunks):
    def by_chunks(params, images):
      embeddings = accumulate.embed(
        lambda images: deep(params, images), images, chunks=chunks
      )
      return loss(embeddings, rows)[0]

    compiled = jax.jit(jax.grad(by_chunks)).lower(params, images).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # What does not shrink is a second copy of the images, cut into chunks, and the
  # gradient that is summed up.
  fixed = images.nbytes + 2 * params.nbytes
  activations = layers * images.nbytes
  whole, quarter, sixteenth = (peak(chunks) for chunks in (1, 4, 16))
  assert whole > activations
  assert quarter < fixed + activations / 2
  assert sixteenth < fixed + activations / 8


def test_a_chunk_has_rows_of_every_part_of_the_batch():
  parts = accumulate.split({"row": jnp.arange(8)}, 4)
  np.testing.assert_array_equal(parts["row"], [[0, 4], [1, 5], [2, 6], [3, 7]])
  np.testing.assert_array_equal(accumulate.join(parts)["row"], np.arange(8))


@pytest.mark.parametrize("chunks", [0, 3])
def test_chunks_that_do_not_divide_the_rows_are_refused(chunks):
  with pytest.raises(ValueError, match=f"32 rows in {chunks} chunks: give a number"):
    accumulate.split(jnp.zeros((32, 2)), chunks)
