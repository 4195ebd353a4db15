# What the package offers, for type checkers and editors; __init__.py imports each name when it is first used.
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from paritrace.errors import InputError as InputError
from paritrace.reading import Trace as Trace
from paritrace.results import Result as Result

__version__: str

# A path, an opened trace, or tensors in memory by name or by (step, name).
Side = str | os.PathLike[str] | Trace | Mapping[str, Any] | Mapping[tuple[int, str], Any]

class TraceWriter:
    def __init__(self, path: str, header: str, mode: str = "full", overwrite: bool = False) -> None: ...
    def record(
        self, step: int, name: str, site: str, array: Any, dtype: str | None = None, shape: list[int] | None = None
    ) -> None: ...
    def update_header(self, header: str) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...

def capture(
    model: Any, path: str | os.PathLike[str], mode: str = "full", **options: Any
) -> AbstractContextManager[Any]: ...
def open_trace(path: str | os.PathLike[str]) -> Trace: ...
def site_of(engine: str, name: str) -> str | None: ...
def is_site(name: str) -> bool: ...
def schema(name: str) -> dict[str, Any]: ...
def diff(
    reference: Side,
    subject: Side,
    *,
    all_stats: bool = False,
    map: str | os.PathLike[str] | None = None,
    min_confidence: float | None = None,
) -> Result: ...
def diagnose(
    subject: Side,
    model: str | os.PathLike[str] | None = None,
    *,
    reference: Side | None = None,
    subject_model: str | os.PathLike[str] | None = None,
    arithmetic: str | None = None,
    oracle: str | None = None,
) -> Result: ...
def logits(
    reference: Side, subject: Side, *, top: int | None = None, tokenizer: str | os.PathLike[str] | None = None
) -> Result: ...
def growth(reference: Side, subject: Side) -> Result: ...
def weights(reference: Side, subject: Side) -> Result: ...
