#!/usr/bin/env python3
"""Writes a Hugging Face Llama folder as a GGUF file for llama.cpp.

Small and strict on purpose: a test that blames an engine must be sure of the file the engine ran. What is not understood
(another architecture, a RoPE scaling, a tokenizer of another kind) is refused, never guessed.

`--no-permute` leaves out the row permutation of q and k, the classic mistake of a conversion: such a file loads and runs,
and is wrong from the first rotated position on. It exists so that tests can look for exactly that mistake.

    python models/write_gguf.py models/paritrace-llama llama-q8_0.gguf --type q8_0

Formats: GGUF version 3 as `gguf` writes it; names and metadata keys of llama.cpp's architecture `llama`.
"""

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from safetensors import SafetensorError, deserialize

# --type -> (type of the matrices, file type in the metadata, largest |weight| it can hold)
# A block's scale is float16: q8_0 stores max / 127, q4_0 max / 8.
F16_MAX = 65504.0
TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32, math.inf),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16, F16_MAX),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0, F16_MAX * 127),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0, F16_MAX * 8),
}
QUANT_BLOCK = 32

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class InputError(ValueError):
    """The folder cannot be written as GGUF; the message is one line and names the file."""


@dataclass(frozen=True)
class Config:
    """What config.json says, with the defaults of Hugging Face's LlamaConfig filled in."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    rms_eps: float
    rope_theta: float
    rope: dict  # "rope_type" ("default", "linear" or "llama3") and that type's own parameters
    tied_head: bool
    bos: int | None
    eos: int | None
    pad: int | None


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary in the form of GGUF's metadata; `tokens` and `types` are as long as the embedding."""

    pre: str  # llama.cpp's name of the rule that splits a text before the merges
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos: int | None
    eos: int | None
    pad: int | None
    add_bos: bool
    add_eos: bool


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to write: its name and shape in the folder, its name in the file."""

    source: str
    name: str
    shape: tuple[int, ...]  # row-major, as numpy has it; GGUF stores the dimensions in reverse
    permuted_heads: int = 0  # heads whose rows are reordered; 0: rows stay as they are


def read_json(path):
    """Returns the JSON object in `path`. InputError if the file is missing, is not JSON or holds no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_rope(path, raw):
    """Returns (theta, parameters with "rope_type") of a config.json.

    transformers 5 writes `rope_parameters`, with theta in it; older versions wrote `rope_theta` and `rope_scaling`. Where
    both give theta, the nested one counts, as in transformers 5.
    InputError for a type other than default, linear and llama3, or where a parameter of the type is missing.
    """
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise InputError(f"{path}: rope_parameters: expected an object, found {given!r}")
    rope = dict(given)
    theta = rope.pop("rope_theta", None)
    if theta is None:
        theta = raw.get("rope_theta", 10000.0)
    kind = rope.pop("type", None)
    kind = rope.setdefault("rope_type", kind or "default")
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in needed:
        raise InputError(f"{path}: rope_type {kind!r} is not supported (supported: {', '.join(needed)})")
    for key, value in [("rope_theta", theta)] + [(key, rope.get(key)) for key in needed[kind]]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InputError(f"{path}: {key}: expected a number above 0, found {value!r}")
    if kind == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        raise InputError(f"{path}: low_freq_factor must be less than high_freq_factor")
    return float(theta), rope


