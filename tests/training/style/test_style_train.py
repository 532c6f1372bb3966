"""A network learns a style: the loss falls, a killed run goes on exactly, the published tail loses the colour."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from style_parts import photo, save_photo, train_request, vgg_weights

from edgekit.errors import InputUnusable, UsageError
from edgekit.training.style import nets, pictures, residual, train
from edgekit.training.style.crops import Crops
from edgekit.training.style.nets import Form
from edgekit.training.style.optimise import LossNotFinite
from edgekit.training.style.request import Features, TrainRequest
from edgekit.training.style.train import Pace

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = Pace(2, 0)


def losses(folder: Path) -> list[str]:
    return (folder / "history.csv").read_text().splitlines()[1:]


class TestCrops:
    def test_a_batch_depends_on_seed_and_step_alone(self, tmp_path):
        files = [save_photo(tmp_path / f"{i}.png", i, 40 + i, 60) for i in range(3)]
        one, two = Crops(files, 24, 4, 0), Crops(files, 24, 4, 0)
        for step in (5, 0, 3):
            one.at(step)
        assert torch.equal(one.at(7), two.at(7))
        assert not torch.equal(one.at(7), one.at(8))
        assert not torch.equal(one.at(7), Crops(files, 24, 4, 1).at(7))
        assert one.at(7).shape == (4, 3, 24, 24)

    def test_photos_smaller_than_the_crop_are_enlarged_and_dots_refused(self, tmp_path):
        assert Crops([save_photo(tmp_path / "a.png", 0, 20, 20)], 32, 1, 0).at(0).shape == (1, 3, 32, 32)
        dot = save_photo(tmp_path / "dot.png", 0, 1, 1)
        with pytest.raises(InputUnusable, match="too small to learn from") as caught:
            Crops([dot], 32, 1, 0).at(0)
        assert str(dot) in str(caught.value)


class TestNetworks:
    def test_the_plain_residual_network_has_the_published_table(self):
        module = residual.factory()
        shapes = [tuple(it.weight.shape) for it in module.modules() if isinstance(it, torch.nn.Conv2d)]
        assert shapes[0] == (32, 3, 9, 9)
        assert shapes[1:3] == [(64, 32, 3, 3), (128, 64, 3, 3)]
        assert shapes[3:13] == [(128, 128, 3, 3)] * 10
        assert shapes[13:] == [(64, 128, 3, 3), (32, 64, 3, 3), (3, 32, 9, 9)]

    @pytest.mark.parametrize("size", [(17, 17), (30, 41), (64, 32)])
    def test_it_takes_any_size(self, size):
        module = nets.initial(Form("residual", 0.25, "bounded"), 0)
        out = module(torch.rand(1, 3, *size)).detach()
        assert out.shape == (1, 3, *size)
        assert 0 <= float(out.min()) < float(out.max()) <= 1

    @pytest.mark.parametrize("form", [Form("se_mobilenet_style", 0.1), Form("residual", 0.1, "bounded")])
    def test_training_begins_near_grey_and_a_saved_network_comes_back(self, tmp_path, form):
        module = nets.initial(form, 0)
        x = torch.rand(2, 3, 32, 32)
        assert 0.3 < float(module(x).detach().mean()) < 0.7
        nets.save(form, module, tmp_path / "last.safetensors")
        found, again = nets.read(tmp_path)
        assert found == form
        assert torch.equal(again(x), module(x))

    def test_forms_that_there_are_not(self):
        for form in (Form("residual", 1.0, "plain"), Form("se_mobilenet_style", 0.0)):
            with pytest.raises(UsageError):
                nets.initial(form, 0)

    def test_weights_that_say_nothing_of_their_network_are_refused(self, tmp_path):
        safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
        with pytest.raises(InputUnusable, match="does not say which"):
            nets.read(tmp_path / "w.safetensors")
        with pytest.raises(InputUnusable, match="no trained style network"):
            nets.read(tmp_path / "..")


class TestTraining:
    @pytest.mark.parametrize(("network", "tail"), [("se_mobilenet_style", "plain"), ("residual", "bounded")])
    def test_the_loss_falls(self, tmp_path, network, tail):
        request = train_request(tmp_path, network=network, tail=tail, steps=30)
        done = train.train(request, tmp_path / "run", Pace(1000, 0))
        assert done.fall > 0.5
        assert (done.run.status, done.run.done, done.run.photos) == ("done", 30, 2)
        assert not done.run.trained_features
        assert train.read(tmp_path / "run") == done.run

    def test_a_run_that_was_cut_off_goes_on_with_the_same_losses(self, tmp_path, monkeypatch):
        request = train_request(tmp_path)
        whole = train.train(request, tmp_path / "whole", FEW)
        at = Crops.at

        def dying(self, step):
            if step == 5:
                raise KeyboardInterrupt
            return at(self, step)

        monkeypatch.setattr(Crops, "at", dying)
        with pytest.raises(KeyboardInterrupt):
            train.train(request, tmp_path / "cut", FEW)
        monkeypatch.setattr(Crops, "at", at)
        assert train.read(tmp_path / "cut").status == "running"
        rest = train.train(request, tmp_path / "cut", FEW)
        assert (whole.taken, rest.taken) == (6, 2)
        assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
        for name in ("last.safetensors", "state.safetensors"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert train.train(request, tmp_path / "cut", FEW).taken == 0

    def test_a_run_killed_from_outside_does_too(self, tmp_path):
        request = train_request(tmp_path, steps=40)
        code = (
            "import sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1]);"
            "from pathlib import Path; from style_parts import train_request;"
            "from edgekit.training.style import train; folder = Path(sys.argv[2]);"
            "train.train(train_request(folder, steps=40), folder / 'killed', train.Pace(3, 0))"
        )
        here = str(Path(__file__).parent)
        process = subprocess.Popen([sys.executable, "-c", code, here, str(tmp_path)])
        state, limit = tmp_path / "killed" / "state.safetensors", time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
        rest = train.train(request, tmp_path / "killed", Pace(3, 0))
        assert 0 < rest.taken < 40
        train.train(request, tmp_path / "whole", Pace(3, 0))
        assert losses(tmp_path / "killed") == losses(tmp_path / "whole")

    def test_another_request_does_not_go_on_with_it(self, tmp_path):
        request = train_request(tmp_path, steps=2)
        train.train(request, tmp_path / "run", FEW)
        other = replace(request, seed=1)
        with pytest.raises(UsageError, match="another training run"):
            train.train(other, tmp_path / "run", FEW)
        assert train.train(other, tmp_path / "run", FEW, force=True).taken == 2

    def test_a_damaged_checkpoint_is_named(self, tmp_path):
        request = train_request(tmp_path, steps=2)
        train.train(request, tmp_path / "run", FEW)
        state = tmp_path / "run" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-100])
        with pytest.raises(InputUnusable, match="the checkpoint is damaged"):
            train.train(request, tmp_path / "run", FEW)

    def test_an_unreadable_photo_ends_it_and_the_checkpoint_stays(self, tmp_path):
        request = train_request(tmp_path, steps=40)
        for i in range(3):
            (tmp_path / "photos" / f"c{i}.png").write_bytes(b"not an image")
        with pytest.raises(InputUnusable, match="cannot read the image"):
            train.train(request, tmp_path / "run", Pace(1, 0))

    def test_a_folder_without_images_is_refused(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputUnusable, match="no images"):
            train.train(replace(train_request(tmp_path), data=tmp_path / "empty"), tmp_path / "run", FEW)

    def test_a_loss_that_is_not_finite_says_the_step_and_keeps_the_checkpoint(self, tmp_path, monkeypatch):
        request, at = train_request(tmp_path), Crops.at
        monkeypatch.setattr(Crops, "at", lambda self, step: at(self, step) * (float("nan") if step == 3 else 1))
        with pytest.raises(LossNotFinite, match="at step 3") as caught:
            train.train(request, tmp_path / "run", FEW)
        assert "checkpoint before it" in str(caught.value)
        assert train.read(tmp_path / "run").done == 2
        assert all(bool(it.isfinite().all()) for it in nets.read(tmp_path / "run")[1].state_dict().values())

    def test_previews_are_pictures_of_the_first_photo(self, tmp_path):
        train.train(train_request(tmp_path), tmp_path / "run", Pace(100, 3))
        shown = sorted((tmp_path / "run" / "previews").iterdir())
        assert [path.name for path in shown] == ["step-000003.png", "step-000006.png"]
        with Image.open(shown[0]) as image:
            assert image.size == (70, 60)

    def test_features_come_from_a_file(self, tmp_path):
        path = vgg_weights(tmp_path / "vgg.safetensors")
        done = train.train(train_request(tmp_path, features=Features("vgg19", path), steps=1), tmp_path / "run", FEW)
        assert done.run.trained_features
        assert json.loads((tmp_path / "run" / "style.json").read_text())["features"].startswith("vgg19, ")


class TestTails:
    """The published tail ends in an instance norm: whatever is learnt, every picture has one mean of each colour."""

    @pytest.mark.parametrize(("tail", "differs"), [("published", False), ("plain", True), ("bounded", True)])
    def test_the_published_one_gives_all_pictures_one_colour(self, tmp_path, tail, differs):
        train.train(train_request(tmp_path, tail=tail, steps=20), tmp_path / "run", Pace(1000, 0))
        _, module = nets.read(tmp_path / "run")
        before_relu = []
        last = module.get_submodule("tail.norm" if tail == "published" else "tail")
        last.register_forward_hook(lambda layer, args, output: before_relu.append(output))
        module(torch.cat([pictures.Picture(photo(i, 48, 48)).tensor() for i in range(4)]))
        means = before_relu[0].mean((2, 3))
        # In deviations of the colours within a picture: the published tail makes those 1, the others what they like.
        spread = float((means.amax(0) - means.amin(0)).max() / before_relu[0].std((2, 3)).mean())
        assert spread > 5e-3 if differs else spread < 1e-4

    def test_the_default_avoids_it(self):
        assert TrainRequest.tail == "plain"
