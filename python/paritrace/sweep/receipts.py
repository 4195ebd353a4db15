"""The receipts of a sweep: one JSON line each, appended as scenarios end. The file is the sweep's whole memory: what has a
receipt is done, what has none is to do.
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path

from paritrace.errors import InputError

NAME = "receipts.jsonl"


class Receipts:
    """receipts.jsonl in a folder, held by one sweep at a time. Use as a context manager.

    Errors: InputError if the folder cannot be written, another sweep is at work there, or a line is no receipt.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.path = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "w")
        except OSError as error:
            raise InputError(folder, "", "a folder that can be written", error.strerror) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(folder, "", "no other sweep at work here", "one that is") from None
        self.by_id = self._read()
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._file)
        self._lock.close()

    def _read(self):
        """Receipts by id. A last line without its end was being written when its sweep was killed: it is taken off."""
        if not self.path.exists():
            return {}
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        found = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                receipt = json.loads(line)
                found[receipt["id"]] = receipt
            except (ValueError, KeyError, TypeError):
                raise InputError(self.path, f"line {number}", "a receipt", line[:60].decode(errors="replace")) from None
        if len(whole) < len(raw):
            os.truncate(self.path, len(whole))
        return found

    def add(self, receipt):
        """Appends a receipt in one write. Errors: InputError (disk full), with what was torn taken off again."""
        line = json.dumps(receipt, ensure_ascii=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise InputError(self.path, "", "room for a receipt", error.strerror) from None
        if written != len(line):
            os.ftruncate(self._file, size)
            raise InputError(self.path, "", "room for a receipt", f"{written} of {len(line)} bytes written")
        self.by_id[receipt["id"]] = receipt

    def forget(self, statuses):
        """Takes out all receipts of these statuses, for another try."""
        kept = [receipt for receipt in self.by_id.values() if receipt.get("status") not in statuses]
        if len(kept) == len(self.by_id):
            return
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        os.close(self._file)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.by_id = {receipt["id"]: receipt for receipt in kept}


def write_whole(path, text):
    """A file that is whole or as it was."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
