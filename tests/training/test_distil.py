"""Distillation: the distance from a teacher, what a teacher can be, and that the pupil learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from training_runs import BUSY, coloured, request, trained

from edgekit.errors import InputUnusable, UsageError
from edgekit.preprocessing import CIFAR, IMAGENET
from edgekit.training import distil, run_folder
from edgekit.training.distil import Known, Teacher
from edgekit.training.run_folder import BEST

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("class0", "class1", "class2")
PLAIN = replace(BUSY, mixup=0.0, label_smoothing=0.0, ema=None, augment="none", epochs=1)


class Says(nn.Module):
    """A network that always gives the same answer, and remembers what it saw."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer, self.saw = answer, torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.saw = images
        return self.answer


def teacher(answer: torch.Tensor, alpha: float = 1.0, temperature: float = 4.0) -> Teacher:
    return Teacher(Known(Says(answer), "says", IMAGENET, None), IMAGENET, alpha, temperature)


IMAGES = torch.zeros(5, 3, 8, 8)


def test_the_distance_is_nothing_between_equals_and_more_for_others() -> None:
    answer = torch.randn(5, 3)
    assert teacher(answer).distance(answer, IMAGES).item() == pytest.approx(0, abs=1e-6)
    assert teacher(answer).distance(answer + torch.randn(5, 3), IMAGES).item() > 0


def test_it_is_the_divergence_of_softened_answers() -> None:
    mine, its, soft = torch.randn(5, 3), torch.randn(5, 3), 2.0
    wanted = (its / soft).softmax(1) * ((its / soft).log_softmax(1) - (mine / soft).log_softmax(1))
    found = teacher(its, temperature=soft).distance(mine, IMAGES)
    assert found.item() == pytest.approx(float(wanted.sum(1).mean() * soft**2), rel=1e-5)


def test_it_is_mixed_with_the_labels_loss() -> None:
    mine, its, hard = torch.randn(5, 3), torch.randn(5, 3), torch.tensor(7.0)
    one = teacher(its, 0.25)
    wanted = 0.25 * one.distance(mine, IMAGES).item() + 0.75 * 7
    assert one.mixed(hard, mine, IMAGES).item() == pytest.approx(wanted)
    assert teacher(its, 0.0).mixed(hard, mine, IMAGES).item() == 7


def test_a_teacher_sees_images_as_it_was_taught_them() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (CIFAR.mean, CIFAR.std))
    its_mean, its_std = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    says = Says(torch.zeros(2, 3))
    Teacher(Known(says, "says", IMAGENET, None), CIFAR, 1.0, 1.0).distance(torch.zeros(2, 3), (pixels - mean) / std)
    torch.testing.assert_close(says.saw, (pixels - its_mean) / its_std)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"), 8)


@pytest.fixture(scope="module")
def taught(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a wider network."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    trained(request(images, out, PLAIN, options={"growth": "6"}))
    return out


def test_a_run_teaches_another_width_and_leaves_another_result(images: Path, taught: Path, tmp_path: Path) -> None:
    before = (taught / BEST).read_bytes()
    alone = trained(request(images, tmp_path / "alone", PLAIN))
    with_it = trained(request(images, tmp_path / "taught", PLAIN, distil_from=taught))
    assert with_it.history[0].train_loss != alone.history[0].train_loss
    assert "distil-from" in run_folder.read(tmp_path / "taught").asked
    assert (taught / BEST).read_bytes() == before
    with pytest.raises(UsageError, match="another training"):
        trained(request(images, tmp_path / "taught", PLAIN))


def test_the_weights_in_a_runs_folder_are_known_by_it(images: Path, taught: Path, tmp_path: Path) -> None:
    found = distil.known_teacher(request(images, tmp_path, PLAIN, distil_from=taught / BEST), IMAGENET)
    assert found.classes == CLASSES
    assert not any(parameter.requires_grad for parameter in found.network.parameters())
    assert not found.network.training


def test_a_bare_file_is_another_width_of_the_pupil(images: Path, tmp_path: Path) -> None:
    from edgekit.models import _create

    path = tmp_path / "wide.safetensors"
    safetensors.torch.save_file(_create.initial("mobilenet_v2", 0.75, 3, {}, 0).state_dict(), path)
    pupil = replace(
        request(images, tmp_path, PLAIN, distil_from=path), model="mobilenet_v2", alpha=0.35, options=(), resolution=32
    )
    assert distil.known_teacher(pupil, IMAGENET).name == "mobilenet_v2 alpha 0.75"
    with pytest.raises(InputUnusable, match="densenet_bc"):
        distil.known_teacher(request(images, tmp_path, PLAIN, distil_from=path), IMAGENET)


def test_a_teacher_of_other_classes_is_refused(images: Path, taught: Path, tmp_path: Path) -> None:
    asked = request(images, tmp_path, PLAIN, distil_from=taught)
    with pytest.raises(UsageError, match="other classes"):
        distil.teacher(asked, ("class0", "class1"), IMAGENET)
    with pytest.raises(UsageError, match="other classes"):
        distil.teacher(asked, ("cat", "dog", "cow"), IMAGENET)


def test_a_resolution_that_the_teacher_cannot_take_is_refused(images: Path, taught: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resolution"):
        distil.known_teacher(request(images, tmp_path, PLAIN, distil_from=taught, resolution=10), IMAGENET)


def test_a_teacher_that_is_not_there_is_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="teacher"):
        trained(request(images, tmp_path / "run", PLAIN, distil_from=tmp_path / "nobody"))
