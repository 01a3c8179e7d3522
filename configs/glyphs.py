from configs.base import Config


def get_config() -> Config:
  return Config(
    scale=32.0,
    margin=0.2,
    center_weight=2.0,
    learning_rate=3e-3,
    centers_learning_rate=0.03,
    weight_decay=0.02,
    steps=300,
    eval_every=100,
  )
