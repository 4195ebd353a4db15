"""Engines in C, C++ and Rust, built against what `cmake --install` leaves, run, and their traces read by others' programs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

C_ENGINE = r"""
#include <paritrace/capture.h>
#include <stdlib.h>

/* Records until it is killed. */
int main(void) {
  static float values[4096];
  if (paritrace_open(&(paritrace_info){.size = sizeof(paritrace_info), .engine = "c"}) != PARITRACE_OK) return 1;
  for (int i = 0;; ++i) {
    for (int j = 0; j < 4096; ++j) values[j] = (float)(i + j);
    if (paritrace_record("x", i, values, PARITRACE_F32, 2, (int64_t[]){1 + i % 64, 64}, NULL) != PARITRACE_OK) return 2;
  }
}
"""


def run(*command, **options):
    """Runs a program; its output is in the failure."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_folder():
    """The build whose program is under test, or the one that `make test` builds."""
    program = os.environ.get("PARITRACE_BIN")
    folders = [Path(program).resolve().parent] if program else []
    return next(
        (folder for folder in [*folders, ROOT / "build" / "release"] if (folder / "build.ninja").is_file()), None
    )


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A prefix with what engines need, and nothing else of ours."""
    build = build_folder()
    if build is None or not (build / "libparitrace.so").exists():
        pytest.skip("the capture library is not built: make test builds it")
    prefix = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", build, "--component", "capture", "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def library_folder(installed):
    return next(installed.rglob("libparitrace.so")).parent


@pytest.fixture(scope="session")
def pkg_config(library_folder):
    """Function: pkg-config's options -> its words."""
    environment = os.environ | {"PKG_CONFIG_PATH": str(library_folder / "pkgconfig")}
    return lambda *options: run("pkg-config", *options, "paritrace", env=environment).split()


