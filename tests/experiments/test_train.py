"""The main job from its command line: it ends, resumes to the same bits, and shows."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ccl_jax import models, probe, vectors
from ccl_jax.data import pipeline, views
from ccl_jax.data.examples import Decoded
from ccl_jax.training import loop
from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.run_log import read_events
from configs import base
from experiments import evaluate, export, retrieve, train
from experiments.run import assemble, datasets, inherit, workdir
from experiments.run import card as cards

ROOT = Path(__file__).parents[2]
TIMES = {"images_per_second", "waiting_for_data", "seconds"}

# Trains in a process that kills itself as it asks for the batch of a given step.
KILLED_AT = """
import os, signal, sys
from experiments.run import assemble
from experiments import train

make_batches, last = assemble.train_batches, int(sys.argv[1])

class Batches:
  def __init__(self, *args):
    self.wrapped, self.step = make_batches(*args), 0
  def __next__(self):
    self.step += 1
    if self.step == last:
      os.kill(os.getpid(), signal.SIGKILL)
    return next(self.wrapped)
  def get_state(self):
    return self.wrapped.get_state()
  def set_state(self, state):
    self.wrapped.set_state(state)
    self.step = state["next_index"]

assemble.train_batches = Batches
train.main(sys.argv[2:])
"""


def run_alone(argv, *, killed_at):
  """Trains in a process of its own, on as many devices as this one has."""
  return subprocess.run(
    [sys.executable, "-c", KILLED_AT, str(killed_at), *argv],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def state_of(workdir):
  with Checkpoints(workdir / "checkpoints", read_only=True) as saved:
    return saved.restore()


def timeless(workdir):
  """The events of a run without what a clock says."""
  events = read_events(workdir / "metrics.jsonl")
  return [{k: v for k, v in event.items() if k not in TIMES} for event in events]


@pytest.mark.parametrize("centers", ["bank"])
def test_a_killed_run_resumes_to_the_same_bits(arguments, tmp_path, centers, capsys):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  train.main(arguments(workdir=whole, **{"loss.centers": centers}))
  argv = arguments(workdir=killed, **{"loss.centers": centers})
  for killed_at in (3, 10):
    process = run_alone(argv, killed_at=killed_at)
    assert process.returncode == -signal.SIGKILL, process.stderr
  capsys.readouterr()
  train.main(argv)
  told = capsys.readouterr().err
  # Step 8 may still have been on its way to the disk.
  assert re.search("resuming at step [48] of 12", told), told
  (expected, position), (state, resumed_position) = state_of(whole), state_of(killed)
  assert position == resumed_position
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert timeless(killed) == timeless(whole)
  results = [json.loads((d / "result.json").read_text()) for d in (whole, killed)]
  assert results[0]["recall@1"] == results[1]["recall@1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
  from tests.experiments.conftest import SHORT

  workdir = tmp_path_factory.mktemp("runs") / "run"
  fields = {**SHORT, "data.images": pictures, "steps": 60, "log_every": 10}
  fields |= {"profile_steps": 2}
  argv = ["--config=configs/glyphs.py", f"--workdir={workdir}"]
  argv += [f"--config.{name}={value}" for name, value in fields.items()]
  train.main(argv)
  return workdir, argv


def test_a_run_leaves_its_config_metrics_result_and_report(finished):
  workdir, _ = finished
  assert json.loads((workdir / "config.json").read_text())["steps"] == 60
  result = json.loads((workdir / "result.json").read_text())
  assert result["steps"] == 60 and result["seconds"] > 0
  assert result["classes"] == {"train": 6, "validation": 2, "test": 8}
  assert 0 <= result["map@r"] <= result["recall@2"] <= 1
  assert result["versions"]["jax"] == jax.__version__
  kinds = [event["event"] for event in read_events(workdir / "metrics.jsonl")]
  assert kinds.count("train") == 6 and kinds.count("test") == 1
  assert (workdir / "report.html").read_text().count("<svg") >= 2


def test_tensorboard_has_pictures_rates_and_the_trace_that_was_asked_for(finished):
  board = finished[0] / "tensorboard"
  written = b"".join(path.read_bytes() for path in board.glob("events*"))
  for tag in (b"validation/neighbors", b"train/learning_rate", b"train/loss"):
    assert tag in written, tag
  assert len([*board.glob("plugins/profile/*/*.xplane.pb")]) == 1


def test_the_logged_rate_is_that_of_the_step(finished):
  """A linear rise over 2 of 60 steps, then a half cosine down to 0."""
  events = read_events(finished[0] / "metrics.jsonl")
  rates = {e["step"]: e["learning_rate"] for e in events if e["event"] == "train"}
  for step, rate in rates.items():
    part = (step - 1 - 2) / (60 - 2)
    expected = 0.01 * 0.5 * (1 + np.cos(np.pi * part))
    assert rate == pytest.approx(expected, rel=1e-5)


def test_it_learns(finished):
  """Classes are told apart by the place of a spot; chance is 3 of 31."""
  result = json.loads((finished[0] / "result.json").read_text())
  assert result["recall@1"] > 0.5


def test_a_finished_run_says_so(finished, capsys):
  workdir, argv = finished
  before = (workdir / "metrics.jsonl").read_text()
  train.main(argv)
  assert "finished already: test classes recall@1" in capsys.readouterr().out
  assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("parallel", ["jit", "pmap", "class_sharded"])
def test_a_resumed_state_takes_the_place_of_the_fresh_one(finished, parallel):
  """On the same devices, and the memory of the fresh state is given back."""
  folder, _ = finished
  config = workdir.read_config(folder)
  other = base.replace(config, {"parallel": parallel, "class_shards": 2})
  data = datasets.load_data(other)
  run = assemble.make_run(other, data)
  batches = assemble.train_batches(other, data.train)
  fresh = run.init_state()
  layout = jax.tree.map(lambda leaf: leaf.sharding, fresh)
  prepared = train.Prepared(data, run, fresh, batches)
  saved = Checkpoints(
    folder / "checkpoints", read_only=True, num_classes=data.train.num_classes
  )
  with saved:
    state = train.resume(other, folder, prepared, saved)
  assert int(state.step) == 60
  assert jax.tree.map(lambda leaf: leaf.sharding, state) == layout
  assert len(state.step.sharding.device_set) == 8
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(fresh))


def test_evaluate_finds_what_training_reported(finished, capsys, caplog):
  workdir, _ = finished
  evaluate.main([f"--workdir={workdir}"])
  assert not caplog.records, "a newcomer is warned of what is no concern of his"
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  result = json.loads((workdir / "result.json").read_text())
  assert scores["step"] == 60
  for name in ("recall@1", "recall@2", "map@r", "r_precision"):
    assert scores[name] == pytest.approx(result[name], abs=1e-6)
  evaluate.main([f"--workdir={workdir}", "--split=validation"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  last = [
    e for e in read_events(workdir / "metrics.jsonl") if e["event"] == "validation"
  ]
  assert scores["map@r"] == pytest.approx(last[-1]["map@r"], abs=1e-6)


def test_retrieve_lists_the_nearest_and_draws_them(
  finished, pictures, capsys, tmp_path
):
  workdir, _ = finished
  query = pictures / "class_09" / "1.png"
  argv = [f"--workdir={workdir}", f"--images={pictures}", f"--query={query}"]
  retrieve.main([*argv, "--k=3", f"--out={tmp_path / 'found.png'}"])
  lines = capsys.readouterr().out.splitlines()[-4:]
  cosines = [float(line.split()[0]) for line in lines[:3]]
  assert cosines == sorted(cosines, reverse=True)
  names = [line.split(maxsplit=1)[1] for line in lines[:3]]
  assert str(Path("class_09", "1.png")) not in names, "the query found itself"
  assert sum(name.startswith("class_09") for name in names) >= 2
  with Image.open(tmp_path / "found.png") as picture:
    assert min(picture.size) > 100


@pytest.fixture(scope="module")
def saved(finished, tmp_path_factory):
  """The test classes' embeddings of the finished run, as saved."""
  folder = tmp_path_factory.mktemp("saved")
  evaluate.main([f"--workdir={finished[0]}", f"--save-embeddings={folder}"])
  return folder


