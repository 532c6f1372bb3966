"""`package.module:factory` and `file.py:factory`: the user's own code."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.checkpoints import digest
from edgekit.errors import EdgekitError, InputUnusable, MachineLacks, UsageError
from edgekit.manifest import TensorSpec
from edgekit.sources import CheckpointWeights, Loaded, OwnWeights, Weights, check, load, parse_input_spec, parse_source
from edgekit.sources.making import ready
from edgekit.variant import Variant

pytestmark = pytest.mark.usefixtures("one_thread")

Write = Callable[[str], None]
Get = Callable[..., Loaded]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, num_classes=3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        self.act = nn.ReLU(inplace=True)
    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write `net.py` in the current directory: the code given, behind a small network."""
    monkeypatch.chdir(tmp_path)

    def put(code: str) -> None:
        (tmp_path / "net.py").write_text(NET + textwrap.dedent(code))

    return put


def get(
    text: str = "net.py:make", weights: Weights | None = None, *, inputs: tuple[str, ...] = (), **rest: Any
) -> Loaded:
    source = parse_source(text)
    rest = {"alpha": None, "resolution": 32, **rest}
    specs = tuple(parse_input_spec(text) for text in inputs)
    return load(source, Variant(source.text, **rest), weights or OwnWeights(0), specs)


def test_a_factorys_module_comes_ready_to_run(write: Write) -> None:
    write("def make(): return Net().train()")
    found = get()
    assert found.inputs == (TensorSpec("input", "float32", ("batch", 3, 32, 32)),)
    assert (found.outputs, found.task, found.num_classes, found.resolution) == (("logits",), "classification", 3, 32)
    assert found.norm_pairs == (("conv", "norm"),)
    assert found.preprocessing is None
    assert not any(layer.training or getattr(layer, "inplace", False) for layer in found.module.modules())
    assert not any(parameter.requires_grad for parameter in found.module.parameters())


def test_without_a_resolution_the_image_has_224_pixels_and_without_an_image_none_is_needed(write: Write) -> None:
    write("def make(): return Net()\ndef other(): return Net(), torch.zeros(1, 3, 8, 12)")
    assert get(resolution=None).resolution == 224
    assert get("net.py:other", resolution=None).inputs[0].shape == ("batch", 3, 8, 12)


def test_the_seed_decides_what_the_factory_draws_and_nothing_else_is_disturbed(write: Write) -> None:
    write("import random\ndef make():\n    net = Net()\n    net.head.bias.data.fill_(random.random())\n    return net")
    before = torch.get_rng_state()
    states = [digest(get(weights=OwnWeights(seed)).module.state_dict()) for seed in (1, 1, 2)]
    assert states[0] == states[1] != states[2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", ["net.py:Net", "./net.py:Net", "net.py:instance", "net.py:Place.make"])
def test_a_factory_is_a_function_a_class_a_method_or_the_network_itself(write: Write, text: str) -> None:
    write("instance = Net()\nclass Place:\n    @staticmethod\n    def make(): return Net()")
    assert get(text).outputs == ("logits",)


def test_a_module_of_a_package_is_found_from_the_current_directory(write: Write, tmp_path: Path) -> None:
    package = tmp_path / "edgekit_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(NET)
    (package / "make.py").write_text("from .parts import Net\ndef make(): return Net()\n")
    write("")
    assert get("edgekit_test_package.make:make").outputs == ("logits",)


def test_a_file_finds_its_neighbours_and_they_find_it(write: Write, tmp_path: Path) -> None:
    (tmp_path / "edgekit_test_neighbour.py").write_text("import net\ndef width(): return net.WIDTH\n")
    write("WIDTH = 6\nimport edgekit_test_neighbour\ndef make(): return Net(edgekit_test_neighbour.width())")
    assert get().module.conv.out_channels == 6


def test_a_file_may_define_dataclasses(write: Write) -> None:
    write(
        """
        import dataclasses
        @dataclasses.dataclass
        class Config:
            width: "int" = 5
        def make(): return Net(Config().width)
        """
    )
    assert get().module.conv.out_channels == 5


def test_options_widths_and_classes_are_keyword_arguments(write: Write) -> None:
    write(
        """
        def make(alpha=1.0, *, num_classes, depth=1, name="a"):
            assert name == "b"
            return Net(int(8 * alpha), num_classes)
        """
    )
    found = get(alpha=0.5, num_classes=7, options=(("name", "b"),))
    assert found.module.conv.out_channels == 4
    assert found.num_classes == 7


def test_anything_goes_where_the_factory_takes_anything(write: Write) -> None:
    write("def make(**options): return Net(**options)")
    assert get(options=(("width", "9"),)).module.conv.out_channels == 9
    with pytest.raises(UsageError, match="'hight'"):
        get(options=(("hight", "9"),))


@pytest.mark.parametrize(
    ("code", "rest", "says"),
    [
        ("def make(width=4): ...", {"options": (("widht", "3"),)}, "did you mean width"),
        ("def make(): ...", {"options": (("width", "3"),)}, "it has none"),
        ("def make(width, depth): ...", {}, "--option width=VALUE --option depth=VALUE"),
        ("def make(width, /): ...", {}, "width"),
        ("def make(width=4): ...", {"num_classes": 3}, "--num-classes"),
        ("def make(depth=4): ...", {"alpha": 0.5}, "a parameter alpha or width_mult"),
        ("def mkae(): ...", {}, "did you mean mkae"),
        ("make = 3", {}, "make is a int"),
    ],
)
def test_what_does_not_suit_the_factory_is_refused_before_the_call(
    write: Write, code: str, rest: dict[str, Any], says: str
) -> None:
    write(code)
    with pytest.raises(EdgekitError) as caught:
        get(**rest)
    assert says in str(caught.value)
    assert caught.value.exit_code in (2, 4)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("return None", "None"),
        ("return Net", "the class Net"),
        ("return Net().state_dict()", "--weights FILE"),
        ("return 3", "an int"),
        ("return (Net(), 1, 2)", "a tuple"),
        ("yield Net()", "a generator"),
        ("return Net(), None, None", "a tuple"),
    ],
)
def test_a_factory_that_returns_something_else_is_refused(write: Write, code: str, says: str) -> None:
    write(f"def make():\n    {code}")
    with pytest.raises(InputUnusable, match="returns no network") as caught:
        get()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def make():\n    raise ValueError('no good')", "ValueError: no good (at"),
        ("def make():\n    import sys; sys.exit('bye')", "sys.exit('bye') at"),
        ("def make():\n    return make()", "RecursionError"),
        ("def make():\n    nn.Linear('a', 3)", "in linear.py:"),
        ("1 / 0\ndef make(): ...", "ZeroDivisionError: division by zero (at"),
        ("raise SystemExit\ndef make(): ...", "sys.exit(None) at"),
    ],
)
def test_code_that_fails_is_told_with_its_line(write: Write, tmp_path: Path, code: str, says: str) -> None:
    write(code)
    with pytest.raises(InputUnusable) as caught:
        get()
    assert says in (caught.value.got or "")
    assert f"{tmp_path / 'net.py'}:1" in (caught.value.got or "")


