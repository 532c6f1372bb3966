"""The README's commands run as written, in its order; what it claims of the repository is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import readme

from edgekit import cli

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_its_commands_run_in_its_order(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    # The install command ends with the main job; the rest of the page works on what that leaves.
    main_job = readme.command("install").rpartition("&& ")[2]
    lines = [main_job, *readme.edgekit_lines()]
    assert len(lines) > 8
    for line in lines:
        code = cli.run(shlex.split(line)[1:])
        said = capsys.readouterr()
        # Tests run side by side: a measurement is right to be INVALID then, and nothing can be picked from it.
        busy = shlex.split(line)[1] in ("bench", "pick") and code == 1 and "INVALID" in said.out + said.err
        assert code == 0 or busy, f"{line}\n{said.err}"
    assert {path.name for path in (workplace / "artifacts" / "mobilenet_v2-a0.50-r160").iterdir()} == {
        *re.findall(r"^\| `(\S+)` \| ", _section("What it does"), flags=re.MULTILINE),
        "model.rtx-turing.engine",
    }


def test_its_python_runs(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    (block,) = re.findall(r"```python\n(.*?)```", readme.README.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert "True" in capsys.readouterr().out


def test_it_lists_networks_and_links_to_files_that_exist():
    from edgekit import models

    listed = re.findall(r"^\| `(\w+)` \| ", _section("Networks"), flags=re.MULTILINE)
    assert "mobilenet_v2" in listed
    assert set(listed) <= set(models.names())
    for page in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page}: {link}"


def test_the_ci_script_runs_exactly_the_test_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python tests/readme.py test" in script
    assert readme.command("test").endswith("python tests/check.py")


def _section(title: str) -> str:
    text = readme.README.read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
