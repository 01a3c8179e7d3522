"""Deep metric learning with class centers, as pure functions on arrays.

`import ccl_jax` brings the losses, the center bank and exact retrieval, and needs JAX
alone; models, data, checkpoints and the training loop are imported by name.
"""

from ccl_jax import centers as centers
from ccl_jax import losses as losses
from ccl_jax import retrieval as retrieval
from ccl_jax.centers import CenterBank as CenterBank
from ccl_jax.labels import check_labels as check_labels
from ccl_jax.objectives import center_contrastive_loss as center_contrastive_loss
