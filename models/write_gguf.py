#!/usr/bin/env python3
"""Writes a Hugging Face folder (Llama, Qwen2, BitNet, nomic-embed-text-v2-moe) as a GGUF file for llama.cpp.

Small and strict on purpose: a test that blames an engine must be sure of the file the engine ran. What is not understood
(another architecture, a RoPE scaling, a tokenizer of another kind) is refused, never guessed.

`--no-permute` leaves out the row permutation of a Llama's q and k, the classic mistake of a conversion: such a file loads and
runs, and is wrong from the first rotated position on. It exists so that tests can look for exactly that mistake.

    python models/write_gguf.py models/paritrace-llama llama-q8_0.gguf --type q8_0

Formats: GGUF version 3 as `gguf` writes it; names and metadata keys of llama.cpp, of bitnet.cpp for i2_s.
"""

import argparse
import os
import sys
from pathlib import Path

import gguf

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gguf_twin import decoders, nomic_moe
from gguf_twin.encode import TERNARY, TYPES, add_tensor, file_type
from gguf_twin.folder import InputError, Settings, read_weights
from gguf_twin.vocabulary import add_vocabulary, dummy_vocabulary, read_vocabulary

# Hugging Face's name of an architecture, and of its model_type, where config.json has only that -> llama.cpp's
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "BitNetForCausalLM": "bitnet",
    "BitnetForCausalLM": "bitnet",
    "NomicBertModel": "nomic-bert-moe",
}
MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "bitnet": "bitnet", "nomic_bert": "nomic-bert-moe"}
I2_S_ARCHITECTURE = "bitnet-b1.58"  # bitnet.cpp's name of bitnet
TYPE_NAMES = [*TYPES, "i2_s"]


def architecture_of(settings):
    """llama.cpp's name of the architecture of a config.json. InputError if it is none that is written."""
    named = settings.raw.get("architectures")
    known = MODEL_TYPES.get(settings.raw.get("model_type"))
    found = ARCHITECTURES.get(named[0]) if isinstance(named, list) and len(named) == 1 else known
    if found is None or (named is None and known is None):
        raise InputError(
            f"{settings.path}: unsupported architecture {named or settings.raw.get('model_type') or 'none named'!r}"
            f" (supported: {', '.join(ARCHITECTURES)})"
        )
    return found


def write_gguf(folder, out, type_name="f32", permute=True, dummy_vocab=False):
    """Writes the Hugging Face folder `folder` as the GGUF file `out`: whole or not at all.

    type_name    one of TYPE_NAMES; vectors stay F32, matrices whose rows its blocks do not fill stay F16
    permute      False leaves the rows of a Llama's q and k in half-split order: a broken file, for tests
    dummy_vocab  True writes `<tokN>` tokens, whatever tokenizer the folder has
    Returns the tensors written, a list of (name, name of its type).
    Errors: InputError if the folder cannot be converted, OSError if `out` cannot be written; `out` is then unchanged.
    """
    folder, out = Path(folder), Path(out)
    if type_name not in TYPE_NAMES:
        raise InputError(f"type {type_name!r} is not one of {', '.join(TYPE_NAMES)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    settings = Settings(folder / "config.json")
    architecture = architecture_of(settings)
    if type_name in TERNARY and architecture != "bitnet":
        raise InputError(f"{folder}: type {type_name} holds three values, which only a BitNet's weights are")
    if architecture == "nomic-bert-moe":
        config = nomic_moe.read_config(settings)
        tensors = nomic_moe.tensors(folder, config, read_weights(folder))
        add_metadata = nomic_moe.add_metadata
    else:
        config = decoders.read_config(architecture, settings)
        tensors = decoders.tensors(folder, config, settings, read_weights(folder), permute)
        add_metadata = decoders.add_metadata
    vocabulary = dummy_vocabulary(config) if dummy_vocab else read_vocabulary(folder, config)

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, I2_S_ARCHITECTURE if type_name == "i2_s" else architecture)
    written = []
    try:
        writer.add_name(folder.resolve().name)
        writer.add_file_type(file_type(type_name))
        if type_name not in ("f32", "f16", "bf16"):
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_metadata(writer, config)
        add_vocabulary(writer, vocabulary)
        for name, array in tensors:
            written.append((name, add_tensor(writer, name, array, type_name)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, out)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    return written


def main(argv=None):
    """Runs the command line; returns the exit code: 0 written, 1 the file could not be written, 2 wrong command or folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="HF_DIR", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("out", metavar="OUT.gguf", type=Path, help="file to write; one in its place is replaced")
    parser.add_argument("--type", choices=TYPE_NAMES, default="f32",
                        help="type of the matrices (default f32); tq1_0, tq2_0 and i2_s for BitNet, i2_s for bitnet.cpp only")  # fmt: skip
    parser.add_argument(
        "--no-permute", action="store_true", help="leave q and k rows in Hugging Face order: a broken file, for tests"
    )
    parser.add_argument(
        "--dummy-vocab", action="store_true", help="write <tokN> tokens instead of the folder's tokenizer"
    )
    arguments = parser.parse_args(argv)
    try:
        written = write_gguf(
            arguments.folder, arguments.out, arguments.type,
            permute=not arguments.no_permute, dummy_vocab=arguments.dummy_vocab,
        )  # fmt: skip
    except InputError as error:
        print(f"write_gguf.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"write_gguf.py: {arguments.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    counts = {}
    for _, kind in written:
        counts[kind] = counts.get(kind, 0) + 1
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"wrote {arguments.out}: {len(written)} tensors ({summary})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
