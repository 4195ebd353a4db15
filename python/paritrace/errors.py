"""The one kind of error a user of the adapters can cause: a bad file, option or model. Printed as one line, exit code 2."""


class InputError(ValueError):
    """`FILE: PLACE: expected EXPECTED, found FOUND`. `place` may be empty."""

    def __init__(self, file, place, expected, found):
        where = f"{file}: {place}" if place else f"{file}"
        super().__init__(f"{where}: expected {expected}, found {found}")


def first_line(error):
    """The first line of an exception's text (other libraries' messages run over many), or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def check_tokens(tokens, vocabulary):
    """Errors: InputError for the first id outside [0, vocabulary)."""
    for token in tokens:
        if not 0 <= token < vocabulary:
            raise InputError("--tokens", "", f"ids from 0 to {vocabulary - 1}", token)
