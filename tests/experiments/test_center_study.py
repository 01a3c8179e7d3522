"""What is said of centers, against loops."""

import numpy as np
import pytest

from configs import glyphs_comparison
from configs.base import Config, Data, Model
from experiments import center_study
from experiments.comparison import store


def test_a_run_is_looked_at_by_the_way(pictures, tmp_path, monkeypatch, capsys):
  tiny = Config(
    batch_size=8,
    recall_at=(1,),
    data=Data(name="folder", images=str(pictures), validation_fraction=0.25),
    model=Model(widths=(8, 16), dim=16, depth=0),
  )
  monkeypatch.setattr(glyphs_comparison, "BASE", tiny)
  # The other two rules are the last two of these with other numbers.
  rules = ("trained by gradient", "class means", "off the nearest")
  rules = {name: center_study.RULES[name] for name in rules}
  monkeypatch.setattr(center_study, "RULES", rules)
  results, page = tmp_path / "tiny", tmp_path / "page.md"
  page.write_text("Before.\n<!-- table: tiny/center_study -->\n<!-- end -->\n")
  argv = ["--at", "2", "17", f"--results={results}", f"--write={page}"]
  center_study.main(argv)
  rows = store.read(results / "center_study.jsonl")
  assert [row["step"] for row in rows] == [2, 17] * len(rules)
  looks = [row["metrics"] for row in rows]
  assert all(look["old"] is None for look in looks[::2]), "none is old after two steps"
  last = {row["row"]: row["metrics"] for row in rows if row["step"] == 17}
  assert last["off the nearest"]["mean center"] < last["class means"]["mean center"]
  table = center_study.table(rows)
  assert len(table.splitlines()) == 2 + len(rows)
  assert table in capsys.readouterr().out and table in page.read_text()
  # What is stored is not done again.
  monkeypatch.setattr(center_study, "study", None)
  center_study.main(argv)
  assert store.read(results / "center_study.jsonl") == rows


def test_centers_are_described_by_spread_and_agreement():
  rng = np.random.default_rng(0)
  centers = rng.normal(size=(5, 3))
  centers /= np.linalg.norm(centers, axis=1, keepdims=True)
  embeddings, labels = rng.normal(size=(20, 3)), np.arange(20) % 5
  ages = np.array([0, 2, 7, 15, 40])
  found = center_study.describe(centers, embeddings, labels, ages)

  agreement = []
  for k in range(5):
    own = [e / np.linalg.norm(e) for e in embeddings[labels == k]]
    mean = sum(own) / len(own)
    agreement.append(centers[k] @ mean / np.linalg.norm(mean))
  pairs = [abs(centers[i] @ centers[j]) for i in range(5) for j in range(i)]
  assert found == pytest.approx(
    {
      "mean center": np.linalg.norm(sum(centers) / 5),
      "|cos|": sum(pairs) / 10,
      "fresh": (agreement[0] + agreement[1]) / 2,
      "old": (agreement[3] + agreement[4]) / 2,
      "seen ago": 12.8,
    }
  )
