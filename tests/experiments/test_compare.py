"""Comparisons: what is run, in which order, by whom, and what the results become."""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ccl_jax.training import loop
from configs import base
from configs.base import Config, Data, Loss
from configs.comparison import Comparison
from experiments import compare, train
from experiments.comparison import charts, jobs, store, tables
from experiments.run import command_line, datasets
from experiments.run.command_line import InputError

ROOT = Path(__file__).parents[2]
SPACE = {"loss.scale": (4.0, 8.0, 16.0, 32.0), "loss.margin": (0.0, 0.1)}
COMPARISON = Comparison(
  methods={"CCL": Config(), "softmax": Config(loss=Loss(name="normalized_softmax"))},
  columns={"10 steps": {"steps": 10}, "20 steps": {"steps": 20}},
  spaces={"CCL": SPACE},
  trial={"steps": 5, "seed": 100},
  trials=3,
  metrics=("recall@1",),
  ours=("CCL",),
)


def keep(job, metrics, curve=()):
  result = {"metrics": metrics, "config": base.fields(job.config), "seconds": 1}
  jobs.keep(job, {**result, "curve": list(curve)})


def missing(folder, seeds=2, comparison=COMPARISON, study="main"):
  files = folder / f"{study}.jsonl", folder / compare.SEARCH
  return jobs.find_missing(comparison, *files, seeds)


def change(path, number, edit):
  """Edits a line of a file of results in place; None drops it."""
  lines = path.read_text().splitlines()
  row = json.loads(lines[number])
  lines[number] = None if edit(row) is None else json.dumps(row)
  path.write_text("".join(f"{line}\n" for line in lines if line is not None))


def test_trials_are_drawn_from_the_space_and_stay_as_they_were():
  own, *drawn = [COMPARISON.trial_config("CCL", n) for n in range(40)]
  assert own == Config(steps=5, seed=100)
  assert {c.loss.scale for c in drawn} == set(SPACE["loss.scale"])
  assert {c.loss.margin for c in drawn} == set(SPACE["loss.margin"])
  assert all(c.steps == 5 and c.loss.center_weight is None for c in drawn)
  both = dataclasses.replace(COMPARISON, spaces={"CCL": SPACE, "softmax": SPACE})
  others = [both.trial_config("softmax", n) for n in range(1, 40)]
  assert [c.loss.scale for c in others] != [c.loss.scale for c in drawn]
  fewer = dataclasses.replace(COMPARISON, trials=1, methods={"CCL": Config()})
  assert [fewer.trial_config("CCL", n) for n in range(1, 40)] == drawn


def test_what_is_tuned_waits_for_its_trials_and_takes_the_best(tmp_path):
  jobs, more = missing(tmp_path)
  assert more
  assert [(job.ids["row"], job.ids.get("trial")) for job in jobs[:3]] == [
    ("CCL", 0),
    ("CCL", 1),
    ("CCL", 2),
  ]
  assert {job.ids["row"] for job in jobs[3:]} == {"softmax"}
  # A seed of every cell before the next.
  assert [(job.ids["column"], job.ids["seed"]) for job in jobs[3:]] == [
    ("10 steps", 0),
    ("20 steps", 0),
    ("10 steps", 1),
    ("20 steps", 1),
  ]
  for job, found in zip(jobs[:3], (0.2, 0.6, 0.6), strict=True):
    keep(job, {"recall@1": found})
  later, more = missing(tmp_path)
  assert not more
  tuned = [job.config for job in later if job.ids["row"] == "CCL"]
  best = jobs[1].config  # the first of two as good
  assert best.loss != jobs[2].config.loss
  assert all(c.loss == best.loss for c in tuned)
  assert sorted((c.steps, c.seed) for c in tuned) == [
    (10, 0),
    (10, 1),
    (20, 0),
    (20, 1),
  ]


