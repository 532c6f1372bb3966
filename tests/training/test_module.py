"""The pieces of a step: places and their chance, the loss, the optimiser's rates, averaged weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekit.training.module import AUXILIARY_WEIGHT, Average, Criterion, Place, Sums, optimiser, right, set_rate
from edgekit.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
numbers = st.integers(0, 2**40)


@given(numbers, numbers, numbers, st.integers(0, 64))
def test_a_place_has_its_own_chance_and_always_the_same(seed: int, epoch: int, step: int, rank: int) -> None:
    here = Place(seed, epoch, step, rank)
    assert here.number("augment") == Place(seed, epoch, step, rank).number("augment")
    others = [
        Place(seed + 1, epoch, step, rank),
        Place(seed, epoch, step + 1, rank),
        Place(seed, epoch, step, rank + 1),
    ]
    assert here.number("augment") not in {other.number("augment") for other in others}
    assert here.number("augment") != here.number("dropout")
    assert 0 <= here.number("augment") < 2**63


def test_a_places_chance_is_the_same_on_every_machine() -> None:
    assert Place(0, 0, 0).number("augment") == 8783537677364949544


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 32)), min_size=1, max_size=20))
def test_sums_weigh_each_image_alike(steps: list[tuple[float, int]]) -> None:
    sums = Sums()
    for loss, images in steps:
        sums.add(loss, images, images)
    wanted = sum(loss * images for loss, images in steps) / sum(images for _, images in steps)
    assert sums.mean_loss == pytest.approx(wanted)
    assert sums.accuracy == 1


def test_the_loss_is_cross_entropy_of_hard_and_soft_labels() -> None:
    logits, images = torch.randn(4, 3), torch.zeros(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 1])
    hard, same = Criterion(Recipe("x"))(logits, images, labels)
    soft, _ = Criterion(Recipe("x"))(logits, images, nn.functional.one_hot(labels, 3).float())
    assert hard.item() == pytest.approx(soft.item())
    assert hard.item() == pytest.approx(-logits.log_softmax(1)[range(4), labels].mean().item())
    assert torch.equal(same, logits)


def test_label_smoothing_gives_a_share_to_all() -> None:
    logits, images, labels = torch.randn(4, 3), torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    found, _ = Criterion(Recipe("x", label_smoothing=0.3))(logits, images, labels)
    wanted = nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    assert found.item() == pytest.approx(-(wanted * logits.log_softmax(1)).sum(1).mean().item())


def test_an_auxiliary_head_counts_for_its_weight() -> None:
    main, second, images = torch.randn(4, 3), torch.randn(4, 3), torch.zeros(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 1])
    loss = Criterion(Recipe("x"))
    both, logits = loss((main, second), images, labels)
    assert torch.equal(logits, main)
    wanted = loss(main, images, labels)[0] + AUXILIARY_WEIGHT * loss(second, images, labels)[0]
    assert both.item() == pytest.approx(wanted.item())


def test_what_is_right() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
    assert right(logits, torch.tensor([0, 1, 1])) == 2
    assert right(logits, torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1]])) == 2


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimiser_goes_downhill_at_each_groups_rate(kind: str) -> None:
    slow, fast = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    recipe = Recipe("x", kind, lr=1e-3)  # type: ignore[arg-type]
    update = optimiser(recipe, [(0.1, [slow]), (1.0, [fast])])
    assert set_rate(update, recipe, 0.0) == 1e-3
    assert [group["lr"] for group in update.param_groups] == [pytest.approx(1e-4), pytest.approx(1e-3)]
    ((slow**2).sum() + (fast**2).sum()).backward()
    update.step()
    assert 0 < float((1 - slow.detach()).mean()) < float((1 - fast.detach()).mean())


def test_the_schedule_reaches_every_group() -> None:
    recipe = Recipe("x", "sgd", lr=1.0, epochs=10, schedule="step", milestones=(0.5,))
    update = optimiser(recipe, [(0.5, [nn.Parameter(torch.ones(1))]), (2.0, [nn.Parameter(torch.ones(1))])])
    set_rate(update, recipe, 5.0)
    assert [group["lr"] for group in update.param_groups] == pytest.approx([0.05, 0.2])


def test_averaged_weights_follow_slowly_and_forget_their_beginning() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    average = Average(net, 0.5)
    nn.init.ones_(net[0].weight)  # type: ignore[arg-type]
    net[1].num_batches_tracked += 3  # type: ignore[operator]
    seen = []
    for _ in range(20):
        average.update()
        seen.append(float(average.network.get_parameter("0.weight")))
    assert seen[0] == pytest.approx(0.9)  # the first step keeps a tenth only
    assert seen == sorted(seen)
    assert math.isclose(seen[-1], 1.0, abs_tol=1e-3)
    assert int(average.network.get_buffer("1.num_batches_tracked")) == 3


def test_averaging_leaves_equal_weights_equal() -> None:
    net = nn.Linear(100, 100)
    average = Average(net, 0.999)
    for _ in range(10):
        average.update()
    assert torch.equal(average.network.get_parameter("weight"), net.weight)