def test_flip_takes_the_mean_with_the_mirror_image(finished, saved, tmp_path, capsys):
  rundir, _ = finished
  evaluate.main([f"--workdir={rundir}", "--flip", f"--save-embeddings={tmp_path}"])
  assert json.loads(capsys.readouterr().out.splitlines()[-1])["flip"] is True
  config = workdir.read_config(rundir)
  examples = datasets.load_data(config).test
  rows = np.arange(len(examples))
  images = examples.take(rows)["image"][:, :, ::-1]
  mirrored = dataclasses.replace(examples, source=Decoded(images), indices=rows)
  of_mirrored, _ = assemble.make_embed(config)(assemble.restore(rundir), mirrored)
  both = np.float64(np.load(saved / "embeddings.npy")), np.float64(of_mirrored)
  expected = sum(x / np.linalg.norm(x, axis=1, keepdims=True) for x in both) / 2
  np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, atol=1e-5)


def test_an_embedding_of_several_views_is_their_mean(finished, saved):
  config, state = workdir.read_config(finished[0]), assemble.restore(finished[0])
  examples, plain = datasets.load_data(config).test, np.load(saved / "embeddings.npy")
  total = vectors.unit(jnp.asarray(plain))
  for seed in (1, 2):
    batches = pipeline.eval_batches(examples, batch_size=8, view=views.warp, seed=seed)
    images = np.concatenate([b["image"] for b in batches])[: len(examples)]
    source, rows = Decoded(images), np.arange(len(images))
    changed = dataclasses.replace(examples, source=source, indices=rows)
    embeddings, _ = assemble.make_embed(config)(state, changed)
    total += vectors.unit(jnp.asarray(embeddings))
  found, labels = assemble.make_embed(config, num_views=3)(state, examples)
  np.testing.assert_allclose(found, total / 3, atol=1e-5)
  np.testing.assert_array_equal(labels, examples.labels)


