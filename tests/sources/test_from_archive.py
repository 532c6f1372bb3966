"""TorchScript and torch.export archives."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import TensorSpec
from edgekit.sources import Loaded, load, parse_input_spec, parse_source, parse_weights
from edgekit.variant import Variant

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x).mean((2, 3)))
        return y


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"wide": x.reshape(x.shape[0] * 2, -1), "sum": x.flatten(1) + y}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.pt (TorchScript), net.pt2 (a batch of one), open.pt2 and two.pt2 (any batch), and `net` itself as state."""
    folder = tmp_path_factory.mktemp("archives")
    torch.manual_seed(0)
    net, two, x = Net().eval(), Two(), torch.randn(2, 3, 16, 16)
    batch = Dim("n", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), folder / "net.pt")  # type: ignore[no-untyped-call]
        torch.export.save(torch.export.export(net, (x[:1],)), folder / "net.pt2")
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), folder / "open.pt2")
        pair = (torch.randn(2, 4, 6), torch.randn(2, 24))
        shapes = ({0: batch}, {0: batch})
        torch.export.save(torch.export.export(two, pair, dynamic_shapes=shapes), folder / "two.pt2")
    torch.save(net.state_dict(), folder / "state.pt")
    return folder


@pytest.fixture
def get(archives: Path) -> Callable[..., Loaded]:
    def load_one(name: str, inputs: tuple[str, ...] = (), **rest: Any) -> Loaded:
        source = parse_source(str(archives / name))
        rest = {"alpha": None, "resolution": 16, **rest}
        specs = tuple(parse_input_spec(text) for text in inputs)
        return load(source, Variant(source.text, **rest), parse_weights("none", source=source), specs)

    return load_one


Get = Callable[..., Loaded]


@pytest.fixture
def net(archives: Path) -> nn.Module:
    made = Net()
    made.load_state_dict(torch.load(archives / "state.pt"))
    return made.eval()


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("net.pt", TensorSpec("input", "float32", ("batch", 3, 16, 16))),
        ("net.pt2", TensorSpec("x", "float32", (1, 3, 16, 16))),
        ("open.pt2", TensorSpec("x", "float32", ("batch", 3, 16, 16))),
    ],
)
@torch.no_grad()
def test_an_archives_network_computes_what_it_was_made_from(
    get: Get, net: nn.Module, name: str, spec: TensorSpec
) -> None:
    found = get(name)
    assert found.inputs == (spec,)
    assert (found.outputs, found.task, found.resolution, found.num_classes) == (("logits",), "classification", 16, 5)
    assert found.weights == "own:0"
    x = torch.randn(1 if spec.shape[0] == 1 else 3, 3, 16, 16)
    assert torch.allclose(found.module(x), net(x), atol=1e-6)
    assert not found.module.training
    assert not any(parameter.requires_grad for parameter in found.module.parameters())
    names = {name.removeprefix("program.") for name in found.module.state_dict()}
    assert {"features.0.weight", "head.bias"} <= names
    found.module.eval()  # torch's own module of an exported program refuses this


def test_several_inputs_and_outputs_keep_their_names(get: Get) -> None:
    found = get("two.pt2", resolution=6)
    assert [spec.name for spec in found.inputs] == ["x", "y"]
    assert found.outputs == ("wide", "sum")
    assert [tensor.shape for tensor in found.module(torch.zeros(5, 4, 6), torch.zeros(5, 24))] == [(10, 12), (5, 24)]


def test_a_torchscript_archive_is_told_its_inputs(get: Get) -> None:
    found = get("net.pt", inputs=("image:float32:batch,3,24,40",))
    assert found.inputs[0].shape == ("batch", 3, 24, 40)
    assert found.resolution is None
    with pytest.raises(InputUnusable, match=r"fails on its input \(image \[1, 7\]\)"):
        get("net.pt", inputs=("image:float32:batch,7",))
    with pytest.raises(UsageError, match="are known"):
        get("net.pt2", inputs=("image:float32:batch,7",))


@pytest.mark.parametrize(
    ("name", "rest", "says"),
    [
        ("net.pt2", {"resolution": 32}, "x:float32:1,3,16,16"),
        ("net.pt2", {"batch": None}, "--batch 1"),
        ("net.pt2", {"batch": 4}, "--batch 1"),
        ("net.pt", {"alpha": 0.5}, "leave --alpha out"),
        ("net.pt", {"num_classes": 3}, "leave --num-classes out"),
        ("net.pt2", {"options": (("a", "b"),)}, "leave --option out"),
    ],
)
def test_an_archive_is_as_it_is(get: Get, name: str, rest: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        get(name, **rest)
    assert says in str(caught.value)


def test_an_archive_knows_its_resolution(get: Get) -> None:
    assert get("net.pt2", resolution=None).resolution == 16


def test_an_archive_has_its_weights(archives: Path) -> None:
    source = parse_source(str(archives / "net.pt"))
    with pytest.raises(UsageError, match="has its weights in it"):
        parse_weights(str(archives / "state.pt"), source=source)
    with pytest.raises(UsageError, match="nobody publishes"):
        parse_weights("default", source=source)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The archive with every entry changed; None leaves one out."""
    other = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)
    return other


def edit(word: str, replacement: str, where: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if where not in name:
            return data
        assert word.encode() in data
        return data.replace(word.encode(), replacement.encode())

    return change


class Opens:
    """A pickle of this makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("unpickled", "w"))


