"""The engines under test, in examples/: how each is built, and how it is made to record a run.

An engine is a function (model, tokens, decode, mistakes, trace): it runs the model file or folder `model` on `tokens` and
`decode` greedy steps more, makes `mistakes` (ids, perhaps with @LAYER), and leaves its trace in the folder `trace`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


class EngineError(Exception):
    """An engine that cannot be built or run; the message is one line and its own output."""


def run(command, **environment):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=dict(os.environ, **environment)
    )
    if done.returncode != 0:
        raise EngineError(f"{command[0]} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def library():
    """The folder of libparitrace.so: the build whose program PARITRACE_BIN names, or the one that `make build` leaves."""
    program = os.environ.get("PARITRACE_BIN")
    folders = ([Path(program).resolve().parent] if program else []) + [ROOT / "build" / "release"]
    for folder in folders:
        if (folder / "libparitrace.so").exists():
            return folder
    raise EngineError(f"libparitrace.so is not in {' or '.join(map(str, folders))}; make build makes it")


def newer(program, sources):
    """Whether the program was made after its sources."""
    return program.exists() and program.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def command_of(model, tokens, decode, mistakes):
    command = [model, "--tokens", ",".join(map(str, tokens))]
    if decode:
        command += ["--decode", decode]
    for mistake in mistakes:
        command += ["--mistake", mistake]
    return command


def rust_llama(folder):
    """Builds examples/rust_llama into `folder`; returns its run."""
    sources = EXAMPLES / "rust_llama"
    files = [*sources.iterdir(), *(EXAMPLES / "rust_common").iterdir()]
    return native(folder, "rust_llama", files, lambda program, where: [
        compiler("rustc"), "-O", sources / "main.rs", "-L", where, "-l", "paritrace", "-C", f"link-arg=-Wl,-rpath,{where}",
        "-o", program])  # fmt: skip


def cpp(name):
    """The builder of the C++ engine examples/`name`."""

    def build(folder):
        sources = [*(EXAMPLES / name).iterdir(), *(EXAMPLES / "cpp_common").iterdir()]
        return native(folder, name, sources, lambda program, where: [
            compiler("c++"), "-std=c++20", "-O2", "-I", ROOT / "include", EXAMPLES / name / "engine.cc", "-L", where,
            "-l", "paritrace", f"-Wl,-rpath,{where}", "-o", program])  # fmt: skip

    return build


def compiler(name):
    found = shutil.which(name)
    if found is None:
        raise EngineError(f"{name} is not installed")
    return found


def native(folder, name, sources, command):
    """Builds the program `name` in `folder` where its sources are newer; command(program, folder of the library)."""
    program = folder / name
    if not newer(program, sources):
        run(command(program, library()))

    def record(model, tokens, decode, mistakes, trace):
        return run([program, *command_of(model, tokens, decode, mistakes)], PARITRACE_DIR=str(trace))

    return record


def jax_qwen2(folder):
    """examples/jax_qwen2 needs no building."""

    def record(model, tokens, decode, mistakes, trace):
        script = EXAMPLES / "jax_qwen2" / "engine.py"
        return run([sys.executable, script, *command_of(model, tokens, decode, mistakes), "--trace", trace])

    return record


ENGINES = {
    "rust_llama": rust_llama,
    "cpp_moe_encoder": cpp("cpp_moe_encoder"),
    "bitnet_cpp": cpp("bitnet_cpp"),
    "jax_qwen2": jax_qwen2,
}


def paritrace(*arguments, allowed=(0, 1)):
    """Runs paritrace; returns what it prints."""
    command = [sys.executable, "-m", "paritrace", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in allowed:
        raise EngineError(f"paritrace {arguments[0]} ended with exit code {done.returncode}\n{done.stderr}".rstrip())
    return done.stdout


def commas(tokens):
    return ",".join(map(str, tokens))


def capture(kind, model, tokens, trace, *options):
    """Records an engine that paritrace captures itself; a trace in the place of `trace` is replaced."""
    paritrace("capture", kind, model, "--tokens", commas(tokens), "-o", trace, "--overwrite", *options)


def show(trace):
    return json.loads(paritrace("show", trace, "--json", "-"))


def write_gguf(folder, file, kind):
    """Writes the model in `folder` as GGUF, where it is newer than `file`."""
    if not newer(file, [folder / "model.safetensors", folder / "config.json"]):
        run([sys.executable, ROOT / "models" / "write_gguf.py", folder, file, "--type", kind])


def tokens_of_gguf(file, text):
    """Token ids by the file's own vocabulary, through llama.cpp."""
    import llama_cpp

    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    return model.tokenize(text.encode(), special=True)
