"""Raw values without a header, with the shape that the user gives: .bin as the machine wrote them, .txt as numbers."""

import os
from pathlib import Path

import numpy as np
import torch

from paritrace.errors import InputError
from paritrace.readers.writing import TensorWriter

DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8,
}  # fmt: skip


def read(path, output, shape, dtype="f32", name=None, overwrite=False):
    """Writes one tensor as a trace. Returns the Recording.

    shape  list of sizes;  dtype: a key of DTYPES;  name: site or engine's name, default the file's without ending
    Errors: InputError where the file does not hold exactly the values of the shape.
    """
    count = 1
    for size in shape:
        count *= size
    kind = DTYPES[dtype]
    if not Path(path).is_file():
        raise InputError(path, "file", "raw values", "a folder" if Path(path).is_dir() else "no such file")
    size = os.path.getsize(path)
    if Path(path).suffix in (".txt", ".csv"):
        if count > size // 2 + 1:
            raise InputError(path, "end of file", f"{count} numbers, as {shape} has", f"{size} bytes of text")
        words = Path(path).read_text(errors="replace").replace(",", " ").split()
        try:
            values = torch.tensor([float(word) for word in words], dtype=torch.float64)
        except ValueError as error:
            raise InputError(path, "text", "numbers", str(error)) from error
        if len(words) != count:
            raise InputError(path, "end of file", f"{count} numbers, as {shape} has", len(words))
        values = values.to(kind)
    else:
        if size != count * kind.itemsize:
            raise InputError(path, "end of file", f"{count * kind.itemsize} bytes ({dtype} {shape})", size)
        values = torch.from_numpy(np.fromfile(path, np.uint8)).view(kind) if count else torch.empty(0, dtype=kind)
    with TensorWriter(output, "", path, overwrite) as writer:
        writer.record(name or Path(path).stem, values.reshape(shape))
    return writer.recording