def test_only_test_images_are_seen_in_several_views(finished, monkeypatch):
  config = base.replace(workdir.read_config(finished[0]), {"data.test_views": 3})
  monkeypatch.setattr(assemble, "make_embed", lambda *_, num_views=1: num_views)
  run = assemble.make_run(config, datasets.load_data(config))
  assert (run.embed, run.embed_test) == (1, 3)


def test_nmi_on_request(finished, saved, capsys):
  rundir, _ = finished
  evaluate.main([f"--workdir={rundir}", "--nmi"])
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  labels = np.load(saved / "labels.npy")
  expected = probe.clusters(np.load(saved / "embeddings.npy"), labels, seed=0)
  for name in ("nmi", "ami"):
    assert scores[name] == pytest.approx(expected[name], abs=0.05)
  evaluate.main([f"--workdir={rundir}"])
  assert "nmi" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_saved_embeddings_find_what_the_pictures_find(
  finished, saved, pictures, capsys, tmp_path
):
  rundir, _ = finished
  ids = np.load(saved / "ids.npy").tolist()
  names = (saved / "classes.txt").read_text().splitlines()
  label = int(np.load(saved / "labels.npy")[6])
  assert names[label] == Path(ids[6]).parent.name

  def found(*arguments):
    out = tmp_path / "found.png"
    retrieve.main([f"--workdir={rundir}", "--k=3", f"--out={out}", *arguments])
    return [x.split(maxsplit=1) for x in capsys.readouterr().out.splitlines()[-4:-1]]

  among = f"--embeddings={saved}"
  outside = tmp_path / "copy.png"
  outside.write_bytes(Path(ids[6]).read_bytes())
  itself, *others = found(among, f"--query={outside}")
  assert itself == ["1.0000", ids[6]]
  assert found(among, f"--query={ids[6]}")[:2] == others
  # Through the test pictures alone, from the pictures themselves.
  subset = tmp_path / "test"
  for path in map(Path, ids):
    (subset / path.parent.name).mkdir(parents=True, exist_ok=True)
    (subset / path.parent.name / path.name).write_bytes(path.read_bytes())
  pairs = found(f"--images={subset}", f"--query={outside}")[1:]
  for (cosine, name), (expected, path) in zip(pairs, others, strict=True):
    assert path.endswith(name)
    assert float(cosine) == pytest.approx(float(expected), abs=2e-4)