def test_a_row_may_have_what_was_found_for_another(tmp_path):
  methods = {**COMPARISON.methods, "CCL, longer": Config(batch_size=256)}
  both = dataclasses.replace(
    COMPARISON, methods=methods, tuned_as={"CCL, longer": "CCL"}
  )
  jobs, _ = missing(tmp_path, comparison=both)
  assert "CCL, longer" not in {job.ids["row"] for job in jobs}  # waits for CCL's trials
  for job in jobs[:3]:
    keep(job, {"recall@1": job.ids["trial"]})
  later, _ = missing(tmp_path, comparison=both)
  configs = {job.ids["row"]: job.config for job in later}
  assert configs["CCL, longer"].loss == configs["CCL"].loss == jobs[2].config.loss
  assert configs["CCL, longer"].batch_size == 256
  with pytest.raises(ValueError, match=r"tuned_as has \['x'\]: expected methods with"):
    dataclasses.replace(COMPARISON, tuned_as={"CCL": "x"})


def test_a_stored_run_is_not_done_again_and_another_config_is_refused(tmp_path):
  jobs, _ = missing(tmp_path)
  keep(jobs[-1], {"recall@1": 0.1})
  assert jobs[-1].ids not in [job.ids for job in missing(tmp_path)[0]]

  def as_if_a_field_had_come_later(head):
    del head["shared"]["config"]["loss.momentum"]
    head["shared"]["config"]["data.data_dir"] = "/elsewhere"
    return head

  path = tmp_path / "main.jsonl"
  change(path, 0, as_if_a_field_had_come_later)
  assert jobs[-1].ids not in [job.ids for job in missing(tmp_path)[0]]
  change(
    path,
    1,
    lambda row: row.setdefault("config", {}).update({"loss.scale": 99.0}) or row,
  )
  says = (
    r"main.jsonl has a run of another config, in \['loss.scale'\]: remove the line of"
  )
  with pytest.raises(InputError, match=says):
    missing(tmp_path)


@pytest.fixture
def done(monkeypatch):
  """(config, whether a trial) of each run, none of which trains."""
  done = []

  def run(config, *, trial):
    done.append((config, trial))
    return {
      "metrics": {"recall@1": 0.5},
      "seconds": 1,
      "config": base.fields(config),
    }

  monkeypatch.setattr(jobs, "run", run)
  monkeypatch.setattr(jobs, "_build_data", lambda *_: None)
  return done


def test_two_processes_share_the_runs(tmp_path, monkeypatch, done):
  first, second, *_ = missing(tmp_path)[0]
  with jobs.claim(first) as mine:
    with jobs.claim(first) as theirs, jobs.claim(second) as other:
      assert mine and other and not theirs
  with jobs.claim(first) as again:
    assert again
  assert not list(tmp_path.iterdir())

  # The other one has begun the first trial, and ends it while this one waits.

  def wait(seconds):
    held.__exit__(None, None, None)
    keep(first, {"recall@1": 0.5})

  monkeypatch.setattr(jobs.time, "sleep", wait)
  held = jobs.claim(first)
  assert held.__enter__()
  jobs.train_all(COMPARISON, tmp_path / "main.jsonl", tmp_path / compare.SEARCH, 2)
  assert missing(tmp_path) == ([], False)
  assert first.config not in [config for config, _ in done]
  assert sum(trial for _, trial in done) == 2 and len(done) == 2 + 2 * 2 * 2


def test_a_run_that_another_process_has_ended_since_is_not_done_again(
  tmp_path, monkeypatch, done
):
  """Between the look for what is missing and the claim."""
  first, *_ = missing(tmp_path)[0]
  claim, ended = jobs.claim, []

  def claim_late(job):
    if job.ids == first.ids and not ended:
      ended.append(job)
      keep(first, {"recall@1": 0.5})
    return claim(job)

  monkeypatch.setattr(jobs, "claim", claim_late)
  jobs.train_all(COMPARISON, tmp_path / "main.jsonl", tmp_path / compare.SEARCH, 1)
  assert first.config not in [config for config, _ in done]
  assert len(done) == 2 + 2 * 2


