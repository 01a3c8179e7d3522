"""Stored embeddings as examples: read in place, split by class, and refused by name."""

import numpy as np
import pytest

from ccl_jax.data import pipeline
from ccl_jax.data.sources import features

N, DIM = 24, 5


@pytest.fixture
def arrays():
  rng = np.random.default_rng(0)
  return {
    "embeddings": rng.normal(size=(N, DIM)).astype(np.float32),
    "labels": np.arange(N) % 6 * 10,  # gaps between the labels
  }


def write(folder, arrays, form):
  if form == "folder":
    for name, array in arrays.items():
      np.save(folder / f"{name}.npy", array)
    return folder
  {"npz": np.savez, "packed": np.savez_compressed}[form](folder / "f.npz", **arrays)
  return folder / "f.npz"


@pytest.mark.parametrize("form", ["folder", "npz", "packed"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_labels_and_names_are_those_of_the_file(form, dtype, arrays, tmp_path):
  arrays["embeddings"] = arrays["embeddings"].astype(dtype)
  arrays |= {"ids": np.array([f"picture {i}" for i in range(N)])}
  arrays |= {"split": np.where(arrays["labels"] < 30, "train", "test")}
  train, test = features.load(write(tmp_path, arrays, form))
  assert isinstance(train.source.images, np.memmap) == (form != "packed")
  assert train.class_names == ("0", "10", "20")
  assert test.class_names == ("30", "40", "50")
  seen = {}
  for part in (train, test):
    taken = part.take(np.arange(len(part)))
    for name, row, label in zip(part.ids, taken["image"], taken["label"], strict=True):
      seen[name] = part.class_names[label], row
  assert len(seen) == N
  for i in range(N):
    label, row = seen[f"picture {i}"]
    assert label == str(arrays["labels"][i])
    np.testing.assert_array_equal(row, arrays["embeddings"][i])


def test_without_a_split_half_of_the_classes_train(arrays, tmp_path):
  path = write(tmp_path, arrays, "npz")
  train, test = features.load(path, seed=1)
  assert sorted(train.class_names + test.class_names) == sorted(
    "0 10 20 30 40 50".split()
  )
  assert train.num_classes == test.num_classes == 3
  assert features.load(path, seed=1)[0].class_names == train.class_names
  others = {features.load(path, seed=s)[0].class_names for s in range(5)}
  assert len(others) > 1


def test_classes_that_are_trained_and_tested_keep_one_number(arrays, tmp_path):
  arrays["split"] = np.array(["train", "test", "gallery"])[np.arange(N) // 6 % 3]
  (tmp_path / "classes.txt").write_text("".join(f"class {i}\n" for i in range(51)))
  parts = features.load(write(tmp_path, arrays, "folder"))
  assert [len(part) for part in parts] == [12, 6, 6]
  for part in parts:
    assert part.class_names == tuple(f"class {i}" for i in range(0, 60, 10))


def test_batches_hold_the_rows_in_order_and_zeros_after_them(arrays, tmp_path):
  arrays["split"] = np.repeat(["train", "test"], N // 2)
  train, test = features.load(write(tmp_path, arrays, "npz"))
  batches = list(pipeline.eval_batches(test, batch_size=8))
  rows = np.concatenate([batch["image"] for batch in batches])
  np.testing.assert_array_equal(rows[: N // 2], arrays["embeddings"][N // 2 :])
  assert not rows[N // 2 :].any() and (batches[1]["label"][4:] == -1).all()
  batch = next(iter(pipeline.train_batches(train, batch_size=12, seed=0)))
  np.testing.assert_array_equal(
    batch["image"], arrays["embeddings"][: N // 2][batch["example"]]
  )


def with_nan(arrays):
  arrays["embeddings"][7, 2] = np.nan
  return arrays


@pytest.mark.parametrize("form", ["folder", "npz"])
@pytest.mark.parametrize(
  ("damage", "told"),
  [
    (lambda a: {"labels": a["labels"]}, "holds no embeddings, only labels"),
    (lambda a: {"embeddings": a["embeddings"]}, "holds no labels, only embeddings"),
    (lambda a: a | {"embeddings": np.zeros((2, 3, 4))}, r"\(2, 3, 4\): expected \[N"),
    (lambda a: a | {"embeddings": np.zeros((N, 3), int)}, "int64: expected floats"),
    (lambda a: a | {"labels": np.arange(9)}, rf"labels \(9,\) .* a vector of {N}"),
    (lambda a: a | {"labels": np.zeros(N)}, "labels are float64"),
    (lambda a: a | {"labels": np.arange(N) - 3}, "row 0 has label -3"),
    (lambda a: a | {"labels": np.zeros(N, int)}, "1 classes and no split"),
    (lambda a: a | {"split": np.full(N, "dev")}, "split 'dev': expected train, test"),
    (lambda a: a | {"split": np.full(N, "train")}, "no row has the split test"),
    (with_nan, "row 7 of the embeddings is not finite"),
  ],
)
def test_what_cannot_be_used_is_named(damage, told, form, arrays, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=told):
    features.load(write(tmp_path, damage(arrays), form))


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="f.npz is not there: give an .npz"):
    features.load(tmp_path / "f.npz")
  (tmp_path / "f.npz").write_bytes(b"PK\x03\x04 and no more")
  with pytest.raises(ValueError, match="f.npz is no .npz file of arrays"):
    features.load(tmp_path / "f.npz")
  np.save(tmp_path / "one.npy", np.zeros(3))
  with pytest.raises(ValueError, match="one.npy is no .npz file"):
    features.load(tmp_path / "one.npy")
