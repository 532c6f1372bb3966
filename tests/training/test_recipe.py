"""Recipes: the published figures, what can be asked for otherwise, and the learning rate at any moment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import models
from edgekit.errors import UsageError
from edgekit.training.recipe import RECIPES, Recipe, default_for, factor, recipe


def test_the_published_figures() -> None:
    mobilenet = RECIPES["mobilenet-published"]
    assert (mobilenet.optimizer, mobilenet.lr, mobilenet.batch, mobilenet.epochs) == ("adam", 1e-3, 192, 10)
    assert mobilenet.augment == "published"
    assert RECIPES["mobilenet"].augment != "published"  # it never shows an upright image
    dense = RECIPES["densenet-cifar"]
    assert (dense.optimizer, dense.lr, dense.momentum, dense.nesterov) == ("sgd", 0.1, 0.9, True)
    assert (dense.weight_decay, dense.batch, dense.epochs) == (1e-4, 64, 300)
    assert [factor(dense, epoch) for epoch in (0, 149.9, 150, 224.9, 225)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert RECIPES["transfer"].freeze


def test_every_network_with_classes_has_a_recipe() -> None:
    for name in models.names():
        assert default_for(name) in RECIPES
    assert default_for("densenet_bc") == "densenet-cifar"
    assert default_for("resnet50_transfer") == "transfer"
    assert default_for("inception_v3") == "mobilenet"


def test_figures_are_changed_one_by_one() -> None:
    assert recipe("mobilenet", lr=0.5, epochs=None) == replace(RECIPES["mobilenet"], lr=0.5)


def test_another_optimiser_leaves_what_is_sgds_own() -> None:
    assert not recipe("densenet-cifar", optimizer="adam").nesterov
    assert recipe("densenet-cifar", lr=0.5).nesterov


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        recipe("mobilnet")
    assert "mobilenet" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer", "adm"),
        ("batch", 0),
        ("batch", 1.5),
        ("epochs", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("nesterov", True),  # with adam
        ("milestones", (0.5, 0.25)),
        ("milestones", (1.5,)),
        ("gamma", 0.0),
        ("warmup_epochs", 10.0),
        ("label_smoothing", 1.0),
        ("mixup", -0.1),
        ("ema", 1.0),
        ("clip", 0.0),
        ("patience", 0),
        ("unfreeze_at", (0.5,)),  # of what is not frozen
        ("layer_decay", 0.0),
        ("head_lr_factor", 0.0),
    ],
)
def test_figures_that_make_no_training_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        recipe("mobilenet", **{key: value})
    assert key in (caught.value.got or "")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        recipe("mobilenet", batch=0, lr=-1.0, gamma=2.0)
    assert all(key in (caught.value.got or "") for key in ("batch", "lr", "gamma"))


schedules = st.sampled_from(["constant", "cosine", "step"])


@given(schedules, st.integers(1, 300), st.floats(0, 0.99), st.floats(0, 1))
def test_the_learning_rate_is_never_above_the_recipes_and_never_nothing(
    schedule: str, epochs: int, warm: float, done: float
) -> None:
    given_ = Recipe("x", epochs=epochs, schedule=schedule, milestones=(0.5, 0.75), warmup_epochs=warm * epochs)  # type: ignore[arg-type]
    assert 0 < factor(given_, done * epochs) <= 1


@given(st.integers(2, 100), st.floats(0, 0.9))
def test_a_cosine_only_falls_after_warming_up(epochs: int, warm: float) -> None:
    given_ = Recipe("x", epochs=epochs, schedule="cosine", warmup_epochs=warm * epochs)
    after = [warm * epochs + (1 - warm) * epochs * i / 50 for i in range(51)]
    rates = [factor(given_, done) for done in after]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1)
    assert rates[-1] < 1e-3


def test_warming_up_is_a_straight_line() -> None:
    given_ = Recipe("x", warmup_epochs=2.0)
    low, middle, high = (factor(given_, done) for done in (0.0, 1.0, 2.0))
    assert (middle, high) == (pytest.approx((low + high) / 2), 1.0)


def test_what_is_asked_for_is_known_without_torch() -> None:
    code = (
        "import sys, edgekit.training.recipe, edgekit.training.request, edgekit.training.run_folder, edgekit.cli.train;"
        "print([name for name in ('torch', 'numpy', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
