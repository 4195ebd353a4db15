"""Our readers and decoders against the programs that define the formats: gguf-py, safetensors, NumPy.

The values go through `paritrace show FILE NAME --npy OUT`, so what is tested is what a user gets.
"""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import paritrace
import pytest
import safetensors
import safetensors.torch
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter, quants

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("PARITRACE_BIN", ROOT / "build" / "release" / "paritrace"))

BLOCK_TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
    "IQ4_NL", "IQ4_XS", "BF16", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
]  # fmt: skip


def run(*arguments):
    """The finished program; its standard error has at most one line."""
    assert PROGRAM.exists(), f"{PROGRAM} is not built: run make build, or set PARITRACE_BIN"
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert result.stderr.count("\n") <= 1
    return result


@pytest.fixture
def values(tmp_path):
    """Function: (file, name, more arguments) -> the decoded values as an array."""

    def read(file, name, *more):
        out = tmp_path / "values.npy"
        result = run("show", file, name, "--npy", out, *more)
        assert result.returncode == 0, result.stderr
        return np.load(out)

    return read


def listing(file, *more):
    result = run("show", file, "--json", "-", *more)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_same_bits(got, want):
    """Equal to the bit, -0 and 0 apart; where one is NaN the other must be, too."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[want.dtype.itemsize]
    np.testing.assert_array_equal(got.view(bits)[~nan], want.view(bits)[~nan])


@pytest.fixture(scope="module")
def random_blocks():
    """Every bit pattern is a valid block: NaN, infinite and subnormal scales included. {type: [rows, bytes] uint8}"""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 256, (6, 5 * GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]), dtype=np.uint8)
        for name in BLOCK_TYPES
    }


@pytest.fixture(scope="module")
def block_file(tmp_path_factory, random_blocks):
    path = tmp_path_factory.mktemp("gguf") / "blocks.gguf"
    writer = GGUFWriter(path, "llama")
    for name, blocks in random_blocks.items():
        writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_block_types_decode_as_in_gguf_py(name, random_blocks, block_file, values):
    with np.errstate(all="ignore"):
        want = quants.dequantize(random_blocks[name], GGMLQuantizationType[name])
    assert_same_bits(values(block_file, name), want.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64"])
def test_scalars_of_a_gguf(dtype, tmp_path, values):
    array = np.random.default_rng(1).normal(0, 50, (2, 3, 4)).astype(dtype)
    path = tmp_path / "scalars.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    got = values(path, "t")
    assert got.shape == array.shape  # row-major, though the file says 4, 3, 2
    np.testing.assert_array_equal(got, array)


def test_metadata_of_a_gguf(tmp_path):
    path = tmp_path / "metadata.gguf"
    writer = GGUFWriter(path, "llama")
    kinds = GGUFValueType
    plain = {
        "u8": (200, kinds.UINT8), "i8": (-5, kinds.INT8), "u16": (65535, kinds.UINT16), "i16": (-300, kinds.INT16),
        "u32": (4000000000, kinds.UINT32), "i32": (-70000, kinds.INT32), "u64": (2**63 + 1, kinds.UINT64),
        "i64": (-(2**62), kinds.INT64), "f32": (0.25, kinds.FLOAT32), "f64": (0.1, kinds.FLOAT64), "bool": (True, kinds.BOOL),
        "string": ("größer\n", kinds.STRING),
    }  # fmt: skip
    for key, (value, kind) in plain.items():
        writer.add_key_value(key, value, kind)
    writer.add_array("strings", ["a", "", "▁the"])
    writer.add_array("numbers", [1, -2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = listing(path)["metadata"]
    assert {key: metadata[key] for key in plain} == {key: value for key, (value, _) in plain.items()}
    assert metadata["strings"] == ["a", "", "▁the"]
    assert metadata["numbers"] == [1, -2, 3]


TORCH_TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_safetensors_of_torch(dtype, tmp_path, values):
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.arange(256, dtype=torch.int64).remainder(2 if dtype == torch.bool else 256).to(torch.uint8)
    if size > 1:  # all 16-bit patterns, or as many random ones
        raw = torch.from_numpy(
            np.random.default_rng(2).permutation(np.arange(65536, dtype=np.uint16)).view(np.uint8).copy()
        )
    tensor = raw.view(dtype).reshape(2, -1)
    path = tmp_path / "t.safetensors"
    # An odd byte in front puts every other tensor at an unaligned place.
    safetensors.torch.save_file({"a": torch.zeros(1, dtype=torch.uint8), "t": tensor}, path, {"format": "pt"})
    want = (
        tensor.double()
        if dtype in (torch.float64, torch.int32, torch.uint32, torch.int64, torch.uint64)
        else tensor.float()
    )
    assert_same_bits(values(path, "t"), want.numpy())
    assert listing(path)["metadata"] == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", "|i1", "<i2", "<i4", ">i8", "|u1", ">u2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_numpy(dtype, order, tmp_path, values):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 7 - (0 if dtype[1] in "ub" else 3), dtype=dtype, order=order)
    np.save(tmp_path / "weights.npy", array)
    np.testing.assert_array_equal(values(tmp_path / "weights.npy", "weights"), array.astype(np.float64))


def test_npz_of_numpy(tmp_path, values):
    rng = np.random.default_rng(3)
    arrays = {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "1/logits": np.zeros((100, 100), np.float16),
        "empty": np.empty((0, 3)),
    }
    np.savez(tmp_path / "stored.npz", **arrays)
    np.savez_compressed(tmp_path / "deflated.npz", **arrays)
    for file in ("stored.npz", "deflated.npz"):
        assert {entry["name"] for entry in listing(tmp_path / file)["tensors"]} == {"a", "logits", "empty"}
        assert_same_bits(values(tmp_path / file, "a"), arrays["a"])
        np.testing.assert_array_equal(values(tmp_path / file, "logits", "--step", 1), arrays["1/logits"])


def wait_until_it_holds(file, count):
    """Recordings are written in the background: between a tensor's bytes and its entry only our own reader understands the file."""
    for _ in range(1000):
        with contextlib.suppress(FileNotFoundError, safetensors.SafetensorError):
            with safetensors.safe_open(file, "pt") as opened:
                if len(opened.keys()) == count:
                    return
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["trace", "trace.safetensors"])
def test_public_safetensors_opens_what_our_writer_wrote(name, tmp_path):
    path = tmp_path / name
    rng = np.random.default_rng(4)
    arrays = {
        f"layers.{i}.attn.q": rng.normal(size=(3, 5)).astype(np.float16 if i % 2 else np.float32) for i in range(40)
    }
    writer = paritrace.TraceWriter(str(path), json.dumps({"engine": {"name": "toy"}}))
    for site, array in arrays.items():
        writer.record(0, f"module {site}", site, array)
    writer.record(0, "raw", "", np.array([0x3F80, 0x4000], np.uint16), dtype="bf16")
    # Open and complete alike: another program may look.
    for status in ("open", "complete"):
        if status == "complete":
            writer.close()
        file = path if path.is_file() else path / "tensors-00000.safetensors"
        wait_until_it_holds(file, len(arrays) + 1)
        with safetensors.safe_open(file, "pt") as opened:
            assert len(opened.keys()) == len(arrays) + 1
            for site, array in arrays.items():
                assert_same_bits(opened.get_tensor(f"0/{site}").numpy(), array)
            assert opened.get_tensor("0/raw").tolist() == [1, 2]
            assert opened.get_tensor("0/raw").dtype == torch.bfloat16
            if path.is_file():
                assert json.loads(opened.metadata()["paritrace"])["status"] == status
    assert listing(path)["header"]["engine"] == {"name": "toy"}


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, block_file):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(block_file.read_bytes()[:-100])
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    for file, words in [
        (cut, "bytes of data"),
        (empty, "an empty file"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "is no trace"),
    ]:
        result = run("show", file)
        assert result.returncode == 2
        assert str(file) in result.stderr
        assert words in result.stderr
    assert run("show", block_file, "no such tensor").returncode == 2
    assert run("show", block_file, "--npy", tmp_path / "x.npy").returncode == 2