def test_an_exported_network_embeds_as_its_run_does(
  finished, saved, tmp_path, capsys, monkeypatch
):
  rundir, _ = finished
  export.main([f"--workdir={rundir}", f"--out={tmp_path}"])
  assert str(tmp_path / "model.safetensors") in capsys.readouterr().out
  examples = datasets.load_data(workdir.read_config(rundir)).test
  pictures = examples.take(np.arange(len(examples)))["image"]
  expected = np.load(saved / "embeddings.npy")
  loaded = models.load(tmp_path / "model.safetensors")
  np.testing.assert_allclose(loaded(pictures), expected, atol=1e-5)
  exported = jax.export.deserialize(
    bytearray((tmp_path / "model.stablehlo").read_bytes())
  )
  np.testing.assert_allclose(exported.call(pictures), expected, atol=1e-5)
  result = json.loads((rundir / "result.json").read_text())
  assert json.loads(loaded.about["metrics"])["recall@1"] == result["recall@1"]
  card = (tmp_path / "README.md").read_text()
  assert f"| recall@1 | {result['recall@1']:.4f} |" in card
  assert str(rundir.parent) not in card and "data.images pictures" in card
  config = base.replace(workdir.read_config(rundir), {"data.test_views": 8})
  told = "each by the\nmean of 8 views of it, where `embed` takes one"
  assert told in cards.text(config, result, loaded) and told not in card
  monkeypatch.chdir(tmp_path)
  ran = {}
  exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], ran)
  assert ran["embeddings"].shape == (2, 128)


def test_a_run_without_a_result_is_not_exported(tmp_path, capsys):
  workdir.claim(tmp_path, base.Config(), [])
  with pytest.raises(SystemExit):
    export.main([f"--workdir={tmp_path}"])
  assert "has no result yet: let its run end" in capsys.readouterr().err


def changed(argv, folder, **fields):
  """Arguments of a run like another one, in a folder of its own."""
  argv = [a for a in argv if not a.startswith("--workdir")] + [f"--workdir={folder}"]
  return argv + [f"--config.{name}={value}" for name, value in fields.items()]


def assert_equal(state, read):
  """Of a state, and of nested dicts and lists of the same names."""
  found, expected = (
    {jax.tree_util.keystr(path, simple=True): leaf for path, leaf in leaves}
    for leaves in map(jax.tree_util.tree_leaves_with_path, (state, read))
  )
  assert found.keys() == expected.keys()
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, expected[name], name)


def test_a_run_is_trained_for_longer(finished, tmp_path, capsys):
  rundir, argv = finished
  argv = changed(argv, tmp_path / "longer", steps=70)
  train.main([*argv, f"--init-from={rundir}"])
  assert f"goes on with {rundir} at step 60 of 70" in capsys.readouterr().err
  events = read_events(tmp_path / "longer" / "metrics.jsonl")
  assert [e["step"] for e in events if e["event"] == "train"] == [*range(10, 80, 10)]
  # Every field of the state goes on: what one step makes of it is the same.
  config = workdir.read_config(tmp_path / "longer")
  data = datasets.load_data(config)
  run = assemble.make_run(config, data)
  batches = assemble.train_batches(config, data.train)
  state = run.init_state()
  state = inherit.take_over(config, [*data.train.class_names], state, batches)
  (there, position), (end, _) = state_of(rundir), state_of(tmp_path / "longer")
  assert_equal(state, there)
  assert batches.get_state() == position
  steps = loop.steps(
    state, run.train_step, batches, placement=run.placement, num_steps=70
  )
  *_, last = steps
  assert_equal(last.state, end)


