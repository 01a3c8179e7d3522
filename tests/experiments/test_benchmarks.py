"""From an archive in the original layout to a number, for each benchmark."""

import json

import numpy as np
import pytest

from ccl_jax import retrieval
from ccl_jax.training.run_log import read_events
from configs.base import Config
from experiments import evaluate, retrieve, train
from experiments.run import assemble, datasets, scoring, workdir
from tests.data import tiny_archives as tiny

# The configs, but for what would take a GPU.
SMALL = {
  "model.name": "glyph_net",
  "optimizer.backbone_learning_rate": "none",
  "optimizer.frozen_backbone_fraction": 0,
  "data.shorter_side": 36,
  "data.image_size": 32,
  "data.channels": 1,
  "data.num_workers": 0,
  "model.dim": 16,
  "batch_size": 32,
  "steps": 3,
  "log_every": 1,
  "eval_every": 3,
  "checkpoint_every": 1,
  "data.validation_fraction": 0.25,
  "data.classes": tiny.CLASSES,
}
FOUND_OF = {"sop": "1,10", "inshop": "1,5,10"}


class Interrupted(Exception):
  pass


@pytest.fixture(scope="module", params=datasets.BENCHMARKS)
def run(request, archives, tmp_path_factory):
  """A run that was stopped before its third step, and gone on with."""
  name = request.param
  root = tmp_path_factory.mktemp(name)
  fields = {**SMALL, "data.data_dir": root / "tfds", "data.images": archives(name)}
  if name in FOUND_OF:
    fields["recall_at"] = FOUND_OF[name]
  argv = [f"--config=configs/{name}.py", f"--workdir={root / 'run'}"]
  argv += [f"--config.{field}={value}" for field, value in fields.items()]

  make_batches = assemble.train_batches

  class StopsAtThird:
    def __init__(self, *args):
      self.batches, self.taken = make_batches(*args), 0

    def __next__(self):
      self.taken += 1
      if self.taken == 3:
        raise Interrupted
      return next(self.batches)

    def get_state(self):
      return self.batches.get_state()

    def set_state(self, state):
      self.batches.set_state(state)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(assemble, "train_batches", StopsAtThird)
    with pytest.raises(Interrupted):
      train.main(argv)
  assert not (root / "run" / "result.json").exists()
  train.main(argv)
  return name, root / "run"


def test_the_whole_way(run, capsys):
  name, folder = run
  steps = [e["step"] for e in read_events(folder / "metrics.jsonl")]
  assert steps == [1, 2, 3, 3, 3], "resumed at the second step, and went on"
  result = json.loads((folder / "result.json").read_text())
  assert result["classes"] == {"train": 6, "validation": 2, "test": tiny.CLASSES}
  ks = FOUND_OF.get(name, "1,2,4,8").split(",")
  assert [k for k in result if k.startswith("recall")] == [f"recall@{k}" for k in ks]
  # Images of a class are copies of one picture.
  assert result["recall@1"] > 0.9
  evaluate.main([f"--workdir={folder}"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  for metric in ("recall@1", "map@r"):
    assert scores[metric] == pytest.approx(result[metric], abs=1e-6)
  assert (folder / "report.html").read_text().count("<svg") >= 2


def test_saved_embeddings_are_searched(run, capsys, tmp_path):
  name, folder = run
  evaluate.main([f"--workdir={folder}", f"--save-embeddings={tmp_path}"])
  data = datasets.load_data(workdir.read_config(folder))
  scored = json.loads(capsys.readouterr().out.splitlines()[-1])
  if name == "inshop":
    parts = {tmp_path / "query": data.test, tmp_path / "gallery": data.gallery}
    arrays = [np.load(f / f"{x}.npy") for f in parts for x in ("embeddings", "labels")]
  else:
    parts = {tmp_path: data.test}
    arrays = [np.load(tmp_path / f"{x}.npy") for x in ("embeddings", "labels")]
  again = retrieval.evaluate(*arrays, ks=(1,))
  assert again["map@r"] == pytest.approx(scored["map@r"], abs=1e-6)
  for place, examples in parts.items():
    ids = np.load(place / "ids.npy").tolist()
    assert ids == examples.ids and len(ids) == len(np.load(place / "embeddings.npy"))
    # By an id; nearest are the other pictures of its class.
    argv = [
      f"--workdir={folder}",
      f"--embeddings={place}",
      f"--query={ids[5]}",
      "--k=2",
    ]
    retrieve.main([*argv, f"--out={tmp_path / 'found.png'}"])
    lines = capsys.readouterr().out.splitlines()[-3:]
    found = [line.split(maxsplit=1)[1] for line in lines[:2]]
    assert ids[5] not in found and set(found) <= set(ids)
    assert {examples.labels[ids.index(i)] for i in found} == {examples.labels[5]}


def test_queries_are_searched_in_the_gallery_alone():
  embedded = {
    # Each query lies nearest to the other, of its class, which it must not find.
    "queries": (np.array([[1, 0], [1, 0.1]]), np.array([0, 0])),
    "gallery": (np.array([[1.0, 1], [0, 1]]), np.array([1, 0])),
  }
  data = datasets.Data(None, None, "queries", "gallery")
  found = scoring.embed_test(lambda _, part: embedded[part], None, data)
  scores = scoring.score(Config(recall_at=(1, 2)), found)
  assert (scores["recall@1"], scores["recall@2"]) == (0, 1)
  among = scoring.embed_test(
    lambda _, part: embedded[part], None, data._replace(gallery=None)
  )
  assert scoring.score(Config(recall_at=(1,)), among)["recall@1"] == 1


def test_clusters_count_the_gallery_too():
  far = np.eye(2, 8)
  found = scoring.Embedded(far[[0, 1]], np.array([0, 1]), far[[0, 1]], np.array([1, 0]))
  # Two groups, each half of one class and half of the other: they tell nothing.
  assert scoring.score_clusters(Config(), found)["nmi"] == pytest.approx(0, abs=1e-6)
  alone = scoring.score_clusters(Config(), found._replace(gallery=None))
  assert alone["nmi"] == pytest.approx(1)
