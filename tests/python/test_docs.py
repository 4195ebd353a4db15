"""The commands and programs in README and docs are run, and the output shown there compared.

A block runs where `<!-- run -->` stands on the line before it. In a `console` block each `$ ` line is a command of a shell, run in one
folder of the test's own with the repository's models/ in it; the lines under it must stand in what it prints, in that order.
Python blocks run as they are. Also: every link of the pages leads somewhere, and the site builds without a warning where mkdocs is.
"""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^<!-- run -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(block):
    """[(command, [lines shown under it])]."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


def test_there_are_blocks_to_run():
    assert sum(len(blocks(page)) for page in PAGES) >= 4


@pytest.fixture
def folder(tmp_path):
    """An empty folder with models/, and a `paritrace` on PATH: the build under test where PARITRACE_BIN names one."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/paritrace"
    program = os.environ.get("PARITRACE_BIN")
    run = (
        f'PARITRACE_PYTHON={sys.executable} exec {program} "$@"'
        if program
        else f'exec {sys.executable} -m paritrace "$@"'
    )
    command.write_text(f"#!/bin/sh\n{run}\n")
    command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_what_a_page_shows_is_what_happens(page, folder):
    environment = os.environ | {
        "PATH": f"{folder}/bin{os.pathsep}{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
        "NO_COLOR": "1",
    }
    for language, text in blocks(page):
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stderr}"
            continue
        assert language in ("console", "sh"), f"{page.name}: a block of {language} is marked to run"
        for command, shown in commands(text):
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode in (0, 1), f"{page.name}: {command}\n{done.stderr}"
            left = iter((done.stdout + done.stderr).splitlines())
            for line in shown:
                assert any(
                    line.rstrip() == printed.rstrip() or printed.startswith(line.rstrip()) for printed in left
                ), f"{page.name}: {command}\nshown: {line}\nprinted:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        file = (page.parent / target.partition("#")[0]).resolve()
        assert file.exists(), f"{page.name}: {target}"


def test_the_site_builds_without_a_warning(tmp_path):
    docs = os.path.join(sys.prefix, "docs")
    environment = os.environ | {"PYTHONPATH": docs, "NO_MKDOCS_2_WARNING": "1"}
    if subprocess.run(
        [sys.executable, "-c", "import material, mkdocs"], env=environment, capture_output=True
    ).returncode:
        pytest.skip("mkdocs is not installed: make docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "site/index.html").read_text()
    assert not re.search(r"""<(script|link|img)[^>]*(src|href)=["']?https?:""", page), (
        "the site loads something from elsewhere"
    )
