"""Runs one case in its engine and records it; keeps of the trace what the case wants to have been recorded."""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import gguf_faults
import hf_faults
import jax.numpy as jnp
import jax_faults
import jax_model
import onnx_faults
import onnx_model
import paritrace
import torch
from module_outputs import module_outputs
from paritrace import hf, llamacpp
from paritrace import jax as jax_adapter
from paritrace import onnx as onnx_adapter
from safetensors.torch import load_file, save_file

import models

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "python"))
import tiny_bitnet
import tiny_nomic

# A router's tuple and its experts are seen by our adapter alone.
PLAIN = re.compile(r"(?!.*(\.gate|\.experts|:.*)$)[\w.]+")
KEPT = {
    "layers": re.compile(r"embed|layers\.\d+\.(in|out)|logits"),
    "logits": re.compile(r"logits"),
    "bare": re.compile(r".*"),
}


def reduce(trace, recorded, file):
    """The trace as `recorded` has it: the folder itself, or `file` with a part of it.

    recorded  "all"; "modules": what plain hooks on modules record, under the engine's names; "layers": embedding, each
              layer's input and output, logits; "logits"; with "-bare" after it, or "bare" alone: without our metadata
    """
    if recorded == "all":
        return trace
    if recorded == "modules":
        module_outputs(trace, file, PLAIN)
        return file
    return keep_sites(trace, KEPT[recorded.removesuffix("-bare")], file, header=not recorded.endswith("bare"))


def keep_sites(trace, kept, file, header=True):
    """Writes to `file`, and returns it, what of a trace folder has a site that the pattern `kept` matches whole.

    header: with our metadata, else as anybody's tensors
    """
    values = {}
    for shard in sorted(trace.glob("*.safetensors")):
        values.update(load_file(shard))
    entries = [json.loads(line) for line in (trace / "index.jsonl").read_text().splitlines()]
    chosen = {
        f"{entry['step']}/{entry['site']}": values[entry["key"]].contiguous()
        for entry in entries
        if "site" in entry and re.fullmatch(kept, entry["site"])
    }
    save_file(chosen, file, metadata={"paritrace": (trace / "trace.json").read_text()} if header else None)
    return file


class Engines:
    """The engines, with the models that were built for them so far under `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.models = folder / "models"

    def model_folder(self, case):
        folder = self.models / case.model
        if case.model == "bitnet-packed" and not folder.exists():
            tiny_bitnet.make("bitlinear", folder)
        return models.folder_of(case.model, self.models)

    def model_of(self, case):
        """The MODEL that is right for the case: a folder, or a GGUF file of the subject's type."""
        if case.engine != "llama.cpp" or case.against == "folder":
            return self.model_folder(case)
        return self.gguf(case)

    def gguf(self, case):
        file = self.models / f"{case.model}-{case.arithmetic}.gguf"
        if not file.exists():
            self.models.mkdir(exist_ok=True)
            if case.model == "nomic-bert-moe":
                tiny_nomic.write_gguf(file, tiny_nomic.weights()[0], case.arithmetic)
            else:
                gguf_faults.write(self.model_folder(case), file, case.arithmetic)
        return file

    def record(self, case, trace):
        """Runs the case's engine, with its mistakes, and writes the trace to the folder `trace`."""
        {"hf": self.hf, "llama.cpp": self.llamacpp, "jax": self.jax, "onnx": self.onnx}[case.engine](case, trace)

    def llamacpp(self, case, trace):
        file = self.folder / "subject.gguf"
        shutil.copyfile(self.gguf(case), file)
        for function, parameters, layers in case.faults:
            gguf_faults.edit(file, function, parameters, layers)
        flash = case.attention if case.attention in ("on", "off") else "off"
        llamacpp.run(file, trace, tokens=case.tokens, flash_attention=flash, decode=case.decode)

    def hf(self, case, trace):
        folder = self.model_folder(case)
        if case.model == "bitnet-packed":  # transformers would load it with accelerate
            with tempfile.TemporaryDirectory() as unused:
                model = tiny_bitnet.make("bitlinear", Path(unused), hf.DTYPES[case.arithmetic])
        else:
            model = hf.load(folder, case.arithmetic)
        model.set_attn_implementation(case.attention)
        patients = []
        try:
            for function, parameters, layers in case.faults:
                patients.append(hf_faults.Patient(model, layers))
                hf_faults.inject(patients[-1], function, parameters)
            with torch.no_grad(), paritrace.capture(model, trace):
                output = model(input_ids=torch.tensor([case.tokens]), **({"use_cache": True} if case.decode else {}))
                for _ in range(case.decode):
                    token = output.logits[:, -1:].argmax(-1)
                    output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        finally:
            for patient in reversed(patients):
                patient.heal()

    def jax(self, case, trace):
        model = jax_model.Model(self.model_folder(case), case.arithmetic)
        for function, parameters, layers in case.faults:
            jax_faults.inject(model, layers, function, parameters)
        header = {"name": case.model, "architecture": model.config.model_type}
        with jax_adapter.capture(trace, tokens=[case.tokens], model=header):
            run, tokens, cache = model.compiled(), case.tokens, None
            for step in range(case.decode + 1):
                logits, cache = run(jnp.asarray(tokens), cache)
                if step < case.decode:
                    start = len(case.tokens) + step
                    tokens = [int(logits[-1].argmax())]
                    jax_adapter.next_step(start, [tokens])

    def onnx(self, case, trace):
        right = self.models / f"{case.model}.onnx"
        if not right.exists():
            onnx_model.export(self.model_folder(case), right)
        file = right
        if case.faults:
            file = self.folder / "subject.onnx"
            options = models.SIZES | models.SHAPES[case.model].options
            onnx_faults.edit(right, file, case.faults, options["num_key_value_heads"])
        onnx_adapter.run(file, trace, tokens=case.tokens)