@pytest.fixture(scope="session")
def cpp_engine(installed, tmp_path_factory):
    """The folder of the example's three programs, through find_package."""
    build = tmp_path_factory.mktemp("cpp_engine")
    run("cmake", "-G", "Ninja", "-S", EXAMPLES / "cpp_engine", "-B", build, f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", build)
    return build


def environment(**variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PARITRACE_")}
    return clean | variables


def paritrace(*arguments):
    """(exit code, standard output) of our program."""
    program = os.environ.get("PARITRACE_BIN") or str(Path(sys.executable).with_name("paritrace"))
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_only_the_c_functions_are_seen(library_folder):
    symbols = run("nm", "-D", "--defined-only", "--format=posix", library_folder / "libparitrace.so").splitlines()
    names = {line.split()[0] for line in symbols}
    assert names == {f"paritrace_{name}" for name in "open step record flush close error recording".split()}


def test_the_cpp_engine_records_and_its_mistake_is_found(cpp_engine, tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    assert "recorded" not in run(cpp_engine / "cpp_engine", env=environment())
    assert "recorded" in run(cpp_engine / "cpp_engine", env=environment(PARITRACE_DIR=str(right)))
    run(cpp_engine / "cpp_engine", "wrong", env=environment(PARITRACE_DIR=str(wrong)))

    code, text = paritrace("show", right)
    assert code == 0 and "cpp-engine" in text and "attn.scores" in text
    code, _ = paritrace("diff", right, right)
    assert code == 0
    code, _ = paritrace("diff", right, wrong, "--quiet", "--json", tmp_path / "diff.json")
    result = json.loads((tmp_path / "diff.json").read_text())
    assert code == 1
    assert result["first_divergence"]["site"] == "layers.1.attn.scores"
    assert result["reference"]["run"]["tokens"] == [[3, 14, 15, 92, 65, 35, 89]]
    scores = next(site for site in result["sites"] if site["site"] == "layers.0.attn.scores")
    assert scores["status"] == "identical", "the padding of its rows is no value"


def test_modes_sites_and_steps_come_from_the_environment(cpp_engine, tmp_path):
    for mode in ("digest", "stats"):
        trace = tmp_path / mode
        variables = {"PARITRACE_DIR": str(trace), "PARITRACE_MODE": mode, "PARITRACE_SITES": "attn.q,logits"}
        run(cpp_engine / "cpp_engine", env=environment(**variables))
        lines = [json.loads(line) for line in (trace / "index.jsonl").read_text().splitlines()]
        assert [line["site"] for line in lines] == ["layers.0.attn.q", "layers.1.attn.q", "logits"]
        assert all(("sketch" in line) == (mode == "digest") for line in lines)
        assert not list(trace.glob("*.safetensors"))
    run(cpp_engine / "cpp_engine", env=environment(PARITRACE_DIR=str(tmp_path / "none"), PARITRACE_STEPS="1-"))
    assert (tmp_path / "none" / "index.jsonl").read_text() == ""


def test_the_static_library_and_no_library_do_too(cpp_engine, tmp_path):
    run(cpp_engine / "cpp_engine_static", env=environment(PARITRACE_DIR=str(tmp_path / "static")))
    assert paritrace("show", tmp_path / "static")[0] == 0
    run(cpp_engine / "cpp_engine_untraced", env=environment(PARITRACE_DIR=str(tmp_path / "untraced")))
    assert not (tmp_path / "untraced").exists()
    for program, expected in (("cpp_engine", True), ("cpp_engine_static", False), ("cpp_engine_untraced", False)):
        assert ("libparitrace" in run("ldd", cpp_engine / program)) == expected


@pytest.mark.skipif(shutil.which("rustc") is None, reason="rustc is not installed")
def test_the_rust_engine_agrees_with_the_cpp_engine(library_folder, cpp_engine, tmp_path):
    program = tmp_path / "rust_engine"
    run("rustc", "-O", EXAMPLES / "rust_engine" / "engine.rs", "-L", library_folder, "-l", "paritrace", "-o", program)
    variables = environment(PARITRACE_DIR=str(tmp_path / "rust"), LD_LIBRARY_PATH=str(library_folder))
    run(program, env=variables)
    run(cpp_engine / "cpp_engine", env=environment(PARITRACE_DIR=str(tmp_path / "cpp")))
    _, text = paritrace("diff", tmp_path / "cpp", tmp_path / "rust", "--json", tmp_path / "diff.json")
    result = json.loads((tmp_path / "diff.json").read_text())
    common = {site["site"]: site["status"] for site in result["sites"] if site["status"] != "missing_in_subject"}
    assert set(common) == {"embed", "layers.0.attn.norm", *(f"layers.0.attn.{part}" for part in "qkv")}
    assert set(common.values()) <= {"identical", "within_noise"}, text


@pytest.fixture(scope="session")
def c_engine(pkg_config, tmp_path_factory):
    """An endless recorder in C11, through pkg-config."""
    folder = tmp_path_factory.mktemp("c_engine")
    (folder / "engine.c").write_text(C_ENGINE)
    flags = pkg_config("--cflags", "--libs")
    run(
        "gcc",
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        folder / "engine.c",
        "-o",
        folder / "engine",
        *flags,
    )
    return folder / "engine"


def test_killed_engines_leave_what_the_safetensors_package_opens(c_engine, library_folder, tmp_path):
    repaired = 0
    for kill in range(25):
        trace = tmp_path / f"trace-{kill}"
        variables = environment(PARITRACE_DIR=str(trace), LD_LIBRARY_PATH=str(library_folder))
        engine = subprocess.Popen([c_engine], env=variables)
        deadline = time.monotonic() + 30
        while not (trace / "tensors-00000.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.002 * (kill % 7))
        engine.send_signal(signal.SIGKILL)
        assert engine.wait() == -signal.SIGKILL
        lines = (trace / "index.jsonl").read_text().split("\n")[:-1]
        code, text = paritrace("repair", trace)
        assert code == 0, text
        repaired += "nothing to repair" not in text
        entries = [json.loads(line) for line in lines]
        assert (trace / "index.jsonl").read_text() == "".join(line + "\n" for line in lines)
        files = {}
        for file in sorted(trace.glob("*.safetensors")):
            files[file.name] = safe_open(file, "np")
        for entry in entries:
            layer = int(entry["name"].split(".")[1])
            values = files[entry["file"]].get_tensor(entry["key"])
            assert list(values.shape) == entry["shape"] == [1 + layer % 64, 64]
            assert values[0, 0] == layer and values[-1, -1] == layer + values.size - 1
        shutil.rmtree(trace)
    assert repaired, "no kill met an unfinished file: nothing was tested"


def test_repair_refuses_what_is_being_written_and_what_is_no_trace(c_engine, library_folder, tmp_path):
    trace = tmp_path / "trace"
    engine = subprocess.Popen(
        [c_engine], env=environment(PARITRACE_DIR=str(trace), LD_LIBRARY_PATH=str(library_folder))
    )
    try:
        while not (trace / "index.jsonl").exists():
            time.sleep(0.001)
        code, text = paritrace("repair", trace)
        assert code == 2 and "is still being written" in text
    finally:
        engine.kill()
        engine.wait()
    assert paritrace("repair", tmp_path)[0] == 2
    assert paritrace("repair", tmp_path / "none")[0] == 2


def test_two_processes_share_a_directory(cpp_engine, tmp_path):
    trace = tmp_path / "shared"
    both = [subprocess.Popen([cpp_engine / "cpp_engine"], env=environment(PARITRACE_DIR=str(trace))) for _ in range(2)]
    assert [engine.wait() for engine in both] == [0, 0]
    code, text = paritrace("diff", trace, trace / "rank-1")
    assert code == 0, text