@pytest.fixture
def two_methods(tmp_path, monkeypatch):
  """A config file of two methods, and runs that take no time: the n-th finds n/10."""
  (tmp_path / "methods.py").write_text("""
from configs.base import Config, Loss
from configs.comparison import Comparison

def get_comparison():
  return Comparison(
    methods={"one": Config(loss=Loss(name="contex")), "other": Config()},
    columns={"easy": {}},
  )
""")
  runs = []

  def run(config, *, trial):
    assert not trial
    runs.append(config)
    return {
      "metrics": {"recall@1": len(runs) / 10},
      "seconds": 1.0,
      "config": base.fields(config),
    }

  monkeypatch.setattr(jobs, "run", run)
  monkeypatch.setattr(jobs, "_build_data", lambda *_: None)
  argv = [f"--config={tmp_path / 'methods.py'}", f"--results={tmp_path / 'results'}"]
  return [*argv, "--seeds=2", "--metric=recall@1"], runs


def test_a_comparison_stores_each_run_once_and_makes_its_table_from_them(
  two_methods, tmp_path, capsys
):
  argv, runs = two_methods
  compare.main(argv)
  table = capsys.readouterr().out.splitlines()[-5:-1]
  # Runs 1 and 3 are of one method: .1 and .3, and t = 12.706 for one degree of freedom.
  assert table == [
    "| recall@1 | easy |",
    "| --- | --- |",
    "| one | 0.200 ± 1.271 |",
    "| other | 0.300 ± 1.271 |",
  ]
  assert [(config.loss.name, config.seed) for config in runs[1:3]] == [
    ("center_contrastive", 0),
    ("contex", 1),
  ]
  path = tmp_path / "results" / "main.jsonl"
  assert [path.name for path in path.parent.iterdir()] == ["main.jsonl"]
  stored = [(row["row"], row["seed"]) for row in store.read(path)]
  assert sorted(stored) == [("one", 0), ("one", 1), ("other", 0), ("other", 1)]
  # The other is ahead by .1 with each seed.
  compare.main([*argv, "--table-only", "--minus=one"])
  difference = capsys.readouterr().out.splitlines()[-4:-1]
  assert difference[0] == "| recall@1, minus one | easy |"
  assert difference[2] == "| other | 0.100 ± 0.000 |"
  # What is stored is believed, and only what is missing is trained.
  change(path, 1 + stored.index(("other", 1)), lambda row: None)
  compare.main([*argv, "--table-only"])
  assert capsys.readouterr().out.splitlines()[-2] == "| other | 0.200 (1 of 2) |"
  assert len(runs) == 4
  compare.main(argv)
  assert len(runs) == 5 and runs[4].seed == 1
  assert capsys.readouterr().out.splitlines()[-2] == "| other | 0.350 ± 1.906 |"
  # Other settings under the same name are no second run of the same.
  # A result from before a field of the schema is still one of its default.
  change(path, 0, lambda head: head["shared"]["config"].pop("data.rho") and head)
  compare.main(argv)
  change(
    path, 1, lambda row: row.setdefault("config", {}).update({"loss.gamma": 0.3}) or row
  )
  with pytest.raises(SystemExit):
    compare.main(argv)
  assert "of another config, in ['loss.gamma']" in capsys.readouterr().err


@pytest.fixture
def tiny(pictures):
  return Config(
    batch_size=8,
    steps=4,
    eval_every=2,
    recall_at=(1,),
    data=Data(name="folder", images=str(pictures), validation_fraction=0.25),
  )


def test_a_run_ends_in_metrics_of_the_test_classes_and_a_curve(tiny):
  result = json.loads(json.dumps(jobs.run(tiny)))
  assert [point["step"] for point in result["curve"]] == [2, 4]
  assert {"loss", "recall@1", "map@r"} <= result["metrics"].keys()
  trial = jobs.run(tiny, trial=True)
  assert "curve" not in trial
  # Two validation classes of four pictures; eight test classes.
  assert trial["metrics"]["recall@1"] * 8 == round(trial["metrics"]["recall@1"] * 8)
  assert trial["metrics"]["recall@1"] == result["curve"][-1]["recall@1"]


@pytest.mark.parametrize("trial", [True, False])
def test_that_a_run_diverges_is_its_result(tiny, trial):
  diverging = base.replace(tiny, {"optimizer.learning_rate": 1e30, "steps": 6})
  result = jobs.run(diverging, trial=trial)
  json.dumps(result, allow_nan=False)
  assert 0 < result["diverged_at"] <= 6
  assert result["metrics"] == {}
  assert tables.value_of(result, "probe unbiased") == 0


