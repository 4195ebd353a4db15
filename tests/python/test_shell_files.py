"""The man page and the completions in share/: what --help says, no option more, none less."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

SHARE = ROOT / "share"
sys.path.insert(0, str(ROOT / "scripts"))

BASH = SHARE / "bash-completion/completions/paritrace"


def help_of(command):
    """--help as a user gets it, by way of the Python package's command."""
    if os.environ.get("PARITRACE_BIN"):
        line = [os.environ["PARITRACE_BIN"], *command.split(), "--help"]
    else:
        line = [sys.executable, "-m", "paritrace", *command.split(), "--help"]
    environment = os.environ | {"PARITRACE_PYTHON": sys.executable, "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def options_in_help(text):
    """Long and short names at the start of an option's line: "  -o,--output FILE", "  -q, --quiet"."""
    names = set()
    for line in text.splitlines():
        head = re.match(r"\s{2,4}(-\S.*?)(\s{2,}|$)", line)
        if head:
            names |= set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", head[1]))
    return names


@pytest.fixture(scope="module")
def commands():
    import command_table

    return {command.name: command for command in command_table.read()[2]}


def test_they_are_what_the_script_writes():
    import shell_files

    for name, text in shell_files.files().items():
        assert (ROOT / name).read_text() == text, f"{name}: run make shell-files"


def test_the_table_has_the_options_of_help(commands):
    assert {"diff", "diagnose", "run", "capture hf", "capture llamacpp", "import raw", "tokens", "sweep"} <= set(
        commands
    )
    for name, command in commands.items():
        assert {flag for option in command.flags for flag in option.names} == options_in_help(help_of(name)), name


def complete(*words):
    """What bash offers for the last of `words`."""
    script = (
        f"source {BASH}; COMP_WORDS=(paritrace {' '.join(repr(w) for w in words)}); COMP_CWORD={len(words)}; "
        "_paritrace; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return set(done.stdout.split())


def test_bash_completes_commands_and_options(commands):
    assert complete("") == {name for name in commands if " " not in name} | {"--help", "--version"}
    assert complete("diag") == {"diagnose"}
    for name, command in commands.items():
        offered = complete(*name.split(), "-")
        assert offered == {flag for option in command.flags for flag in option.names}, name
    assert complete("capture", "l") == {"llamacpp"}
    assert complete("capture", "hf", "--dtype", "b") == {"bf16"}
    assert complete("capture", "llamacpp", "--flash-attn", "") == {"on", "off", "auto"}


def test_bash_completes_files(tmp_path):
    (tmp_path / "reference").mkdir()
    assert complete("diff", f"{tmp_path}/ref") == {f"{tmp_path}/reference"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_accept_theirs(shell):
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    file = {"zsh": "zsh/site-functions/_paritrace", "fish": "fish/vendor_completions.d/paritrace.fish"}[shell]
    done = subprocess.run([shell, "-n", SHARE / file], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_the_others_name_every_option(commands):
    zsh = (SHARE / "zsh/site-functions/_paritrace").read_text()
    fish = (SHARE / "fish/vendor_completions.d/paritrace.fish").read_text().splitlines()
    for name, command in commands.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        own = [line for line in fish if f"-n '{seen}'" in line]
        for option in command.flags:
            assert f"'*{option.longest}[" in zsh, (name, option.longest)
            assert any(f"-l {option.longest[2:]} " in line for line in own), (name, option.longest)


def test_the_man_page_is_laid_out_without_a_warning(commands):
    if not shutil.which("groff"):
        pytest.skip("there is no groff")
    page = SHARE / "man/man1/paritrace.1"
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-rLL=200n", "-P-cbou", page], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    text = done.stdout.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")
    for name, command in commands.items():
        assert re.search(rf"^ +{re.escape(name)} ", text, re.MULTILINE), name
        for option in command.flags:
            assert option.longest in text, (name, option.longest)