def read_config(folder):
    """Returns the Config of a model folder. InputError if config.json is missing, broken or of an unsupported model."""
    path = folder / "config.json"
    raw = read_json(path)
    architectures = raw.get("architectures") or [
        "LlamaForCausalLM" if raw.get("model_type") == "llama" else "none named"
    ]
    if architectures != ["LlamaForCausalLM"]:
        raise InputError(f"{path}: unsupported architecture {architectures!r}, only LlamaForCausalLM is written")
    if raw.get("quantization_config"):
        raise InputError(
            f"{path}: the weights are quantised already (quantization_config), floating-point ones are needed"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise InputError(f"{path}: hidden_act {raw['hidden_act']!r} is not supported, only silu is")

    def integer(key, default=None, lowest=1):
        value = raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise InputError(f"{path}: {key}: expected an integer of at least {lowest}, found {value!r}")
        return value

    hidden, heads = integer("hidden_size"), integer("num_attention_heads")
    kv_heads, head_dim = integer("num_key_value_heads", heads), integer("head_dim", hidden // heads)
    vocab_size = integer("vocab_size")
    if heads % kv_heads:
        raise InputError(f"{path}: {heads} query heads cannot share {kv_heads} key/value heads evenly")
    if head_dim % 2:
        raise InputError(f"{path}: head_dim {head_dim} is odd, RoPE needs pairs")
    eps = raw.get("rms_norm_eps", 1e-6)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise InputError(f"{path}: rms_norm_eps: expected a number, found {eps!r}")

    def token_id(key):
        value = raw.get(key)
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int) and 0 <= value < vocab_size else None

    theta, rope = read_rope(path, raw)
    return Config(
        hidden=hidden,
        intermediate=integer("intermediate_size"),
        layers=integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        context=integer("max_position_embeddings", 2048),
        rms_eps=float(eps),
        rope_theta=theta,
        rope=rope,
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        bos=token_id("bos_token_id"),
        eos=token_id("eos_token_id"),
        pad=token_id("pad_token_id"),
    )


def to_float32(path, name, dtype, shape, data):
    """Returns the bytes of a safetensors entry as float32 of `shape`; every BF16, F16 and F32 value is kept exactly."""
    if dtype == "BF16":
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype in ("F16", "F32"):
        array = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)
    else:
        raise InputError(f"{path}: {name!r} is {dtype}, only F32, F16 and BF16 are read")
    return array.reshape(shape)


