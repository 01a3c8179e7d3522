"""What would be broadcast in silence is refused, where no type checker looks on."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import ccl_jax
from ccl_jax import losses


@pytest.fixture
def unchecked():
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
  ("rows", "labels"), [((6, 4), (1,)), ((4,), (1,)), ((6, 4), (6, 1)), ((6, 4), (5,))]
)
def test_labels_that_do_not_fit_the_rows_are_refused(unchecked, rows, labels):
  embeddings, labels = jnp.ones(rows), jnp.zeros(labels, jnp.int32)
  bank = ccl_jax.centers.init(jax.random.key(0), 3, 4)
  with pytest.raises(ValueError, match=r"embeddings of shape .* with labels of shape"):
    losses.supcon(embeddings, labels)
  with pytest.raises(ValueError, match=r"embeddings of shape .* with labels of shape"):
    ccl_jax.center_contrastive_loss(embeddings, labels, bank)
