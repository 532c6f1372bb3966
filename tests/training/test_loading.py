"""The batches of an epoch: their order, where they begin, and what comes back from the processes that decode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_folders import folder_of, noise
from PIL import Image
from skimage.data import chelsea
from torch import Tensor

from edgekit.errors import InputUnusable, MachineLacks
from edgekit.parity.metrics import AnyArray
from edgekit.training.labelled import Held, Labelled, Splits, open_data
from edgekit.training.loading import Batches, default_workers, order
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


@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_the_number_of_batches_is_known_beforehand(count: int, batch: int, drop_last: bool, shuffle: bool) -> None:
    data = few_digits(count)
    for start in (0, 1, 3, 50):
        batches = Batches(data, batch, seed=0, epoch=0, start=start, shuffle=shuffle, workers=0, drop_last=drop_last)
        assert len(list(batches)) == len(batches) == max(0, batches.total - start)
    assert batches.total == (count // batch if drop_last else -(-count // batch))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5))
def test_processes_share_each_batch_of_the_whole(count: int, batch: int, world: int) -> None:
    """The k-th batches of all of them are the k-th batch of one process with a batch as large as all of theirs."""
    data = few_digits(count)

    def batches(rank: int, world: int, size: int) -> list[list[int]]:
        found = Batches(data, size, seed=1, epoch=4, shuffle=True, workers=0, rank=rank, world=world)
        return [numbers(images) for images, _ in found]

    together = [sum(parts, []) for parts in zip(*(batches(rank, world, batch) for rank in range(world)), strict=True)]  # noqa: RUF017
    alone = batches(0, 1, batch * world)
    assert [sorted(part) for part in together[:-1]] == [sorted(part) for part in alone[:-1]]
    assert set(alone[-1]) <= set(together[-1])
    validation = [order(count, 0, 0, False, rank, world) for rank in range(world)]
    assert sorted(i for part in validation for i in part) == list(range(count))


def few_digits(count: int) -> Labelled:
    """Images whose first pixel says which they are."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    return Labelled(Held(pixels, "made"), (0,) * count, 2, 1.0, torch.zeros(count, dtype=torch.int64))


def numbers(images: Tensor) -> list[int]:
    return [int(one[0, 0, 0]) for one in images]


# --- looking at files in training


def test_roaming_squares_come_from_anywhere_along_the_longer_side_and_differ_by_epoch(tmp_path: Path) -> None:
    """Images three times as wide as high, left third red, right third blue."""
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, :40, 0] = 255
    wide[:, 80:, 2] = 255
    folder_of(tmp_path, {"a": 30, "b": 2})
    for path in tmp_path.rglob("*.jpg"):
        Image.fromarray(wide).save(path, "PNG")
    data = open_data(parse_data(str(tmp_path)), 20, contract=None).train

    def seen(epoch: int, roam: bool) -> tuple[float, float]:
        images, _ = collected(Batches(data, 8, seed=0, epoch=epoch, shuffle=True, workers=0, roam=roam))
        return float((images[:, 0] > 200).float().mean()), float((images[:, 2] > 200).float().mean())

    assert seen(0, roam=False) == (0.0, 0.0)
    assert min(seen(0, roam=True)) > 0.1
    assert seen(0, roam=True) == seen(0, roam=True)
    assert seen(0, roam=True) != seen(1, roam=True)


def test_quick_decoding_shows_nearly_the_same(tmp_path: Path) -> None:
    photo: Callable[[], AnyArray] = chelsea
    folder_of(tmp_path, {"a": 2, "b": 2})
    for path in tmp_path.rglob("*.jpg"):
        Image.fromarray(photo()).save(path, quality=90)
    data = open_data(parse_data(str(tmp_path)), 64, contract=None).train
    quick, exact = (
        collected(Batches(data, 2, seed=0, epoch=0, shuffle=shuffle, workers=0))[0][0].float()
        for shuffle in (True, False)
    )
    assert not torch.equal(quick, exact)  # decoded at half the size
    assert (quick - exact).abs().mean() < 3


# --- the processes


def test_processes_are_kept_for_the_next_epoch_also_of_one_that_was_left(photos: Splits) -> None:
    def epoch(number: int) -> Batches:
        return Batches(photos.train, 4, seed=0, epoch=number, shuffle=True, workers=2)

    wanted = [labels.tolist() for _, labels in Batches(photos.train, 4, seed=0, epoch=2, shuffle=True, workers=0)]
    list(epoch(0))
    before = children()
    for _ in epoch(1):
        break
    assert [labels.tolist() for _, labels in epoch(2)] == wanted
    assert children() == before
    outer, inner = epoch(2), epoch(2)
    found = [(one[1].tolist(), other[1].tolist()) for one, other in zip(outer, inner, strict=True)]
    assert found == [(labels, labels) for labels in wanted]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_process_that_dies_is_told_in_words_and_the_next_epoch_has_new_ones(tmp_path: Path) -> None:
    data = open_data(parse_data(str(folder_of(tmp_path, {"cat": 40, "dog": 40}))), 24, contract=None).train
    before = children()
    batches = iter(Batches(data, 2, seed=0, epoch=0, shuffle=True, workers=1))
    next(batches)
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(MachineLacks, match="decodes images died"):
        list(batches)
    assert len(list(Batches(data, 2, seed=0, epoch=0, shuffle=True, workers=1))) == 36


LEFT = """
import os, sys
from edgekit.training.labelled import open_data
from edgekit.training.loading import Batches
from edgekit.training.sources import parse_data
data = open_data(parse_data(sys.argv[1]), 24, contract=None).train
batches = iter(Batches(data, 4, seed=0, epoch=0, shuffle=True, workers=2))
next(batches)
print(os.getpid(), flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_no_process_outlives_the_main_one_or_complains(tmp_path: Path, killed: bool) -> None:
    folder_of(tmp_path, {"cat": 40, "dog": 40})
    argv = [sys.executable, "-c", LEFT, str(tmp_path)]
    main = subprocess.Popen(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
    assert main.stdout is not None
    workers = psutil.Process(int(main.stdout.readline())).children(recursive=True)
    assert len(workers) == 2
    if killed:
        main.kill()
    _, said = main.communicate()
    assert said == ""
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_workers_are_for_files() -> None:
    assert default_workers(few_digits(3)) == 0
