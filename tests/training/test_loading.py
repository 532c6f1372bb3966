"""The batches of an epoch: their order, where they begin, and what comes back from the processes that decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from labelled_folders import folder_of, noise
from torch import Tensor

from edgekit.errors import InputUnusable
from edgekit.training.labelled import Splits, open_data
from edgekit.training.loading import Batches
from edgekit.training.sources import parse_data


@pytest.fixture(scope="module")
def digits() -> Splits:
    return open_data(parse_data("digits"), 8, contract=None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    root = folder_of(tmp_path_factory.mktemp("photos"), {"cat": 9, "dog": 9, "eel": 9})
    return open_data(parse_data(str(root)), 24, contract=None, val_share=0.2)


def collected(batches: Batches) -> tuple[Tensor, Tensor]:
    found = list(batches)
    return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])


def test_every_image_comes_once_with_its_label(digits: Splits) -> None:
    images, labels = collected(Batches(digits.val, 50, seed=0, epoch=0, shuffle=False, workers=0))
    assert images.dtype == torch.uint8
    assert images.shape == (len(digits.val), 3, 8, 8)
    assert labels.tolist() == list(digits.val.labels)
    assert torch.equal(images, torch.stack([digits.val[i][0] for i in range(len(digits.val))]))


@pytest.mark.parametrize("workers", [0, 2])
def test_files_come_out_the_same_from_any_number_of_workers(photos: Splits, workers: int) -> None:
    images, labels = collected(Batches(photos.train, 4, seed=0, epoch=0, shuffle=False, workers=workers))
    assert torch.equal(images, torch.stack([photos.train[i][0] for i in range(len(photos.train))]))
    assert labels.tolist() == list(photos.train.labels)


@pytest.mark.parametrize("roam", [False, True])
def test_an_epoch_entered_later_goes_on_as_if_it_had_never_stopped(photos: Splits, roam: bool) -> None:
    def epoch(start: int, workers: int) -> list[tuple[Tensor, Tensor]]:
        return list(Batches(photos.train, 4, seed=3, epoch=2, start=start, shuffle=True, workers=workers, roam=roam))

    whole = epoch(0, 2)
    for (images, labels), (wanted, targets) in zip(epoch(3, 1), whole[3:], strict=True):
        assert torch.equal(images, wanted)
        assert torch.equal(labels, targets)


def test_each_epoch_and_each_seed_has_its_own_order(digits: Splits) -> None:
    def labels(seed: int, epoch: int) -> list[int]:
        return collected(Batches(digits.train, 64, seed=seed, epoch=epoch, shuffle=True, workers=0))[1].tolist()

    assert labels(0, 0) == labels(0, 0)
    assert labels(0, 0) != labels(0, 1)
    assert labels(0, 0) != labels(1, 0)
    assert sorted(labels(0, 0)) == sorted(digits.train.labels)


def test_a_file_that_cannot_be_read_is_named_though_a_worker_met_it(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"cat": 8, "dog": 8})
    data = open_data(parse_data(str(root)), 24, contract=None).train
    assert len(collected(Batches(data, 4, seed=0, epoch=0, shuffle=True, workers=2))[0]) == 14
    broken = Path(data.where(5))
    broken.write_bytes(noise(1)[:200])
    batches = iter(Batches(data, 4, seed=0, epoch=1, shuffle=True, workers=2))
    with pytest.raises(InputUnusable) as caught:
        list(batches)
    assert caught.value.where == str(broken)
    assert caught.value.what == "cannot read the image"
