"""The threads that torch computes with, for looking at what it has computed.

A tensor is in their caches when it appears, and between two ops they wait for work, awake: a thread of our own would only
take a core from them.
"""

from pathlib import Path

import torch

_LIBRARY = "libgomp"


def lend(recording):
    """Lets a recording use torch's OpenMP team, where torch has one in this process. Call on the thread that runs the model."""
    library = _loaded_library()
    if library is not None and torch.backends.openmp.is_available():
        recording.use_openmp(library, torch.get_num_threads())


def _loaded_library():
    """The file of the libgomp that torch has loaded; None where there is none, or more than one it could be."""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split(None, 5)[-1].strip() for line in maps if _LIBRARY in line}
    except OSError:
        return None
    # Other packages bring one, too: torch's own lies beside it.
    own = {file for file in files if Path(file).is_relative_to(Path(torch.__file__).parent)} or files
    return own.pop() if len(own) == 1 else None
