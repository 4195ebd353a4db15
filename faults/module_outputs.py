"""What plain hooks on modules would have recorded: a trace without the values that only our adapter sees."""

import json
import re

from safetensors.torch import load_file, save_file

# The outputs of Llama-like modules, under Hugging Face's own names.
MODULE_OUTPUT = re.compile(r"(model\.embed_tokens|model\.norm|lm_head|model\.layers\.\d+(\.\w+(\.\w+_proj)?)?)")


def module_outputs(trace, file, plain=MODULE_OUTPUT):
    """Saves the tensors whose whole name `plain` matches with the safetensors package, without any of our metadata."""
    values = {}
    for shard in sorted(trace.glob("*.safetensors")):
        values.update(load_file(shard))
    entries = [json.loads(line) for line in (trace / "index.jsonl").read_text().splitlines()]
    save_file({e["name"]: values[e["key"]].contiguous() for e in entries if plain.fullmatch(e["name"])}, file)