def test_a_comparison_takes_the_steps_that_training_takes(tiny, tmp_path, monkeypatch):
  """Both through `loop.steps`, so that the same config has the same losses."""
  taken, take = [], loop.steps

  def watched(*args, **options):
    losses = []
    taken.append(losses)
    for step in take(*args, **options):
      losses.append(float(step.metrics["loss"]))
      yield step

  monkeypatch.setattr(loop, "steps", watched)
  jobs.run(tiny)
  train.train(base.replace(tiny, {"checkpoint_every": 100}), tmp_path / "run")
  compared, trained = taken
  assert len(compared) == tiny.steps and compared == trained


def test_a_trial_needs_validation_classes(tiny):
  whole = base.replace(tiny, {"data.validation_fraction": 0.0})
  with pytest.raises(ValueError, match="validation_fraction=0.0: a trial is scored on"):
    jobs.run(whole, trial=True)


def results():
  """Two seeds of two rows in one column, with curves."""
  curves = {"CCL": (0.5, 0.8), "softmax": (0.3, 0.6)}
  return [
    {
      "row": row,
      "column": "20 steps",
      "seed": seed,
      "metrics": {"recall@1": value + seed / 10},
      "curve": [
        {"step": 10, "recall@1": curves[row][0]},
        {"step": 20, "recall@1": curves[row][1]},
      ],
    }
    for row, value in (("CCL", 0.7), ("softmax", 0.4))
    for seed in (0, 1)
  ]


ORDER = tables.Order(["softmax", "CCL"], ["10 steps", "20 steps"])


def test_the_table_holds_means_and_intervals():
  shown = tables.means(results(), "recall@1", ORDER).splitlines()
  assert shown[0] == "| recall@1 | 20 steps |"
  # Student's t for one degree of freedom is 12.706; the deviation of two is d / 2^.5.
  assert shown[2:] == ["| softmax | 0.450 ± 0.635 |", "| CCL | 0.750 ± 0.635 |"]
  minus = tables.means(results(), "recall@1", ORDER, "softmax").splitlines()
  assert minus[0] == "| recall@1, minus softmax | 20 steps |"
  assert minus[2:] == ["| CCL | 0.300 ± 0.000 |"]
  with pytest.raises(InputError, match="--minus=SupCon: the rows are softmax, CCL"):
    tables.means(results(), "recall@1", ORDER, "SupCon")
  with pytest.raises(InputError, match="metric map: the results hold recall@1"):
    tables.means(results(), "map", ORDER)
  one_less = [r for r in results() if (r["row"], r["seed"]) != ("CCL", 1)]
  shown = tables.means(one_less, "recall@1", ORDER).splitlines()
  assert shown[3] == "| CCL | 0.700 (1 of 2) |"


def test_many_conditions_are_rows():
  columns = [f"{i} steps" for i in range(tables.MOST_COLUMNS + 1)]
  found = [{**r, "column": c} for c in columns for r in results()]
  order = tables.Order(ORDER.rows, columns)
  shown = tables.means(found, "recall@1", order).splitlines()
  assert shown[0] == "| recall@1 | softmax | CCL |" and len(shown) == 2 + len(columns)
  assert shown[-1] == f"| {columns[-1]} | 0.450 ± 0.635 | 0.750 ± 0.635 |"
  minus = tables.means(found, "recall@1", order, "softmax").splitlines()
  assert minus[2] == "| 0 steps | 0.300 ± 0.000 |"


def ranking(values):
  """A study with one seed a value, of methods named by their place."""
  return [
    {"row": f"{row}", "column": "9 steps", "seed": seed, "metrics": {"recall@1": value}}
    for row, of_row in enumerate(values)
    for seed, value in enumerate(of_row)
  ]


