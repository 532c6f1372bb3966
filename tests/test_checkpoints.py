"""Checkpoints: what is read, what is refused and how, and what does not fit."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit.checkpoints import compare, digest, fit, read_state_dict
from edgekit.errors import InputUnusable


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), out=nn.Linear(8, 5))).eval()


STATE = network().state_dict()


def save_zip(path: Path, value: object) -> None:
    torch.save(value, path)


def save_legacy(path: Path, value: object) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path, value: dict[str, Tensor]) -> None:
    save_file(value, path)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors", ""])
def test_every_form_is_read_by_its_content_whatever_its_name(tmp_path: Path, save: Callable, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save(path, dict(STATE))
    assert same(read_state_dict(path), STATE)


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_containers_and_prefixes_are_taken_off(tmp_path: Path, container: str, prefix: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, container: {prefix + name: value for name, value in STATE.items()}}, path)
    assert same(read_state_dict(path), STATE)


def test_values_whose_sum_overflows_are_finite_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.full((4,), 3e38), "h": torch.full((4,), 6e4, dtype=torch.float16)}, path)
    assert read_state_dict(path)["h"].tolist() == torch.full((4,), 6e4).half().float().tolist()


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, path)
    assert set(read_state_dict(path)) == {"module.a", "b"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_say_so(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({name: value.to(dtype) if value.is_floating_point() else value for name, value in STATE.items()}, path)
    with caplog.at_level(logging.INFO, logger="edgekit.checkpoints"):
        state = read_state_dict(path)
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert torch.equal(state["conv.weight"], STATE["conv.weight"].to(dtype).float())
    assert str(dtype).removeprefix("torch.") in caplog.text


def test_float32_is_not_remarked_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "weights.pt"
    torch.save(STATE, path)
    with caplog.at_level(logging.INFO, logger="edgekit.checkpoints"):
        read_state_dict(path)
    assert not caplog.records


class RunsCode:
    """Unpickling this runs a command that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def write_plain_pickle(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [save_zip, save_legacy, write_plain_pickle])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {**STATE, "extra": evil}])
def test_a_pickle_that_would_run_code_is_refused_without_running_it(
    tmp_path: Path, save: Callable, wrap: Callable
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "weights.pt"
    save(path, wrap(RunsCode(mark)))
    with pytest.raises(InputUnusable, match="refused") as caught:
        read_state_dict(path)
    assert not mark.exists()
    assert save is write_plain_pickle or "run posix.system" in str(caught.value)


def test_a_whole_pickled_network_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(network(), path)
    with pytest.raises(InputUnusable, match=r"torch\.nn\.modules") as caught:
        read_state_dict(path)
    assert "state_dict()" in (caught.value.hint or "")


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), str(path))


def write_compressed(path: Path) -> None:
    plain = path.with_name("plain.pt")
    torch.save(STATE, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


def write_flipped(path: Path) -> None:
    torch.save(STATE, path)
    content = path.read_bytes()
    values = STATE["conv.weight"].numpy().tobytes()
    assert values in content
    path.write_bytes(content.replace(values, values[:100] + bytes([values[100] ^ 1]) + values[101:]))


def write_other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/readme", "hello")


def write_self_holding(path: Path) -> None:
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, path)


def write_gigantic(path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, path)


def write_sparse(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"w": torch.eye(3).to_sparse()}, path)


