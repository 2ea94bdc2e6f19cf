from __future__ import annotations

import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from sklearn.datasets import load_digits

from rpanoptic.data import check_dataset
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data import digits
from rpanoptic.pathfinder.imagenet.data.builtin import DIGITS_SETS
from rpanoptic.pathfinder.imagenet.data.pictures import read_record


def numbers(name: str) -> list[int]:
    return [record["digit"] for record in DatasetCatalog.get(name)]


def test_the_split_is_fixed_and_balanced() -> None:
    train, test = numbers("digits_train"), numbers("digits_test")
    assert sorted(train + test) == list(range(1797)) and len(test) == 500
    labels = [record["label"] for record in DatasetCatalog.get("digits_test")]
    assert np.bincount(labels).tolist() == [50] * 10
    assert test[:6] == [3, 7, 13, 16, 19, 22]  # no version may draw others
    search = numbers("digits_search_train"), numbers("digits_search_val")
    assert sorted(search[0] + search[1]) == train and len(search[1]) == 250
    assert numbers("digits_noisy_test") == test and numbers("digits_noisy_train") == train


def test_pictures_and_labels_are_scikit_learns() -> None:
    loaded = load_digits()
    for record in DatasetCatalog.get("digits_test")[::50]:
        image = np.asarray(read_record(record))
        expected = np.rint(loaded.images[record["digit"]] * 255 / 16)
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8
        assert all(np.array_equal(image[..., channel], expected) for channel in range(3))
        assert record["label"] == loaded.target[record["digit"]]
        assert record["index"] == record["image_id"] and record["dataset"] == "digits_test"
        assert f"digit {record['digit']} " in record["file_name"]


def test_noise_is_that_of_the_picture() -> None:
    plain, noisy = (DatasetCatalog.get(name) for name in ("digits_test", "digits_noisy_test"))
    differences = []
    for one, other in zip(plain[:20], noisy[:20], strict=True):
        image = np.asarray(read_record(other)).astype(int)
        assert np.array_equal(image, np.asarray(read_record(other)))
        differences.append(image - np.asarray(read_record(one)))
        hidden = np.lib.stride_tricks.sliding_window_view(image[..., 0], (3, 3)).max((2, 3)) == 0
        assert hidden.any()
    # Half of the noise, of standard deviation 48, is lost where black would become blacker.
    assert 25 < np.std(differences) < 80
    assert len({difference.tobytes() for difference in differences}) == 20


@pytest.mark.parametrize("name", DIGITS_SETS)
def test_every_name_passes_the_check(name: str) -> None:
    check_dataset(name)
    metadata = MetadataCatalog.get(name)
    assert metadata.classes == [str(digit) for digit in range(10)]
    assert metadata.evaluator_type == "image_classification"


def test_missing_scikit_learn_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    digits._digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for use in (lambda: check_dataset("digits_train"), lambda: digits.read_digit(0)):
        with pytest.raises(DatasetError, match=r'scikit-learn.*install "rpanoptic\[imagenet\]"'):
            use()
