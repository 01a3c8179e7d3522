"""A head on stored embeddings, of any network: for classes that it was not made for.

Command: python -m experiments.train --config=configs/features.py \
  --workdir=runs/head --config.data.features=FILE.npz
Expected: depends on the embeddings; experiments/results/features compares heads with
  the embeddings themselves.
Wall time: see experiments/benchmarks/README.md for the time of a step.

FILE.npz holds embeddings [N, D], labels [N] and, if wanted, a split [N] of "train",
"test" and "gallery"; a folder of the same arrays as .npy files does as well, which
`python -m experiments.evaluate --save-embeddings=FOLDER` writes.
"""

from configs.base import Config, Data, Loss, Model, Optimizer


def get_config() -> Config:
  return Config(
    batch_size=256,
    steps=2000,
    data=Data(name="features", view="none"),
    model=Model(name="head"),
    loss=Loss(centers="bank"),
    optimizer=Optimizer(learning_rate=1e-3),
  )
