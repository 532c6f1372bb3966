"""Code that is not ours: its output, its errors, and where it finds its modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.sources.running import guarded, importable, stdout_to_stderr, told


def test_what_is_printed_by_any_means_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_to_stderr():
        print("python")
        os.write(1, b"native\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    print("after")
    captured = capfd.readouterr()
    assert captured.out == "after\n"
    assert sorted(captured.err.split()) == ["child", "native", "python"]


def test_stdout_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputUnusable), guarded("it fails", "here"):
        raise ValueError
    print("after")
    assert capfd.readouterr().out == "after\n"


@pytest.mark.parametrize("before", ["", "os.close(1)", "sys.stdout = None"])
def test_stdout_may_be_kept_closed_or_missing(before: str) -> None:
    code = (
        "import os, sys; from edgekit.sources.running import stdout_to_stderr\n"
        f"kept = sys.stdout; {before}\n"
        "with stdout_to_stderr(): print('told'); print('by the old name', file=kept)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert "told" in done.stderr
    assert done.stdout == ""
    assert before or "by the old name" in done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("too\nlong"), "ValueError: too (at "),
        (KeyError(), "KeyError (at "),
        (SystemExit(3), "sys.exit(3) at "),
        (RecursionError("deep"), "RecursionError: deep"),
        (ValueError("x" * 5000), "x" * 100),
    ],
)
def test_an_error_is_told_in_one_line(error: BaseException, says: str) -> None:
    with pytest.raises(InputUnusable) as caught, guarded("it fails", "here", hint="do this"):
        raise error
    assert caught.value.what == "it fails"
    assert caught.value.where == "here"
    got = caught.value.got or ""
    assert says in got
    assert f"{Path(__file__).name}:" in got
    assert "\n" not in got
    assert len(got) < 800


def test_what_is_typed_already_and_an_interruption_pass() -> None:
    with pytest.raises(UsageError), guarded("it fails", "here"):
        raise UsageError("x")
    with pytest.raises(KeyboardInterrupt), guarded("it fails", "here"):
        raise KeyboardInterrupt


def test_a_missing_package_is_the_machines_lack() -> None:
    with pytest.raises(MachineLacks, match="no_such_package"), guarded("it fails", "here"):
        import no_such_package  # noqa: F401


def test_the_users_own_line_is_named_before_the_librarys(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import json\n\ndef f():\n    return json.loads('{')\n")
    with importable(tmp_path):
        import own  # type: ignore[import-not-found]

        try:
            own.f()
        except ValueError as error:
            text = told(error, tmp_path)
    assert f"{tmp_path / 'own.py'}:4, in decoder.py:" in text


def test_modules_of_the_folder_are_found_while_it_lasts(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "edgekit_test_helper.py").write_text(f"value = {value}\n")
        with importable(tmp_path / folder):
            import edgekit_test_helper  # type: ignore[import-not-found]

            assert edgekit_test_helper.value == value, "a module of the other folder was taken for it"
    assert not {str(tmp_path / "a"), str(tmp_path / "b")} & set(sys.path)


def test_a_file_that_is_called_as_an_installed_module_takes_nothings_place(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError")
    with importable(tmp_path):
        import json

        assert json.loads("1") == 1
