"""A folder of small pictures, and runs on it that take seconds."""

import numpy as np
import pytest
from PIL import Image

# Options that make a run short; every test of a run starts from these.
SHORT = {
  "data.name": "folder",
  "batch_size": 8,
  "steps": 12,
  "log_every": 1,
  "eval_every": 6,
  "checkpoint_every": 4,
  "data.validation_fraction": 0.25,
  "recall_at": "1,2",
  "data.test_views": 1,
}


def refusal(main, argv, capsys):
  """The one line with which a command ends, with exit code 2."""
  with pytest.raises(SystemExit) as stop:
    main(argv)
  told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
  assert stop.value.code == 2 and len(told) == 1
  return told[0]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
  """Sixteen classes of four pictures: a bright spot in a place of its class."""
  root = tmp_path_factory.mktemp("pictures")
  rng = np.random.default_rng(0)
  for label in range(16):
    (root / f"class_{label:02d}").mkdir()
    for copy in range(4):
      pixels = rng.integers(0, 60, (32, 32), np.uint8)
      y, x = 8 * (label // 4), 8 * (label % 4)
      pixels[y : y + 8, x : x + 8] += 180
      Image.fromarray(pixels).save(root / f"class_{label:02d}" / f"{copy}.png")
  return root


@pytest.fixture
def arguments(pictures, tmp_path):
  """Command-line arguments of a short run in `tmp_path / "run"`, with replacements."""

  def make(workdir=tmp_path / "run", **replaced):
    fields = {**SHORT, "data.images": pictures, **replaced}
    return [
      "--config=configs/glyphs.py",
      f"--workdir={workdir}",
      *(f"--config.{name}={value}" for name, value in fields.items()),
    ]

  return make