def test_a_syntax_error_is_told_before_anything_runs(write: Write) -> None:
    write("def make(:")
    with pytest.raises(InputUnusable, match="syntax error") as caught:
        check(Variant("net.py:make", None, 32), OwnWeights(0), parse_source("net.py:make"))
    assert (caught.value.where or "").endswith("net.py:13")


def test_a_package_that_is_missing_is_the_machines_lack(write: Write) -> None:
    write("import no_such_package\ndef make(): ...")
    with pytest.raises(MachineLacks, match="no_such_package"):
        get()


def test_what_the_code_prints_goes_to_stderr(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write(
        """
        print("import")
        class Loud(Net):
            def forward(self, x):
                print("forward")
                return super().forward(x)
        def make():
            print("make")
            return Loud()
        """
    )
    get()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.split()[:3] == ["import", "make", "forward"]


EXAMPLES = """
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
    def forward(self, ids, mask, scale=None):
        y = self.embed(ids) * mask[..., None]
        return {"y": y if scale is None else y * scale, "ids": ids, "nothing": None}
"""


@pytest.mark.parametrize(
    ("returned", "inputs", "keywords"),
    [
        ("Two(), (torch.full((2, 5), 7), torch.ones(2, 5))", ("ids", "mask"), ()),
        ("Two(), [torch.full((2, 5), 7), torch.ones(2, 5).double()]", ("ids", "mask"), ()),
        ("Two(), {'mask': torch.ones(2, 5), 'ids': torch.full((2, 5), 7)}", ("mask", "ids"), ("mask", "ids")),
    ],
)
def test_an_example_beside_the_module_says_what_goes_in(
    write: Write, returned: str, inputs: tuple[str, ...], keywords: tuple[str, ...]
) -> None:
    write(EXAMPLES + f"def make(): return {returned}")
    found = get()
    specs = {"ids": TensorSpec("ids", "int64", ("batch", 5)), "mask": TensorSpec("mask", "float32", ("batch", 5))}
    assert found.inputs == tuple(specs[name] for name in inputs)
    assert found.outputs == ("y", "ids_output"), "an input has the other name already"
    assert found.resolution is None
    assert found.module.keywords == keywords
    y, ids = found.module(*found.examples)
    assert y.shape == (2, 5, 4)
    assert ids.eq(7).all()


def test_the_user_may_name_the_inputs_and_their_order(write: Write) -> None:
    write(EXAMPLES + "def make(): return Two()")
    found = get(inputs=("mask:float32:batch,6", "ids:int64:batch,6"))
    assert [spec.name for spec in found.inputs] == ["mask", "ids"]
    assert found.module(*found.examples)[0].shape == (1, 6, 4)
    assert get(inputs=("a:int64:batch,6", "b:float32:batch,6")).module(*found.examples[::-1])[0].shape == (1, 6, 4)


def test_one_tensor_is_called_input_or_what_forward_calls_it(write: Write) -> None:
    write("def make(): return Net(), torch.zeros(4, 3, 9, 9)\ndef other(): return nn.Linear(3, 3), torch.zeros(1, 3)")
    assert get().inputs == (TensorSpec("input", "float32", ("batch", 3, 9, 9)),)
    assert get("net.py:other").inputs[0].name == "input"


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ("'image'", "no tensors"),
        ("()", "no tensors"),
        ("[3]", "no tensors"),
        ("(torch.zeros(2, 3), torch.zeros(3, 3))", "axis 0 of every input is the batch"),
    ],
)
def test_an_example_that_says_nothing_is_refused(write: Write, example: str, says: str) -> None:
    write(f"def make(): return Net(), {example}")
    with pytest.raises(InputUnusable, match=says):
        get()