def test_ranks_on_other_data_are_correlated():
  rng = np.random.default_rng(0)
  here, there = rng.random((2, 7, 3))
  order = tables.Order([f"{row}" for row in range(8)], ["9 steps", "5 steps"])
  others = [*ranking(there), ranking(rng.random((8, 3)))[-1]]  # row 7: there alone
  shown = tables.agreement(ranking(here), others, "recall@1", order).splitlines()

  def spearman(a, b):  # the formula for ranks without ties
    squared = (np.argsort(np.argsort(a)) - np.argsort(np.argsort(b))) ** 2
    return 1 - 6 * squared.sum() / (7 * (7**2 - 1))

  whole = spearman(here.mean(axis=1), there.mean(axis=1))
  both = here.T, there.T
  seeds = tables.interval([spearman(a, b) for a, b in zip(*both, strict=True)], 2)
  assert shown[2:] == [f"| 9 steps | 7 | {whole:.2f} | {seeds} |"]
  with pytest.raises(InputError, match="the same three methods in both"):
    tables.agreement(ranking(here), ranking(there[:2]), "recall@1", order)


def test_ranks_on_other_data_are_joined_by_lines(tmp_path, monkeypatch, capsys):
  values = [[0.3], [0.1], [0.2]]
  stored = {"here": ranking(values), "there": ranking(values[::-1])}
  monkeypatch.setattr(compare.store, "read", lambda path: stored[path.parent.name])
  comparison = Comparison({row: Config() for row in "012"}, {"9 steps": {}})
  monkeypatch.setattr(compare, "_load", lambda *_: comparison)
  drawn = []
  monkeypatch.setattr(Figure, "savefig", lambda *given, **_: drawn.append(given))
  compare.main(
    [
      "--config=x",
      f"--results={tmp_path / 'here'}",
      "--table-only",
      "--metric=recall@1",
      f"--against={tmp_path / 'there'}",
      f"--figures={tmp_path}",
    ]
  )
  assert "| 9 steps | 3 | 0.50 | 0.50 |" in capsys.readouterr().out
  (figure, path) = drawn[-1]
  assert path == tmp_path / "here_ranks.png"
  (axes,) = figure.axes
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["there", "here"]
  assert [[*line.get_ydata()] for line in axes.lines] == [[1, 0], [2, 2], [0, 1]]
  assert [text.get_text() for text in axes.texts[:2]] == ["0 0.200", "0.300 0"]


def test_a_run_that_diverged_counts_as_zero(tmp_path):
  """In the mean, in the steps to a goal and in figures; never left out."""
  found = results()
  found[1] = found[1] | {
    "diverged_at": 13,
    "metrics": {},
    "curve": found[1]["curve"][:1],
  }
  shown = tables.means(found, "recall@1", ORDER).splitlines()
  assert shown[3] == "| CCL | 0.350 ± 4.447 |"
  shown = tables.speed(found, "recall@1", ORDER, ["CCL"]).splitlines()
  assert shown[3] == "| CCL | 0.400 | not in all seeds | not in all seeds |"
  assert tables.curves(found, "recall@1", "20 steps")["CCL"] == {
    0: [(10, 0.5), (20, 0.8)],
    1: [(10, 0.5), (20, 0.0)],
  }
  comparison = Comparison({"softmax": Config(), "CCL": Config()}, {"20 steps": {}})
  charts.draw(found, ORDER, comparison, tmp_path, "few")
  assert (tmp_path / "few_steps.png").stat().st_size > 5000


def test_groups_are_drawn_where_every_run_that_ended_has_them(tmp_path):
  comparison = Comparison({"softmax": Config(), "CCL": Config()}, {"20 steps": {}})
  found = results()
  for result in found:
    result["metrics"] |= {f"seen {group} recall@1": 0.4 for group in charts.GROUPS}
  found[1] = found[1] | {"diverged_at": 13, "metrics": {}}
  charts.draw(found, ORDER, comparison, tmp_path, "all")
  del found[2]["metrics"]["seen medium recall@1"]  # no class of it had a query
  charts.draw(found, ORDER, comparison, tmp_path, "one_less")
  assert {path.name for path in tmp_path.glob("*_groups.png")} == {"all_groups.png"}


