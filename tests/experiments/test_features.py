"""Commands that chain: a run's embeddings are saved, and a head is trained on them."""

import json
import re

import numpy as np
import pytest

from experiments import evaluate, head_study, retrieve, train
from experiments.comparison import store

HEAD = {
  "batch_size": 8,
  "steps": 6,
  "log_every": 2,
  "eval_every": 6,
  "checkpoint_every": 6,
  "recall_at": "1,2",
  "model.dim": 16,
  "data.validation_fraction": 0.25,
}


def head_of(features, workdir, **replaced):
  fields = {**HEAD, "data.features": features, **replaced}
  return [
    "--config=configs/features.py",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


@pytest.fixture(scope="module")
def saved(pictures, tmp_path_factory):
  """All pictures, embedded by a network that has hardly been trained."""
  root = tmp_path_factory.mktemp("chain")
  fields = {
    "data.name": "folder",
    "data.images": pictures,
    "batch_size": 8,
    "steps": 2,
    "checkpoint_every": 2,
    "data.validation_fraction": 0,
    "recall_at": "1",
  }
  argv = [f"--config.{name}={value}" for name, value in fields.items()]
  train.main(["--config=configs/glyphs.py", f"--workdir={root / 'run'}", *argv])
  evaluate.main(
    [
      f"--workdir={root / 'run'}",
      "--split=all",
      f"--save-embeddings={root / 'saved'}",
      "--config=configs/folder.py",
      f"--config.data.images={pictures}",
    ]
  )
  return root / "saved"


def test_all_splits_are_saved_in_one_folder(saved, pictures):
  arrays = {name: np.load(saved / f"{name}.npy") for name in ("labels", "ids", "split")}
  names = (saved / "classes.txt").read_text().split()
  assert names == sorted(path.name for path in pictures.iterdir())
  for label, name in zip(arrays["labels"], arrays["ids"], strict=True):
    assert names[label] in name
  train_classes, test_classes = (
    {*arrays["labels"][arrays["split"] == split].tolist()}
    for split in ("train", "test")
  )
  assert len(train_classes) == len(test_classes) == 8
  assert not train_classes & test_classes


def test_a_head_trains_on_them_and_finds_rows_by_id(saved, tmp_path, capsys):
  train.main(head_of(saved, tmp_path / "head"))
  result = json.loads((tmp_path / "head" / "result.json").read_text())
  assert result["classes"] == {"train": 6, "validation": 2, "test": 8}
  report = (tmp_path / "head" / "report.html").read_text()
  assert report.count("<img") > 8 and "Thresholds" in report
  argv = [f"--workdir={tmp_path / 'head'}"]
  evaluate.main([*argv, "--thresholds", f"--save-embeddings={tmp_path / 'new'}"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert scores["recall@1"] == result["recall@1"] and 0 <= scores["eer"] <= 1
  wanted = str(np.load(tmp_path / "new" / "ids.npy")[5])
  argv += [f"--embeddings={tmp_path / 'new'}", "--k=3"]
  retrieve.main([*argv, f"--query={wanted}"])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and all(wanted not in line for line in lines[:3])
  # What a head has made is what another head can be trained on.
  fields = {"model.hidden": "12", "data.validation_fraction": 0}
  train.main(head_of(tmp_path / "new", tmp_path / "again", **fields))
  assert (tmp_path / "again" / "result.json").is_file()


def test_heads_are_compared_with_the_embeddings_themselves(
  saved, tmp_path, monkeypatch
):
  ours = {name: head_study.HEADS[name] for name in ("CCL", "SupCon")}
  ours["SupCon"] = {**ours["SupCon"], "data.images_per_class": 2}
  monkeypatch.setattr(head_study, "HEADS", ours)
  monkeypatch.setattr(head_study.features, "get_config", small_config)
  results, page = tmp_path / "tiny", tmp_path / "page.md"
  page.write_text("<!-- table: tiny/heads -->\n<!-- end -->\n")
  argv = [f"--results={results}", f"--embeddings={saved}", f"--write={page}"]
  argv = [argv[0], argv[1], "--seeds=2", "--steps=3", argv[2]]
  head_study.main(argv)
  rows = store.read(results / "heads.jsonl")
  assert len(rows) == 2 * 3
  before = [row["metrics"] for row in rows if row["row"] == head_study.BEFORE]
  assert before[0] == before[1]
  assert "| no head | " in page.read_text() and "**CCL**" in page.read_text()
  monkeypatch.setattr(head_study, "study", None)  # what is stored is not done again
  head_study.main(argv)


def small_config():
  from configs.base import Config, Data, Model

  return Config(
    batch_size=8,
    recall_at=(1,),
    data=Data(name="features", view="none"),
    model=Model(name="head", dim=8),
  )


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    (
      {"data.features": "none"},
      "needs embeddings: add --config.data.features=FILE.npz",
    ),
    ({"data.features": "gone.npz"}, "gone.npz is not there"),
    ({"data.view": "warp"}, "data.view=warp with data.name=features: .* give none"),
    ({"model.name": "glyph_net"}, "a head goes with features"),
    ({"model.trained_blocks": 1}, "only a ViT"),
  ],
)
def test_what_a_head_cannot_use_is_one_line(fields, told, tmp_path, capsys):
  with pytest.raises(SystemExit) as end:
    train.main(head_of(tmp_path, tmp_path / "run", **fields))
  (line,) = capsys.readouterr().err.splitlines()
  assert end.value.code == 2
  assert re.search(told, line)