def test_a_network_that_fails_on_its_input_is_told_with_the_shapes(write: Write, tmp_path: Path) -> None:
    write("class Bad(Net):\n    def forward(self, x):\n        return self.head(x)\ndef make(): return Bad()")
    with pytest.raises(InputUnusable, match=r"fails on its input \(input \[1, 3, 32, 32\]\)") as caught:
        get()
    assert f"{tmp_path / 'net.py'}:15" in (caught.value.got or "")
    assert "--input" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("returned", "says"), [("None", "returns no tensor"), ("'cat'", "something that is no tensor")]
)
def test_a_network_that_returns_no_tensor_is_refused(write: Write, returned: str, says: str) -> None:
    write(f"class Bad(Net):\n    def forward(self, x):\n        return {returned}\ndef make(): return Bad()")
    with pytest.raises(InputUnusable, match=says):
        get()


def test_layers_that_are_made_when_they_first_run_come_from_the_seed(write: Write, tmp_path: Path) -> None:
    write("def make(): return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))")
    first, again = get(resolution=8), get(resolution=8)
    assert digest(first.module.state_dict()) == digest(again.module.state_dict())
    assert not any(parameter.requires_grad for parameter in first.module.parameters())
    torch.save(first.module.state_dict(), tmp_path / "w.pt")
    filled = get(weights=CheckpointWeights(tmp_path / "w.pt"), resolution=8)
    assert digest(filled.module.state_dict()) == digest(first.module.state_dict())


@pytest.mark.parametrize(
    "code", ["nn.DataParallel(Net())", "Compiled(Net())", "Net().half()", "Net().double()", "Net().bfloat16()"]
)
def test_what_wraps_a_network_or_its_numbers_is_put_right(write: Write, code: str) -> None:
    # torch.compile returns a module like this one, and takes three seconds to do so.
    write(
        f"""
        class Compiled(nn.Module):
            def __init__(self, network):
                super().__init__()
                self._orig_mod = network
        def make(): return {code}
        """
    )
    found = get()
    assert type(found.module).__name__ == "Net"
    assert all(parameter.dtype == torch.float32 for parameter in found.module.parameters())


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def eval(self): raise ValueError('never')", "ValueError: never"),
        ("def __init__(self):\n        with torch.device('meta'): super().__init__()", "meta device"),
    ],
)
def test_a_network_that_cannot_be_made_ready_is_refused(write: Write, code: str, says: str) -> None:
    write(f"class Odd(Net):\n    {code}\ndef make(): return Odd()")
    with pytest.raises(InputUnusable) as caught:
        get()
    assert says in (caught.value.got or "")


def test_a_quantised_network_is_refused_by_its_layer() -> None:
    layer = type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    with pytest.raises(InputUnusable, match="quantised") as caught:
        ready(nn.Sequential(layer(2, 2)))
    assert "0 is a Linear" in (caught.value.got or "")


def test_a_checkpoint_fills_the_network_and_one_that_does_not_fit_is_refused(write: Write, tmp_path: Path) -> None:
    write("def make(width=4): return Net(width)")
    get()
    state = get(weights=OwnWeights(9)).module.state_dict()
    torch.save(state, tmp_path / "w.pt")
    assert digest(get(weights=CheckpointWeights(tmp_path / "w.pt")).module.state_dict()) == digest(state)
    with pytest.raises(InputUnusable, match="do not fit"):
        get(weights=CheckpointWeights(tmp_path / "w.pt"), options=(("width", "5"),))


def test_two_files_of_one_name_are_two_networks(write: Write, tmp_path: Path) -> None:
    for folder, width in (("a", 3), ("b", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "edgekit_test_width.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "net.py").write_text(
            NET + "import edgekit_test_width\ndef make(): return Net(edgekit_test_width.WIDTH)\n"
        )
    widths = [get(f"{tmp_path}/{folder}/net.py:make").module.conv.out_channels for folder in "aba"]
    assert widths == [3, 5, 3]


def test_a_file_may_be_called_as_a_library_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text(NET)
    assert get("torch.py:Net").outputs == ("logits",)
    assert torch.nn is nn