@pytest.mark.parametrize(
  ("field", "parts"), [("data.images_per_class", [1, 2]), ("loss.memory_size", [3])]
)
def test_batches_without_regard_to_classes_are_no_number_on_the_axis(field, parts):
  columns = {f"{value}": {field: value} for value in (0, 256, 512)}
  loss = Loss(name="supcon")
  comparison = Comparison({"SupCon": Config(loss=loss)}, columns, ours=("SupCon",))
  found = [
    {"row": "SupCon", "column": c, "seed": s, "metrics": {"recall@1": 0.1 * s}}
    for c in columns
    for s in (0, 1)
  ]
  order = tables.Order(["SupCon"], [*columns])
  (axes,) = charts.over_values(found, order, comparison, "title").axes
  drawn = [line for line in axes.lines if line.get_marker() == "o"]
  assert [len(line.get_xdata()) for line in drawn] == parts
  shown = [label.get_text() for label in axes.get_xticklabels()]
  assert ("shuffled" in shown) == (len(parts) == 2)


def test_a_figure_says_of_what_and_how_many_runs_it_is(tmp_path, monkeypatch):
  figures = []
  monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self))
  comparison = Comparison({"softmax": Config(), "CCL": Config()}, {"20 steps": {}})
  charts.draw(results(), ORDER, comparison, tmp_path, "few")
  title = figures[0].axes[0].get_title(loc="right")
  assert title == "glyphs; mean of 2 seeds, 95% interval"


def test_one_process_builds_the_data_while_others_of_any_study_wait(
  tmp_path, monkeypatch
):
  built = []

  def load(config):
    with pytest.raises(BlockingIOError), opened(tmp_path) as folder:
      fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    built.append((config.data.name, config.data.image_size))

  monkeypatch.setattr(datasets, "load_data", load)
  columns = {
    "small": {"data.image_size": 16},
    "large": {"data.image_size": 32},
    "same": {},
  }
  jobs._build_data(Comparison({"CCL": Config()}, columns), tmp_path)
  assert built == [("glyphs", 16), ("glyphs", 32)]
  with opened(tmp_path) as folder:  # free again
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
  assert not [*tmp_path.iterdir()]


