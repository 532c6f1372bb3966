"""What people type to say which network, told apart without importing anything."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit.errors import InputUnusable, UsageError
from edgekit.sources import Source, parse_source
from edgekit.sources.naming import LONGEST_SLUG


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a file of every kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def make(): ...\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "pkg" / "mod.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08")
    entries = {
        "net.pt": ["net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"],
        "net.pt2": ["net/archive_format", "net/models/model.json"],
        "state.pt": ["state/data.pkl", "state/data/0"],
        "old.pt2": ["version", "serialized_exported_program.json"],
        "other.ts": ["readme.txt"],
    }
    for name, names in entries.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry in names:
                archive.writestr(entry, "x")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "source", "slug"),
    [
        ("mobilenet_v2", Source("reference", "mobilenet_v2"), "mobilenet_v2"),
        ("torchvision:resnet18", Source("torchvision", "resnet18"), "torchvision-resnet18"),
        ("timm:resnet18.a1_in1k", Source("timm", "resnet18.a1_in1k"), "timm-resnet18.a1_in1k"),
        ("net.py:make", Source("factory", "net.py:make"), "net-make"),
        ("./net.py:Net.build", Source("factory", "./net.py:Net.build"), "net-Net.build"),
        ("pkg.mod:make", Source("factory", "pkg.mod:make"), "pkg.mod-make"),
        ("pkg:make", Source("factory", "pkg:make"), "pkg-make"),
        ("net.onnx", Source("onnx", "net.onnx"), "net"),
        ("./net.pt", Source("torchscript", "./net.pt"), "net-torchscript"),
        ("net.pt2", Source("exported", "net.pt2"), "net-exported"),
    ],
)
def test_every_kind_of_source_is_recognised(folder: Path, text: str, source: Source, slug: str) -> None:
    found = parse_source(text)
    assert found == source
    assert found.text == text
    assert found.slug == slug


def test_an_onnx_file_called_as_a_network_is_not_taken_for_it(folder: Path) -> None:
    (folder / "mobilenet_v2.onnx").write_bytes(b"\x08")
    assert parse_source("mobilenet_v2.onnx").slug == "mobilenet_v2-onnx"


def test_a_network_keeps_its_name_where_a_file_has_it_too(folder: Path) -> None:
    (folder / "mobilenet_v2").mkdir()
    assert parse_source("mobilenet_v2").kind == "reference"


def test_a_source_says_which_file_it_is(folder: Path) -> None:
    assert parse_source("net.onnx").path == Path("net.onnx")
    assert parse_source("net.py:make").path == Path("net.py")
    assert parse_source("pkg.mod:make").path is None
    assert parse_source("torchvision:resnet18").path is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mobilenet_2", "mobilenet_v2"),
        ("resnet18", "did you mean torchvision:resnet18"),
        ("squeezenet1_2", "torchvision:squeezenet1_"),
        ("torchvison:resnet18", "did you mean torchvision:resnet18"),
        ("timm:", "timm:NAME"),
        ("torchvision:a/b", "torchvision:NAME"),
        ("timm:hf-hub:a/b", "factory of your own"),
        ("net.py", "net.py:make"),
        ("net.py:", "no factory"),
        ("net.py:make()", "no factory"),
        (":make", "no module"),
        ("nowhere:make", "there is no module called 'nowhere'"),
        ("pkg.nowhere:make", "there is no module called 'pkg.nowhere'"),
        ("sys:exit", "there is no module called 'sys'"),
    ],
)
def test_a_name_that_stands_for_nothing_is_a_usage_error(folder: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nett.onnx", "did you mean net.onnx"),
        ("nowhere/net.onnx", "no such file"),
        ("nott.py:make", "no such file"),
        ("nowhere/net", "no such file"),
        ("net.pth", "no such file"),
        ("pkg.onnx/", "no such file"),
        ("./pkg", "a folder"),
        ("./pkg/mod.txt:make", "no such file"),
        ("state.pt", "name the network and give it as --weights"),
        ("old.pt2", "older torch.export"),
        ("other.ts", "holds no network"),
    ],
)
def test_a_file_that_is_no_network_is_refused(folder: Path, text: str, says: str) -> None:
    with pytest.raises(InputUnusable) as caught:
        parse_source(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 and then nothing", "damaged or cut short"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle"),
        (b"\x80\x04cos\nsystem\n", "not unpickled"),
        (b"\x08\x08\x12\x07pytorch", "the ending .onnx"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "name the network and give it as --weights"),
        (b"hello", "holds no network"),
    ],
)
def test_the_content_of_an_archive_decides(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(InputUnusable) as caught:
        parse_source(str(path))
    assert says in str(caught.value)


def test_a_truncated_archive_is_refused(folder: Path) -> None:
    whole = (folder / "net.pt").read_bytes()
    (folder / "net.pt").write_bytes(whole[:-30])
    with pytest.raises(InputUnusable, match="damaged or cut short"):
        parse_source("net.pt")


def test_nothing_heavy_and_nothing_of_the_users_is_imported(folder: Path) -> None:
    code = (
        "import sys, json; from edgekit.sources import parse_source, source_identity\n"
        "for text in sys.argv[1:]:\n"
        "    try: source_identity(parse_source(text))\n"
        "    except Exception as error: assert type(error).__name__ == 'UsageError', error\n"
        "print(json.dumps([name for name in ('torch', 'torchvision', 'timm', 'numpy', 'pkg') if name in sys.modules]))"
    )
    texts = ["pkg.mod:make", "net.py:make", "timm:resnet18", "torchvision:resnet18", "net.pt2", "resnet18"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}", *texts],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert json.loads(done.stdout) == []


@given(st.text(max_size=300))
@example("a:b")
@example("\0.onnx")
@example("~nobody/net.pt")
@example("~\0")
@example("x" * 300)
@example("x" * 300 + ".onnx")
@example("x" * 300 + ":make")
@example("x" * 300 + ".py:make")
def test_any_text_is_a_source_or_a_refusal(text: str) -> None:
    with contextlib.suppress(UsageError, InputUnusable):
        assert parse_source(text).text == text


names = st.text(min_size=1, max_size=300).filter(lambda text: "\0" not in text)


@given(st.sampled_from(["reference", "torchvision", "timm", "factory", "torchscript", "exported", "onnx"]), names)
def test_a_slug_is_one_folder(kind: str, name: str) -> None:
    slug = Source(kind, name).slug  # type: ignore[arg-type]
    assert slug not in ("", ".", "..")
    assert not slug.startswith((".", "-"))
    assert not set(slug) & set("/\\: \n\t*?\"'<>|")
    assert len(slug.encode()) <= LONGEST_SLUG + 9
