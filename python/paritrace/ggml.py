"""ggml's tensors seen from Python: the C struct, names of types and ops, and values copied out through its strides.

Follows ggml.h as of llama-cpp-python 0.3.36. The layout is no promise of ggml's, so check_layout compares the first
tensor seen with ggml's own accessors before anything is believed.
"""

import ctypes
from pathlib import Path

import numpy as np

MAX_DIMS, MAX_SRC, MAX_NAME, MAX_OP_PARAMS = 4, 10, 64, 64

# ggml_type -> (our name, NumPy type of one element). Block types have no element; only their names are needed.
_TYPES = {
    0: ("f32", np.float32), 1: ("f16", np.float16), 24: ("i8", np.int8), 25: ("i16", np.int16), 26: ("i32", np.int32),
    27: ("i64", np.int64), 28: ("f64", np.float64), 30: ("bf16", np.uint16),
}  # fmt: skip


class Tensor(ctypes.Structure):
    """struct ggml_tensor. ne: elements an axis, nb: bytes between elements of an axis; both innermost axis first."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMS),
        ("nb", ctypes.c_size_t * MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (MAX_OP_PARAMS // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * MAX_NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class Ggml:
    """The accessors of libggml-base. directory: the `lib` folder of the llama_cpp package."""

    def __init__(self, directory):
        names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
        path = next((path for path in (Path(directory) / name for name in names) if path.exists()), None)
        if path is None:
            raise ImportError(f"no ggml-base library in {directory}", name="llama_cpp")
        library = ctypes.CDLL(str(path))
        self._get = self._bind(library.ggml_backend_tensor_get, None, [ctypes.c_void_p] * 2 + [ctypes.c_size_t] * 2)
        self._nbytes = self._bind(library.ggml_nbytes, ctypes.c_size_t, [ctypes.c_void_p])
        self._op_desc = self._bind(library.ggml_op_desc, ctypes.c_char_p, [ctypes.c_void_p])
        self._get_name = self._bind(library.ggml_get_name, ctypes.c_char_p, [ctypes.c_void_p])
        self._type_name = self._bind(library.ggml_type_name, ctypes.c_char_p, [ctypes.c_int])

    @staticmethod
    def _bind(function, result, arguments):
        function.restype, function.argtypes = result, arguments
        return function

    def op(self, address):
        """The op: "MUL_MAT", "ROPE"; for activations which one: "SWIGLU"."""
        return self._op_desc(address).decode()

    def type_name(self, kind):
        """Our name of a ggml_type, which is ggml's in lower case: "f32", "q8_0"."""
        return _TYPES[kind][0] if kind in _TYPES else self._type_name(kind).decode().lower()

    def check_layout(self, address):
        """Errors: RuntimeError if this ggml lays out its tensors in another way than Tensor says."""
        tensor = Tensor.from_address(address)
        matches = tensor.name == self._get_name(address)
        if tensor.type in _TYPES:
            last = sum((count - 1) * stride for count, stride in zip(tensor.ne, tensor.nb))
            matches = matches and last + np.dtype(_TYPES[tensor.type][1]).itemsize == self._nbytes(address)
        if not matches:
            raise RuntimeError("this llama-cpp-python has another struct ggml_tensor than the one known here (0.3.36)")

    def values(self, address):
        """(array, dtype name): a copy of the tensor, outermost axis first, [ne3, ne2, ne1, ne0]; bf16 as raw uint16.

        Views and permutations are followed through their strides. (None, name) for block-quantised tensors.
        """
        tensor = Tensor.from_address(address)
        if tensor.type not in _TYPES:
            return None, self.type_name(tensor.type)
        name, element = _TYPES[tensor.type]
        size = self._nbytes(address)
        raw = np.empty(size, np.uint8)
        if size:
            self._get(address, raw.ctypes.data, 0, size)
        strided = np.ndarray(tuple(tensor.ne)[::-1], element, raw, strides=tuple(tensor.nb)[::-1])
        return np.ascontiguousarray(strided), name
