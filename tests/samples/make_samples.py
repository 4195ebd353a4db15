"""Makes the files in this folder with the programs whose formats they are, none of which is ours.

    python make_samples.py model      a tiny Llama, random weights (transformers)
    python make_samples.py hf         model_addition_debugger_context (transformers)
    python make_samples.py polygraphy RunResults.save (polygraphy 0.53.6)
    python make_samples.py msprobe    PrecisionDebugger, statistics and tensors (mindstudio-probe 26.2.0)
    python make_samples.py bitnet_rs  the records of BitNet-rs's crates/bitnet-trace, hashed with the `blake3` package
    LLAMA_CPP=/path/to/llama.cpp python make_samples.py llamacpp   eval_callback.cc against that source and llama_cpp's libraries

Committed, because polygraphy, mindstudio-probe and a C++ build of llama.cpp's example are no dependencies of the tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MODEL = HERE / "model"
TOKENS = [3, 17, 5, 29, 8]


def make_model():
    import torch
    import transformers

    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, tie_word_embeddings=False,
        initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).eval().save_pretrained(MODEL)
    (MODEL / "generation_config.json").unlink(missing_ok=True)


def load():
    import transformers

    return transformers.LlamaForCausalLM.from_pretrained(MODEL, attn_implementation="eager").eval()


def run(model):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([TOKENS]))


def make_hf():
    import torch
    from transformers import model_addition_debugger_context

    for name, use_repr in (("hf_debug", True), ("hf_debug_tensors", False)):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model = load()
        with model_addition_debugger_context(model, str(folder), do_prune_layers=False, use_repr=use_repr):
            run(model)
        torch.set_printoptions(profile="default", sci_mode=None)
    for path in (HERE / "hf_debug_tensors").iterdir():  # enough of them: the rest is missing on purpose
        if "SUMMARY" in path.name or (
            path.suffix == ".safetensors" and ("layers.1" in path.name or "_inputs_" in path.name)
        ):
            if "LlamaForCausalLM_inputs" not in path.name:  # the ids themselves stay
                path.unlink()


def make_polygraphy():
    import numpy as np
    from polygraphy.comparator import IterationResult, RunResults

    outputs = {}
    model = load()
    for path in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "lm_head"):
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: outputs.__setitem__(path, output.numpy().copy())
        )
    run(model)
    outputs["ids"] = np.asarray(TOKENS, np.int64)
    results = RunResults()
    results.append(("torch-runner", [IterationResult(outputs=outputs, runtime=0.5, runner_name="torch-runner")]))
    results.save(str(HERE / "polygraphy.json"))


def make_msprobe():
    from msprobe.pytorch import PrecisionDebugger

    for task in ("statistics", "tensor"):
        folder = HERE / f"msprobe_{task}"
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch:
            config = {"task": task, "dump_path": scratch, "rank": [], "step": [], "level": "L0",
                      task: {"scope": [], "list": [], "data_mode": ["forward"], "summary_mode": "statistics"}}  # fmt: skip
            path = Path(scratch) / "config.json"
            path.write_text(json.dumps(config))
            model = load()
            debugger = PrecisionDebugger(config_path=str(path))
            debugger.start(model)
            run(model)
            debugger.stop()
            debugger.step()
            found = next(Path(scratch).rglob("dump.json")).parent
            shutil.copytree(found, folder)
        for name in ("stack.json", "construct.json"):  # Python stacks, with the paths of whoever ran this
            (folder / name).unlink(missing_ok=True)
        dump = folder / "dump.json"
        dump.write_text(re.sub(r'"dump_data_dir": "[^"]*"', '"dump_data_dir": null', dump.read_text()))
        subprocess.run(["chmod", "-R", "u+w,go+r", folder], check=True)
        PrecisionDebugger._instance = None


def make_bitnet_rs():
    import math

    import blake3
    import numpy as np

    folder = HERE / "bitnet_rs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = load()
    outputs = {}
    names = {"model.embed_tokens": ("embeddings", -1, "embeddings"), "lm_head": ("logits", -1, "logits")}
    for layer in range(2):
        for part in "qkv":
            names[f"model.layers.{layer}.self_attn.{part}_proj"] = (f"blk{layer}/{part}_proj", layer, f"{part}_proj")
        names[f"model.layers.{layer}.input_layernorm"] = (f"blk{layer}/attn_norm", layer, "attn_norm")
        names[f"model.layers.{layer}.self_attn.o_proj"] = (f"blk{layer}/attn_out", layer, "attn_out")
        names[f"model.layers.{layer}.mlp"] = (f"blk{layer}/ffn_out", layer, "ffn_out")
    for path in names:
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: outputs.__setitem__(path, output.numpy().copy())
        )
    run(model)
    for path, (name, layer, stage) in names.items():
        values = np.ascontiguousarray(outputs[path], np.float32)
        wide = values.astype(np.float64)
        record = {
            "name": name, "shape": list(values.shape), "dtype": "F32", "blake3": blake3.blake3(values.tobytes()).hexdigest(),
            "rms": math.sqrt(float((wide * wide).sum()) / wide.size), "num_elements": values.size,
            "seq": 0, "layer": layer, "stage": stage,
        }  # fmt: skip
        (folder / f"{name.replace('/', '_')}.trace").write_text(json.dumps(record, indent=2))


def make_llamacpp():
    import llama_cpp

    sys.path.insert(0, str(HERE.parents[1] / "models"))
    import write_gguf

    source = Path(os.environ["LLAMA_CPP"])
    libraries = Path(llama_cpp.__file__).parent / "lib"
    with tempfile.TemporaryDirectory() as scratch:
        gguf, program = Path(scratch) / "model.gguf", Path(scratch) / "eval_callback"
        write_gguf.write_gguf(MODEL, gguf, "f32")
        subprocess.run(
            ["g++", "-std=c++17", "-O1", HERE / "eval_callback.cc", source / "common" / "debug.cpp", "-o", program,
             *(f"-I{source / folder}" for folder in ("common", "include", "ggml/include", "vendor")),
             f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}"],
            check=True,
        )  # fmt: skip
        result = subprocess.run([program, gguf, *map(str, TOKENS)], check=True, capture_output=True, text=True)
    (HERE / "eval_callback.log").write_text(result.stdout)


if __name__ == "__main__":
    for kind in sys.argv[1:]:
        globals()[f"make_{kind}"]()