@contextlib.contextmanager
def opened(path):
  """As another process would open it."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def test_the_interval_is_students():
  values = [0.1, 0.4, 0.2, 0.25, 0.15]
  expected = 2.776445 * statistics.stdev(values) / math.sqrt(5)
  np.testing.assert_allclose(tables.half_width(values), expected, rtol=1e-6)
  assert tables.interval([0.25]) == "0.250" and tables.interval([]) == ""


def test_speed_is_read_off_the_curves():
  shown = tables.speed(results(), "recall@1", ORDER, ["CCL"]).splitlines()
  # The best baseline ends at .6: .54 is 24 / 30 of the way of its second half.
  assert shown[2] == "| softmax | 0.600 | 18 ± 0 | 20 ± 0 |"
  # CCL is at .5 after 10 steps and gains .03 a step.
  assert shown[3] == "| CCL | 0.800 | 11 ± 0 | 13 ± 0 |"
  # Each seed has validation classes of its own: what is hard for all moves nothing.
  harder = results()
  for point in (p for r in harder if r["seed"] == 1 for p in r["curve"]):
    point["recall@1"] /= 2
  steps = [line.split(" | ", 2)[2] for line in shown[2:4]]
  shown = tables.speed(harder, "recall@1", ORDER, ["CCL"]).splitlines()
  assert [line.split(" | ", 2)[2] for line in shown[2:4]] == steps
  assert tables.speed(results(), "recall@1", ORDER, ["CCL", "softmax"]) == ""
  assert tables.first_step([(10, 0.2)], 0.5) is None
  assert tables.first_step([(10, 0.2)], 0.1) == 5


# By study, how many seeds its page tells of, where not 3; 0: not run.
SEEDS = {
  "biased_glyphs": {"main": 5},
  "glyphs_comparison": {"main": 5, "steps_muon": 5},
  "omniglot_comparison": {
    "main": 2,
    "steps_muon": 5,
    "imbalance": 0,
    "margin": 0,
    "center_weight": 0,
  },
}


@pytest.mark.parametrize("name", SEEDS)
def test_the_stored_runs_are_those_that_the_config_asks_for(name):
  module = command_line.load_module(str(ROOT / "configs" / f"{name}.py"))
  stored = ROOT / "experiments" / "results" / name.removesuffix("_comparison")
  comparisons = {"main": module.get_comparison()}
  if hasattr(module, "get_studies"):
    comparisons |= module.get_studies()
  for study, comparison in comparisons.items():
    if seeds := SEEDS[name].get(study, 3):
      assert missing(stored, seeds, comparison, study) == ([], False), study


def test_a_dead_process_claims_nothing(tmp_path):
  job = jobs.Job(tmp_path / "main.jsonl", {"row": "CCL", "seed": 3}, Config(), False)
  code = (
    "import os, pathlib, sys; from experiments.comparison import jobs;"
    "study, ids = pathlib.Path(sys.argv[1]), {'row': 'CCL', 'seed': 3};"
    "job = jobs.Job(study, ids, None, False);"
    "jobs.claim(job).__enter__(); os._exit(1)"
  )
  subprocess.run([sys.executable, "-c", code, job.study], cwd=ROOT)
  assert [path.name for path in tmp_path.iterdir()] == ["main_ccl_3.lock"]
  with jobs.claim(job) as mine:
    assert mine


def test_a_study_is_shown_and_drawn(tmp_path, monkeypatch, capsys):
  comparison = dataclasses.replace(
    COMPARISON, columns={f"scale {s}": {"loss.scale": s} for s in (4.0, 8.0, 64.0)}
  )
  ours = dataclasses.replace(comparison, methods={"CCL": Config()})
  grouped = {f"seen {g} recall@1": 0.3 for g in ("rare", "medium", "frequent")}
  for name, study, more in (
    ("all", comparison, grouped),
    ("ours", ours, {}),
    ("budgets", COMPARISON, {}),
  ):
    jobs, more_to_come = missing(tmp_path, 2, study, name)
    for job in jobs:
      if job.trial:
        keep(job, {"recall@1": 0.5})
    assert more_to_come
    for job in missing(tmp_path, 2, study, name)[0]:
      curve = [{"step": s, "recall@1": s / 20} for s in (5, job.config.steps)]
      keep(job, {"recall@1": (job.config.loss.scale or 16.0) / 100, **more}, curve)
    (tmp_path / compare.SEARCH).unlink()  # the trials, of this study
    monkeypatch.setattr(compare, "_load", lambda *_, study=study: study)
    compare.main(
      [
        "--config=x",
        f"--results={tmp_path}",
        f"--study={name}",
        "--table-only",
        f"--figures={tmp_path / 'figures'}",
      ]
    )
  shown = capsys.readouterr().out
  assert "| recall@1 | scale 4.0 | scale 8.0 | scale 64.0 |" in shown
  assert shown.count("steps to 90% of softmax") == 2
  drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
  assert drawn == ["all.png", "all_groups.png", "budgets_steps.png", "ours.png"]


@pytest.mark.parametrize(
  ("columns", "field"),
  [
    (
      {"a": {"loss.scale": 1.0, "steps": 9}, "b": {"loss.scale": 2.0, "steps": 9}},
      "loss.scale",
    ),
    (
      {"a": {"loss.scale": 1.0, "steps": 8}, "b": {"loss.scale": 2.0, "steps": 9}},
      None,
    ),
    ({"a": {}, "b": {"loss.scale": 2.0}}, None),
    ({"a": {"loss.scale": 2.0}}, None),
  ],
)
def test_the_field_that_columns_vary_is_in_each_of_them(columns, field):
  assert dataclasses.replace(COMPARISON, columns=columns).varied() == field


def test_a_space_without_its_method_is_refused():
  with pytest.raises(ValueError, match=r"spaces of \['CCL'\]: expected some of the"):
    dataclasses.replace(COMPARISON, methods={"softmax": Config()})


def test_a_config_without_a_comparison_is_refused(capsys):
  with pytest.raises(SystemExit):
    compare.main(["--config=configs/glyphs.py", "--results=x", "--table-only"])
  assert "configs/glyphs.py defines no get_comparison" in capsys.readouterr().err


def test_a_study_that_is_not_there_is_refused(capsys):
  arguments = ["--config=configs/glyphs_comparison.py", "--results=x", "--study=size"]
  with pytest.raises(SystemExit):
    compare.main([*arguments, "--table-only"])
  assert "the studies of configs/glyphs_comparison.py are steps, steps_muon" in (
    capsys.readouterr().err
  )
