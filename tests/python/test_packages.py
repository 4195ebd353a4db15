"""What people install: the wheel in a fresh environment with nothing else, `cmake --install`, the source archive without a network.

The build folder of `make test` is used again, so that packing compiles nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import numpy
import pytest
from conftest import MODEL, ROOT

# The libraries of the C and C++ run time: every Linux has them.
RUN_TIME = {"libc", "libm", "libdl", "libpthread", "librt", "libgcc_s", "libstdc++", "ld-linux-x86-64", "linux-vdso"}


def build_folder():
    """Where this test's program was built, or None."""
    named = os.environ.get("PARITRACE_BIN")
    folder = Path(named).parent if named else ROOT / "build" / "release"
    return folder if (folder / "CMakeCache.txt").exists() else None


def run(*command, cwd=None, environment=None, codes=(0,), timeout=280):
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode in codes, f"{command}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if build_folder() is None:
        pytest.skip("there is no build folder: the program was installed from elsewhere")
    if shutil.which("npm") and not (ROOT / "report/dist/report.html").exists():
        pytest.skip("the page is not built: make report")
    folder = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {
        "PARITRACE_VENV": sys.prefix,
        "PARITRACE_BUILD": os.path.relpath(build_folder(), ROOT),
        "PYTHONPATH": "",
    }
    run(ROOT / "scripts/build.sh", "wheel", folder, environment=environment, timeout=580)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """A function: arguments -> output of the installed `paritrace`; numpy, the one dependency, is there and nothing else."""
    home = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(home, with_pip=False)
    packages = next(home.glob("lib/python*/site-packages"))
    theirs = Path(numpy.__file__).parents[1]
    for name in ("numpy", "numpy.libs", f"numpy-{numpy.__version__}.dist-info"):
        if (theirs / name).exists():
            (packages / name).symlink_to(theirs / name)
    python = home / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, "check")
    clean = {"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home)}

    def call(*command, codes=(0,)):
        return run(*command, cwd=home, environment=clean, codes=codes)

    call.home = home
    return call


def test_a_wheel_runs_where_nothing_else_is(fresh, tmp_path):
    version = fresh("paritrace", "--version").split()[1]
    tokens = "0,454,404,418,293"
    fresh("paritrace", "run", MODEL, "--tokens", tokens, "-o", tmp_path / "a")
    fresh("paritrace", "run", MODEL, "--tokens", tokens, "-o", tmp_path / "b", "--arithmetic", "torch-bf16")
    fresh("paritrace", "diff", tmp_path / "a", tmp_path / "a", "-q")
    page, result = tmp_path / "page.html", tmp_path / "result.json"
    fresh("paritrace", "diagnose", tmp_path / "b", "--model", MODEL, "--html", page, "--json", result)
    assert json.loads(result.read_text())["explained"]["exact"] == 1
    if (ROOT / "report/dist/report.html").exists():
        assert 'id="paritrace-data"' in page.read_text(), "the wheel's program does not hold the page"
    shown = fresh(
        "python", "-c",
        f"import paritrace; print(paritrace.__version__, paritrace.open_trace({str(tmp_path / 'a')!r}).values('logits').shape[0], paritrace.schema('diff')['$id'])",
    )  # fmt: skip
    assert shown.split() == [version, "5", "paritrace:diff"]
    doctor = fresh("paritrace", "doctor", "--json", "-")
    assert json.loads(doctor)["healthy"]
    # What needs an engine says which package is missing, in a line.
    done = subprocess.run(
        [fresh.home / "bin/paritrace", "capture", "hf", MODEL, "--tokens", "1", "-o", tmp_path / "c"],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "pip install" in done.stderr and done.stderr.count("\n") == 1


def test_a_wheel_brings_its_shared_libraries(fresh):
    if not shutil.which("ldd"):
        pytest.skip("there is no ldd")
    package = next(fresh.home.glob("lib/python*/site-packages/paritrace"))
    for file in (package / "bin/paritrace", *package.glob("_core*.so")):
        for line in run("ldd", file).splitlines():
            name, _, place = line.strip().partition(" => ")
            assert name.split("/")[-1].split(".so")[0].split()[0] in RUN_TIME or str(package) in os.path.realpath(
                place.split(" (")[0]
            ), f"{file.name}: {line.strip()}"
    for library in (package / "lib").glob("*.so*"):
        assert list(
            (package / "lib").glob(f"LICENSE.{'zlib' if 'libz' in library.name else library.name.split('.')[0]}*")
        )


def test_a_wheel_brings_man_page_and_completions(fresh):
    for file in ("man/man1/paritrace.1", "bash-completion/completions/paritrace", "zsh/site-functions/_paritrace"):
        assert (fresh.home / "share" / file).read_text() == (ROOT / "share" / file).read_text()


def test_cmake_installs_the_program(tmp_path):
    if build_folder() is None:
        pytest.skip("there is no build folder")
    run("cmake", "--install", build_folder(), "--component", "program", "--prefix", tmp_path)
    assert run(tmp_path / "bin/paritrace", "--version").startswith("paritrace ")
    there = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert there == {
        "bin/paritrace",
        "share/man/man1/paritrace.1",
        "share/bash-completion/completions/paritrace",
        "share/zsh/site-functions/_paritrace",
        "share/fish/vendor_completions.d/paritrace.fish",
    }


def without_network():
    """The prefix that cuts a command off from the network, where this system lets a user do so."""
    done = subprocess.run(["unshare", "-rn", "true"], capture_output=True)
    return ["unshare", "-rn"] if done.returncode == 0 else []


def test_a_source_archive_builds_without_a_network(tmp_path):
    """Whole; configured, generated, and a few files compiled: all of them take as long as anywhere."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is a source archive itself")
    if not (ROOT / "report/dist/report.html").exists():
        pytest.skip("the page is not built: make report")
    environment = os.environ | {"PARITRACE_VENV": sys.prefix}
    run(ROOT / "scripts/dist.sh", tmp_path, environment=environment)
    (archive,) = tmp_path.glob("paritrace-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("paritrace-*/")
    committed = set(run("git", "ls-tree", "-r", "--name-only", "-z", "HEAD", cwd=ROOT).split("\0")) - {""}
    there = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file() or file.is_symlink()}
    assert there == committed | {"report/dist/report.html"}

    offline, build = without_network(), tmp_path / "build"
    run(*offline, "cmake", "-G", "Ninja", "-S", source, "-B", build, "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON")
    objects = [f"CMakeFiles/paritrace_store.dir/src/core/{name}.cc.o" for name in ("hash", "text")]
    run(*offline, "cmake", "--build", build, "--target", "paritrace_rules", *objects)
    assert f"-DFILE={source}/report/dist/report.html" in (build / "build.ninja").read_text(), "the page is not built in"