def read_weights(folder):
    """Returns the folder's weights, name -> float32 array, from model.safetensors or from the shards of its index.

    InputError if a file is missing, is not safetensors or holds another type than F32, F16 and BF16.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        files = ["model.safetensors"]
    else:
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise InputError(f"{index}: no weight_map of names to files")
        files = sorted(set(places.values()))
    weights = {}
    for file in files:
        path = folder / file
        try:
            entries = deserialize(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise InputError(f"{path}: not a safetensors file: {error}") from error
        for name, entry in entries:
            weights[name] = to_float32(path, name, entry["dtype"], entry["shape"], entry["data"])
    return weights


def plan_tensors(config, present):
    """Returns the TensorPlan of every tensor of the model, in llama.cpp's order.

    `present`: names in the folder. It only decides which of the optional biases are written.
    """
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    plans = [TensorPlan("model.embed_tokens.weight", "token_embd.weight", (config.vocab_size, config.hidden))]
    if not config.tied_head:
        plans.append(TensorPlan("lm_head.weight", "output.weight", (config.vocab_size, config.hidden)))
    plans.append(TensorPlan("model.norm.weight", "output_norm.weight", (config.hidden,)))
    linears = (
        ("self_attn.q_proj", "attn_q", (q_rows, config.hidden), config.heads),
        ("self_attn.k_proj", "attn_k", (kv_rows, config.hidden), config.kv_heads),
        ("self_attn.v_proj", "attn_v", (kv_rows, config.hidden), 0),
        ("self_attn.o_proj", "attn_output", (config.hidden, q_rows), 0),
        ("mlp.gate_proj", "ffn_gate", (config.intermediate, config.hidden), 0),
        ("mlp.up_proj", "ffn_up", (config.intermediate, config.hidden), 0),
        ("mlp.down_proj", "ffn_down", (config.hidden, config.intermediate), 0),
    )
    for layer in range(config.layers):
        source, name = f"model.layers.{layer}", f"blk.{layer}"
        plans.append(TensorPlan(f"{source}.input_layernorm.weight", f"{name}.attn_norm.weight", (config.hidden,)))
        plans.append(
            TensorPlan(f"{source}.post_attention_layernorm.weight", f"{name}.ffn_norm.weight", (config.hidden,))
        )
        for module, target, shape, heads in linears:
            plans.append(TensorPlan(f"{source}.{module}.weight", f"{name}.{target}.weight", shape, heads))
            if f"{source}.{module}.bias" in present:
                plans.append(TensorPlan(f"{source}.{module}.bias", f"{name}.{target}.bias", shape[:1], heads))
    return plans


def check_weights(folder, config, plans, weights):
    """InputError unless `weights` holds exactly the planned tensors, in the planned shapes."""
    for plan in plans:
        if plan.source not in weights:
            raise InputError(f"{folder}: tensor {plan.source!r} is missing")
        found = weights[plan.source].shape
        if found != plan.shape:
            raise InputError(f"{folder}: {plan.source!r}: expected shape {list(plan.shape)}, found {list(found)}")
    known = {plan.source for plan in plans}
    if config.tied_head:
        known.add("lm_head.weight")  # some exporters store the copy; the tie makes it without meaning
    for name in weights:
        if name not in known and not name.endswith("rotary_emb.inv_freq"):
            raise InputError(f"{folder}: tensor {name!r} has no place in a GGUF of this model")


def permute_rows(array, heads):
    """Returns the rows of a q or k weight or bias in the order llama.cpp's `llama` architecture expects.

    array   [heads * head_dim] or [heads * head_dim, in]; `heads` is the number of key/value heads for k
    Hugging Face pairs lane i of a head with lane i + head_dim / 2 for RoPE (half-split), llama.cpp lane 2i with 2i + 1
    (interleaved): row i + j * head_dim / 2 of a head becomes row 2i + j.
    """
    head_dim = array.shape[0] // heads
    split = array.reshape(heads, 2, head_dim // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def tensor_type(shape, wanted):
    """Returns the GGUF type of a tensor: vectors stay F32, rows that blocks of 32 do not fill stay F16."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if wanted in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0) and shape[-1] % QUANT_BLOCK:
        return GGMLQuantizationType.F16
    return wanted


def encode_tensor(name, array, kind):
    """Returns `array` (float32) as numpy data of GGUF type `kind`. InputError where a finite value would become infinite."""
    limit = next(limit for other, _, limit in TYPES.values() if other == kind)
    finite = np.abs(array[np.isfinite(array)])
    if finite.size and finite.max() > limit:
        raise InputError(f"{name}: |{finite.max():g}| does not fit {kind.name} (at most {limit:g})")
    if kind == GGMLQuantizationType.F32:
        return array
    if kind == GGMLQuantizationType.F16:
        return array.astype(np.float16)
    return gguf.quants.quantize(array, kind)


