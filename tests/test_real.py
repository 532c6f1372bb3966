"""The main job on what people bring: a network that was trained, and photos through the preprocessing contract."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from edgekit import cli, images, manifest
from edgekit.models import _create
from edgekit.preprocessing import IMAGENET


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that scikit-image ships, in the formats and modes that people have."""
    import skimage.data

    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.jpg")
    Image.fromarray(skimage.data.coffee()).save(folder / "coffee.png")
    Image.fromarray(skimage.data.chelsea()).convert("L").save(folder / "cat-grey.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mobilenet_v2 at alpha 0.35, trained on scikit-learn's digits until it knows most of what it has not seen."""
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    digits = load_digits()
    values = torch.from_numpy(np.kron(digits.images / 16, np.ones((4, 4)))).float()
    inputs = ((values[:, None].repeat(1, 3, 1, 1) - 0.45) / 0.225).contiguous()
    labels = torch.from_numpy(digits.target)
    network = _create.seeded("mobilenet_v2", 0.35, 10, {}, seed=0).requires_grad_(True).train()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        batch = torch.randint(0, 1400, (64,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        accuracy = (network(inputs[1400:]).argmax(1) == labels[1400:]).float().mean().item()
    assert accuracy > 0.8, f"the training did not work: {accuracy:.0%}"
    path = tmp_path_factory.mktemp("trained") / "digits.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def test_a_trained_network_and_photos_go_all_the_way(trained, photos, tmp_path, capsys):
    arguments = ["mobilenet_v2", "--alpha", "0.35", "--res", "96", "--weights", str(trained), "--images", str(photos)]
    assert cli.run(["export", *arguments, "--out", str(tmp_path), "--json"]) == 0, capsys.readouterr().err
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert variant["parity"]["inputs"][:3] == ["image-0", "image-1", "image-2"]
    assert variant["engines"][0]["status"] == "built"
    found, folder = manifest.read_verified(tmp_path / "mobilenet_v2-a0.35-r96")
    assert found.variant.num_classes == 10
    assert found.weights.kind == "checkpoint"
    with np.load(folder / "golden.npz") as golden:
        wanted = images.load_image(photos / "astronaut.jpg", IMAGENET, 96)
        np.testing.assert_array_equal(golden["input.input"][0], wanted)
        assert golden["input.input"].min() > -2.2 * 8
    assert cli.run(["parity", str(folder)]) == 0


def test_weights_of_another_width_are_refused_and_placed(trained, tmp_path, capsys):
    code = cli.run(["export", "mobilenet_v2", "--alpha", "0.5", "--weights", str(trained), "--out", str(tmp_path)])
    assert code == 4
    assert "--alpha 0.35" in capsys.readouterr().err
