"""A run's test: one search of the test examples, for metrics and report alike."""

import dataclasses

import numpy as np
import pytest

from ccl_jax import retrieval
from ccl_jax.data.examples import Decoded, Examples
from configs.base import Config
from experiments.run import datasets, scoring, show

LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 1])  # 2 and 3 are alone in their class


def examples(labels):
  return Examples(
    source=Decoded(np.zeros((len(labels), 8, 8, 1), np.uint8)),
    labels=labels.astype(np.int32),
    class_names=tuple("abcd"),
    indices=np.arange(len(labels)),
  )


def embed(state, part):
  rng = np.random.default_rng(len(part))
  return rng.normal(size=(len(part), 4)).astype(np.float32), part.labels


@pytest.fixture(params=["among each other", "in a gallery"])
def data(request):
  gallery = None if request.param == "among each other" else examples(LABELS[::-1][:6])
  return datasets.Data(None, None, examples(LABELS), gallery)


def test_the_test_examples_are_searched_once(data, tmp_path, monkeypatch):
  searches, search = [], retrieval._for_each_block
  monkeypatch.setattr(
    retrieval,
    "_for_each_block",
    lambda *args, **kwargs: searches.append(args) or search(*args, **kwargs),
  )
  config = Config(recall_at=(1, 2))
  tested = scoring.test(config, embed, None, data)
  show.write_report(
    tmp_path, config, [], tested.metrics, data, None, tested.neighbors, None
  )
  assert len(searches) == 1
  page = (tmp_path / "report.html").read_text()
  assert "Queries drawn at random" in page
  assert tested.metrics == scoring.score(config, tested.embedded)


def test_the_report_shows_the_nearest_of_each_test_example(data):
  tested = scoring.test(Config(recall_at=(1,)), embed, None, data)
  shown = show.neighbors_of(data, tested.neighbors)
  rows = tested.embedded.queries, tested.embedded.gallery
  expected = retrieval.search(*rows, k=scoring.NEIGHBORS)
  np.testing.assert_array_equal(shown.indices, expected.indices)
  np.testing.assert_allclose(shown.similarities, expected.similarities, atol=1e-6)
  searched = data.gallery or data.test
  np.testing.assert_array_equal(shown.gallery_labels, searched.labels)
  among = shown.gallery_images is shown.query_images
  assert among == (data.gallery is None)


def test_fewer_rows_than_the_report_shows_are_all_shown(data):
  few = data._replace(test=examples(np.array([0, 0, 1])))
  if data.gallery:
    few = data._replace(gallery=examples(np.array([0, 1])))
  tested = scoring.test(Config(recall_at=(1,)), embed, None, few)
  assert tested.neighbors.indices.shape[1] == 2


def test_few_shot_tasks_are_of_the_kinds_that_the_classes_allow():
  config, rng = Config(few_shot_tasks=30), np.random.default_rng(0)
  labels = np.arange(24).repeat(20).astype(np.int32)
  drawings = dataclasses.replace(
    examples(labels),
    class_names=tuple(f"{'Greek' if k < 21 else 'Latin'}/{k}" for k in range(24)),
    bias=np.tile(np.arange(20), 24),
  )
  rows = np.eye(24)[labels] + rng.normal(0, 0.1, (480, 24))
  found = scoring.score_few_shot(config, drawings, rows)
  kinds = {f"{w}-way {s}-shot" for w in (5, 20) for s in (1, 5)}
  kinds |= {f"{w}-way 5-shot by nearest" for w in (5, 20)}
  kinds |= {"within a family, 20-way 1-shot"}
  assert found.keys() == {
    f"{k} {part}" for k in kinds for part in ("accuracy", "interval")
  }
  assert all(found[f"{kind} accuracy"] > 0.9 for kind in kinds)
  few = scoring.score_few_shot(config, drawings.subset(range(6)), rows[:120])
  assert {name for name in few if "20-way" in name} == set() and len(few) == 6