RUNS_CODE = pickle.dumps(Opens())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit("torch.ops.aten.linear.default", "torch.hub.load", "model.json"), "torch.hub.load"),
        (edit("torch.ops.aten.linear.default", "torch.ops.aten.from_file.default", "model.json"), "from_file"),
        (edit("torch.ops.aten.linear.default", "_operator.methodcaller", "model.json"), "methodcaller"),
        (edit("Symbol('s", "__import__('os').system('s", "model.json"), "__import__"),
        (edit("positive=True", "positive=exec(chr(49))", "model.json"), "exec"),
        (edit('"use_pickle": false', '"use_pickle": true', "weights_config.json"), "use_pickle"),
        (lambda name, data: RUNS_CODE if "sample_inputs" in name else data, "sample inputs"),
    ],
)
def test_an_archive_that_asks_for_more_than_arithmetic_is_not_loaded(
    archives: Path, get: Get, monkeypatch: pytest.MonkeyPatch, change: Callable[[str, bytes], bytes], says: str
) -> None:
    path = rewritten(archives / "open.pt2", change)
    monkeypatch.setattr(torch.export, "load", lambda *args: pytest.fail("it was loaded"))
    with pytest.raises(InputUnusable) as caught:
        get(path.name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: b"999" if name.endswith("archive_version") else data,
        lambda name, data: None if "weights_config" in name else data,
        lambda name, data: b"{" if name.endswith("model.json") else data,
        lambda name, data: json.dumps({}).encode() if name.endswith("model.json") else data,
        lambda name, data: b"" if name.endswith("weight_0") else data,
    ],
)
def test_an_archive_of_another_version_or_damaged_is_told_in_one_error(
    archives: Path, get: Get, capfd: pytest.CaptureFixture[str], change: Callable[[str, bytes], bytes | None]
) -> None:
    path = rewritten(archives / "net.pt2", change)
    with pytest.raises(InputUnusable) as caught:
        get(path.name)
    assert "save it again" in (caught.value.hint or "")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ["net.pt", "net.pt2"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_truncated_archive_is_refused(archives: Path, tmp_path: Path, name: str, share: float) -> None:
    whole = (archives / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputUnusable):
        parse_source(str(tmp_path / name))


@pytest.mark.parametrize(("name", "entry"), [("net.pt", "/data/0"), ("net.pt2", "weight_0")])
def test_a_changed_byte_of_a_weight_is_seen(archives: Path, tmp_path: Path, name: str, entry: str) -> None:
    with zipfile.ZipFile(archives / name) as archive:
        weight = next(archive.read(found) for found in archive.namelist() if found.endswith(entry))
    whole = (archives / name).read_bytes()
    place = whole.index(weight)
    (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    source = parse_source(str(tmp_path / name))
    with pytest.raises(InputUnusable):
        load(source, Variant(source.text, None, 16), parse_weights("none", source=source))


@pytest.mark.parametrize("entry", ["constants.pkl", "data.pkl", "code/__torch__"])
def test_a_torchscript_archive_with_foreign_content_is_refused(
    archives: Path, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewritten(
        archives / "net.pt", lambda name, data: RUNS_CODE if entry in name and "debug" not in name else data
    )
    with pytest.raises(InputUnusable):
        get(path.name)
    assert not (tmp_path / "unpickled").exists()


def test_a_pickle_under_the_name_of_an_archive_is_not_unpickled(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "whole.pt")
    with pytest.raises(InputUnusable, match="--weights"):
        parse_source(str(tmp_path / "whole.pt"))
    torch.save(Net(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputUnusable, match="a pickle"):
        parse_source(str(tmp_path / "legacy.pt"))


def test_an_archive_that_became_another_file_is_refused(archives: Path, tmp_path: Path) -> None:
    shutil.copy(archives / "net.pt", tmp_path / "net.pt")
    source = parse_source(str(tmp_path / "net.pt"))
    shutil.copy(archives / "state.pt", tmp_path / "net.pt")
    with pytest.raises(InputUnusable, match="weights and no network"):
        load(source, Variant(source.text, None, 16), parse_weights("none", source=source))