def cut(save: Callable, share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save(path, dict(STATE))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def holding(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def content(head: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(head)


BAD = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "pipe": (os.mkfifo, "not a regular file"),
    "empty": (content(b""), "an empty file"),
    "truncated zip": (cut(save_zip, 0.6), "cut short"),
    "truncated zip, head": (cut(save_zip, 0.02), "cut short"),
    "truncated legacy": (cut(save_legacy, 0.6), "cut short"),
    "truncated legacy, head": (cut(save_legacy, 0.05), "(?s)damaged"),
    "truncated safetensors": (cut(save_safetensors, 0.6), "damaged safetensors"),
    "safetensors without header": (content(b"\xff\0\0\0\0\0\0\0{" + b"z" * 300), "damaged safetensors"),
    "one bit flipped": (write_flipped, "damaged"),
    "TorchScript": (write_torchscript, "TorchScript"),
    "compressed": (write_compressed, "compressed"),
    "another zip": (write_other_zip, "torch.save did not write"),
    "ONNX": (content(b"\x08\x0a\x12\x07pytorch" + b"\0" * 30), "an ONNX model"),
    "JPEG": (content(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(200))), "a JPEG image"),
    "PNG": (content(b"\x89PNG\r\n\x1a\n" + b"\0" * 30), "a PNG image"),
    "text": (content(b"<!DOCTYPE html>\n<p>Not found</p>\n"), "a text file"),
    "LFS pointer": (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "git lfs pull"),
    "plan": (content(b"vtrt" + b"\0" * 60), "TensorRT-RTX plan"),
    "noise": (content(bytes(range(7, 255)) * 3), "unknown format"),
    "list": (holding([torch.ones(3)]), "a list and no names"),
    "tensor": (holding(torch.ones(3)), "a Tensor and no names"),
    "nothing in it": (holding({}), "without entries"),
    "numbered": (holding({0: torch.ones(3)}), "whose name is 0"),
    "a number among tensors": (holding({**STATE, "lr": 0.1}), "lr is a float"),
    "optimiser state": (holding({"state_dict": {"state": {}, "param_groups": []}}), "state is a dict"),
    "holds itself": (write_self_holding, "model is a dict"),
    "NaN": (holding({**STATE, "conv.bias": torch.full((8,), torch.nan)}), "conv.bias holds NaN"),
    "infinity": (holding({"a": torch.ones(2), "b": torch.tensor([1, torch.inf])}), "b holds NaN or infinity"),
    "beyond float32": (holding({"w": torch.tensor([1e300], dtype=torch.float64)}), "w holds values beyond"),
    "claims a terabyte": (write_gigantic, "claims 1000000000000 values"),
    "complex": (holding({"w": torch.ones(3, dtype=torch.complex64)}), "w is of type complex64"),
    "eight bits": (holding({"w": torch.ones(3).to(torch.float8_e4m3fn)}), "w is of type float8"),
    "sparse": (write_sparse, "w is a sparse"),
    "no values": (holding({"w": torch.ones(3, device="meta")}), "w is a sparse, quantised or empty"),
}


@pytest.mark.parametrize(("write", "says"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_gets_one_clear_message(tmp_path: Path, write: Callable[[Path], object], says: str) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(InputUnusable, match=says) as caught:
        read_state_dict(path)
    assert caught.value.exit_code == 4
    assert caught.value.where == str(path)
    assert all("\n" not in text for _, text in caught.value.details())


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "weights.pt"
    loop.symlink_to(loop)
    with pytest.raises(InputUnusable, match=r"(?i)symbolic links|no such file"):
        read_state_dict(loop)


def test_an_archive_that_was_written_without_checksums_is_read(tmp_path: Path) -> None:
    from torch.serialization import get_crc32_options, set_crc32_options

    before = get_crc32_options()
    set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "weights.pt")
    finally:
        set_crc32_options(before)
    assert same(read_state_dict(tmp_path / "weights.pt"), STATE)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=600),
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x04"]),
)
def test_no_bytes_lead_to_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "weights.pt"
    path.write_bytes(head + tail)
    with pytest.raises(InputUnusable):
        read_state_dict(path)


def test_weights_that_fit_are_taken_over(tmp_path: Path) -> None:
    with torch.device("meta"):
        target = network()
    fit(target, STATE, "here")
    assert same(target.state_dict(), STATE)


def test_batch_counters_may_be_missing() -> None:
    target = network()
    fit(target, {name: value for name, value in STATE.items() if not name.endswith("tracked")}, "here")
    assert int(target.norm.num_batches_tracked) == 0


def test_every_kind_of_mismatch_is_reported_at_once() -> None:
    state = {name: value for name, value in STATE.items() if not name.startswith("norm.")}
    state |= {"extra": torch.ones(1), "out.weight": torch.ones(7, 8), "conv.bias": torch.ones(8, dtype=torch.int64)}
    with pytest.raises(InputUnusable) as caught:
        fit(network(), state, "weights.pt", explain=lambda: "they are another's")
    text = str(caught.value)
    assert "4 missing: norm.weight, norm.bias, norm.running_mean, ..." in text
    assert "1 unexpected: extra" in text
    assert "1 of another shape: out.weight [7, 8] instead of [5, 8]" in text
    assert "1 integer instead of floating-point: conv.bias" in text
    assert "weights.pt" in text
    assert "they are another's" in text


def test_a_fit_asks_for_no_explanation() -> None:
    def explain() -> str:
        raise AssertionError

    fit(network(), STATE, "here", explain)
    assert not compare(network(), STATE)


def test_the_digest_knows_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    others = [
        {"a": torch.arange(6.0), "c": torch.tensor(3)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
        {"a": torch.arange(6.0).view(torch.int32), "b": torch.tensor(3)},
        {"a": torch.arange(6.0) + torch.eye(6)[5] * 1e-6, "b": torch.tensor(3)},
        {"a": torch.arange(6.0)},
        {"a": torch.arange(6, dtype=torch.bfloat16), "b": torch.tensor(3)},
    ]
    digests = [digest(state) for state in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert digest(dict(reversed(base.items()))) == digests[0]
    strided = torch.stack([torch.arange(6.0), torch.zeros(6)], dim=1)[:, 0]
    assert digest({**base, "a": strided}) == digests[0]