@pytest.mark.parametrize(
  ("fields", "told", "kept"),
  [
    ({"data.label_noise": 0.2}, "class vectors go on", True),
    ({"seed": 1}, "anew, since the classes are others", False),
    (
      {"loss.centers": "bank"},
      "anew, since the loss is another (state/centers is missing",
      False,
    ),
  ],
)
def test_a_run_is_fine_tuned(finished, tmp_path, capsys, fields, told, kept):
  rundir, _ = finished
  config = base.replace(
    workdir.read_config(rundir), {"init_from": str(rundir), **fields}
  )
  data = datasets.load_data(config)
  fresh = assemble.make_run(config, data).init_state()
  batches = assemble.train_batches(config, data.train)
  start = batches.get_state()
  state = inherit.take_over(config, [*data.train.class_names], fresh, batches)
  assert told in capsys.readouterr().err
  assert state.step == 0 and batches.get_state() == start
  there, _ = state_of(rundir)
  jax.tree.map(
    np.testing.assert_array_equal, state.params["model"], there["params"]["model"]
  )
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
  expected = there["params"]["objective"] if kept else fresh.params["objective"]
  jax.tree.map(np.testing.assert_array_equal, state.params["objective"], expected)


def test_what_cannot_be_taken_over_is_named(finished, arguments, tmp_path, capsys):
  rundir, argv = finished

  def refused(source, **fields):
    with pytest.raises(SystemExit) as stop:
      train.main([*changed(argv, tmp_path / "run", **fields), f"--init-from={source}"])
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    return capsys.readouterr().err.splitlines()[-1]

  assert "run is at step 60 already: give more than steps=60" in refused(rundir)
  other = refused(rundir, **{"model.dim": 64})
  assert "model.dim is 128 there and 64 here: head/" in other
  assert "nowhere/config.json: no such file" in refused("nowhere")
  workdir.claim(tmp_path, base.Config(), [])
  assert "holds no checkpoint yet" in refused(tmp_path)
  weights = {"model.weights": "f", "model.name": "resnet18"}
  assert "with model.weights=f: give one" in refused(rundir, **weights)


def test_embeddings_of_something_else_are_refused(finished, saved, tmp_path, capsys):
  rundir, _ = finished

  def refused(folder, query="none.png"):
    with pytest.raises(SystemExit) as stop:
      retrieve.main(
        [f"--workdir={rundir}", f"--embeddings={folder}", f"--query={query}"]
      )
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]

  assert "no such file, nor an id of what is saved" in refused(saved)
  assert "holds no embeddings: experiments.evaluate --save" in refused(tmp_path)
  inner = shutil.copytree(saved, tmp_path / "gallery")
  assert "give one of its folders gallery" in refused(tmp_path)
  ids = np.load(inner / "ids.npy")
  np.save(inner / "ids.npy", ids[::-1])
  assert "of other pictures than the run's: save them again" in refused(inner)
  np.save(inner / "ids.npy", ids[1:])
  assert "differ in length" in refused(inner)
  about = json.loads((inner / "about.json").read_text()) | {"step": 59}
  np.save(inner / "ids.npy", ids)
  (inner / "about.json").write_text(json.dumps(about))
  assert "are of step 59, and the run is at step 60" in refused(inner)


def test_pmap_trains_too(arguments, tmp_path):
  train.main(arguments(parallel="pmap", **{"loss.centers": "bank"}))
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert 0 < result["recall@1"] <= 1


def test_other_classes_than_the_run_was_trained_on_are_refused(
  arguments, pictures, tmp_path, capsys
):
  """Labels follow the folders' names, so that each would mean another class."""
  images = tmp_path / "pictures"
  shutil.copytree(pictures, images)
  argv = arguments(steps=4, **{"data.images": images})
  train.main(argv)
  (tmp_path / "run" / "result.json").unlink()
  for name in ("a", "b", "c", "d"):
    shutil.copytree(images / "class_00", images / name)
  with pytest.raises(SystemExit):
    train.main(argv)
  assert "was trained on 6 classes and the data now has 8" in capsys.readouterr().err