def llama3_rope_factors(config):
    """Returns the divisors of the RoPE frequencies, float32 [head_dim / 2], which llama.cpp reads as `rope_freqs.weight`.

    Source: transformers, `_compute_llama3_parameters`.
    """
    factor, original = config.rope["factor"], config.rope["original_max_position_embeddings"]
    low, high = config.rope["low_freq_factor"], config.rope["high_freq_factor"]
    factors = []
    for lane in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * config.rope_theta ** (lane / config.head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def dummy_vocabulary(config):
    """Returns a vocabulary of `<tok0>`, `<tok1>`, ... for a model without a tokenizer: prompts are given as token ids."""
    return Vocabulary(
        pre="gpt-2",
        tokens=[f"<tok{token}>" for token in range(config.vocab_size)],
        types=[TokenType.NORMAL] * config.vocab_size,
        merges=["< t"],  # llama.cpp refuses a BPE vocabulary without merges; this one makes no token
        # llama.cpp takes id 11 where none is given, which a tiny vocabulary may not have.
        bos=config.bos if config.bos is not None else 0,
        eos=config.eos if config.eos is not None else 0,
        pad=config.pad,
        add_bos=False,
        add_eos=False,
    )


def split_rule(path, tokenizer):
    """Returns llama.cpp's name for how a tokenizer.json splits a text before its merges. InputError if it is another way."""
    rule = tokenizer.get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", []) if rule.get("type") == "Sequence" else [rule]
    ignore_merges = bool(tokenizer["model"].get("ignore_merges", False))
    if parts and parts[-1].get("type") == "ByteLevel" and not parts[-1].get("add_prefix_space", True):
        by_regex = parts[-1].get("use_regex", True)
        if len(parts) == 1 and by_regex and not ignore_merges:
            return "gpt-2"
        if len(parts) == 2 and not by_regex and parts[0].get("type") == "Split" and ignore_merges:
            if parts[0].get("pattern") == {"Regex": LLAMA3_SPLIT}:
                return "llama-bpe"
    raise InputError(
        f"{path}: its way to split a text is none this script knows; --dummy-vocab leaves the tokenizer out"
    )


def template_tokens(path, tokenizer):
    """Returns (token put before a text or None, token put after it or None) of a tokenizer.json."""
    processor = tokenizer.get("post_processor") or {}
    parts = processor.get("processors", []) if processor.get("type") == "Sequence" else [processor]
    before = after = None
    for part in parts:
        if part.get("type") == "TemplateProcessing":
            names = [next(iter(piece.items())) for piece in part["single"]]
            text = next(place for place, (kind, _) in enumerate(names) if kind == "Sequence")
            if text > 1 or len(names) - text - 1 > 1:
                raise InputError(f"{path}: more than one token is put before or after a text, GGUF cannot say that")
            before = names[0][1]["id"] if text == 1 else None
            after = names[-1][1]["id"] if text + 1 < len(names) else None
        elif part and part.get("type") != "ByteLevel":
            raise InputError(
                f"{path}: post-processor {part.get('type')!r} is not supported; --dummy-vocab leaves the tokenizer out"
            )
    return before, after


def read_vocabulary(folder, config):
    """Returns the Vocabulary of the folder's tokenizer.json; a dummy one if there is no such file.

    InputError if the tokenizer is no byte-level BPE, splits a text in an unknown way or is larger than the embedding.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return dummy_vocabulary(config)
    try:
        return convert_tokenizer(path, read_json(path), read_token_names(folder), config)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(f"{path}: broken: {type(error).__name__}: {error}") from error


def read_token_names(folder):
    """Returns the special tokens of tokenizer_config.json, such as {"bos_token": "<s>"}; empty if there is no such file."""
    path = folder / "tokenizer_config.json"
    raw = read_json(path) if path.exists() else {}
    names = {}
    for role in ("bos_token", "eos_token", "pad_token"):
        value = raw.get(role)
        names[role] = value.get("content") if isinstance(value, dict) else value
    return names


def convert_tokenizer(path, tokenizer, names, config):
    """Returns the Vocabulary of the content of a tokenizer.json; `names` as read_token_names gives them."""
    model = tokenizer["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or tokenizer.get("normalizer"):
        raise InputError(f"{path}: not a plain byte-level BPE tokenizer; --dummy-vocab leaves the tokenizer out")
    pre = split_rule(path, tokenizer)
    ids = dict(model["vocab"])
    special, other_added = set(), set()
    for added in tokenizer.get("added_tokens") or []:
        ids[added["content"]] = added["id"]
        (special if added.get("special") else other_added).add(added["content"])
    outside = [token for token in ids.values() if not 0 <= token < config.vocab_size]
    if outside:
        raise InputError(f"{path}: token id {max(outside)} lies outside the embedding of {config.vocab_size} rows")
    # Rows of the embedding that no token uses: padding of the matrix.
    tokens = [f"[PAD{token}]" for token in range(config.vocab_size)]
    types = [TokenType.UNUSED] * config.vocab_size
    for text, token in ids.items():
        tokens[token] = text
        types[token] = (
            TokenType.CONTROL
            if text in special
            else TokenType.USER_DEFINED
            if text in other_added
            else TokenType.NORMAL
        )

    def role(name, from_config):
        """The tokenizer's own choice counts, as in Hugging Face; config.json helps out."""
        return ids.get(names[name], from_config)

    bos, eos = role("bos_token", config.bos), role("eos_token", config.eos)
    before, after = template_tokens(path, tokenizer)
    for place, token, known in (("before", before, bos), ("after", after, eos)):
        if token is not None and ids.get(token) != known:
            raise InputError(
                f"{path}: {token!r} is put {place} a text, but is not the {'bos' if place == 'before' else 'eos'} token"
            )
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        bos=bos,
        eos=eos,
        pad=role("pad_token", config.pad),
        add_bos=before is not None,
        add_eos=after is not None,
    )


