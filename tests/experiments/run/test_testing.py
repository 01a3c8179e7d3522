"""A run's test: one search of the test examples, for metrics and report alike."""

import numpy as np
import pytest

from ccl_jax import retrieval
from ccl_jax.data.examples import Decoded, Examples
from configs.base import Config
from experiments.run import datasets, show, testing

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
  tested = testing.test(config, embed, None, data)
  show.write_report(tmp_path, config, [], tested.metrics, data, None, tested.neighbors)
  assert len(searches) == 1
  page = (tmp_path / "report.html").read_text()
  assert "Queries drawn at random" in page
  assert tested.metrics == testing.score(config, tested.embedded)


def test_the_report_shows_the_nearest_of_each_test_example(data):
  tested = testing.test(Config(recall_at=(1,)), embed, None, data)
  shown = show.neighbors_of(data, tested.neighbors)
  rows = tested.embedded.queries, tested.embedded.gallery
  expected = retrieval.search(*rows, k=testing.NEIGHBORS)
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
  tested = testing.test(Config(recall_at=(1,)), embed, None, few)
  assert tested.neighbors.indices.shape[1] == 2