def add_metadata(writer, config, vocabulary, name, file_type):
    """Adds every key that llama.cpp needs for the architecture `llama` and its vocabulary to an open GGUFWriter."""
    writer.add_name(name)
    writer.add_file_type(file_type)
    if file_type in (LlamaFileType.MOSTLY_Q8_0, LlamaFileType.MOSTLY_Q4_0):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    if config.heads * config.head_dim != config.hidden:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope["factor"])

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    if vocabulary.eos is not None:
        writer.add_eos_token_id(vocabulary.eos)
    if vocabulary.pad is not None:
        writer.add_pad_token_id(vocabulary.pad)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)


def write_gguf(folder, out, type_name="f32", permute=True, dummy_vocab=False):
    """Writes the Hugging Face folder `folder` as the GGUF file `out`: whole or not at all.

    type_name    "f32", "f16", "q8_0" or "q4_0"; vectors stay F32, matrices that 32-value blocks do not fill stay F16
    permute      False leaves the rows of q and k in half-split order: a broken file, for tests
    dummy_vocab  True writes `<tokN>` tokens, whatever tokenizer the folder has
    Returns the tensors written, a list of (name, GGMLQuantizationType).
    Errors: InputError if the folder cannot be converted, OSError if `out` cannot be written; `out` is then unchanged.
    """
    folder, out = Path(folder), Path(out)
    if type_name not in TYPES:
        raise InputError(f"type {type_name!r} is not one of {', '.join(TYPES)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    wanted, file_type, _ = TYPES[type_name]
    config = read_config(folder)
    weights = read_weights(folder)
    plans = plan_tensors(config, weights)
    check_weights(folder, config, plans, weights)
    vocabulary = dummy_vocabulary(config) if dummy_vocab else read_vocabulary(folder, config)

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, "llama")
    written = []
    try:
        add_metadata(writer, config, vocabulary, folder.resolve().name, file_type)
        if config.rope["rope_type"] == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_rope_factors(config))
            written.append(("rope_freqs.weight", GGMLQuantizationType.F32))
        for plan in plans:
            array = weights.pop(plan.source)
            if permute and plan.permuted_heads:
                array = permute_rows(array, plan.permuted_heads)
            kind = tensor_type(plan.shape, wanted)
            writer.add_tensor(plan.name, encode_tensor(plan.name, array, kind), raw_dtype=kind)
            written.append((plan.name, kind))
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
    parser = argparse.ArgumentParser(description="Writes a Hugging Face Llama folder as a GGUF file for llama.cpp.")
    parser.add_argument("folder", metavar="HF_DIR", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("out", metavar="OUT.gguf", type=Path, help="file to write; one in its place is replaced")
    parser.add_argument("--type", choices=list(TYPES), default="f32", help="type of the matrices (default f32)")
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
        counts[kind.name] = counts.get(kind.name, 0) + 1
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"wrote {arguments.out}: {len(written)} tensors ({summary})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
