"""The command line of `paritrace tokens`."""

from pathlib import Path

from paritrace.arguments import (
    EXIT_DIVERGED,
    EXIT_INCOMPARABLE,
    EXIT_PARITY,
    Parser,
    add_outputs,
    guarded,
    write_outputs,
)
from paritrace.errors import InputError

_EXITS = {"identical": EXIT_PARITY, "diverged": EXIT_DIVERGED, "incomparable": EXIT_INCOMPARABLE}


def _parser():
    parser = Parser(
        prog="paritrace tokens",
        description="Compares the token ids of two traces, or of two tokenizers on a text, and explains each difference. "
        "A tokenizer is a Hugging Face folder or tokenizer.json, a SentencePiece model, or a .gguf.",
        epilog="Exit codes: 0 the same, 1 different, 2 bad usage or input, 3 nothing to compare.",
    )
    parser.add_argument("reference", metavar="REF", help="a trace, or a tokenizer")
    parser.add_argument("subject", metavar="SUB", help="a trace, or a tokenizer")
    parser.add_argument("--text", action="append", default=[], help="a text for both tokenizers (repeatable)")
    parser.add_argument("--file", metavar="FILE", help="a text a line; lines need not be UTF-8")
    parser.add_argument("--tokenizer", metavar="FILE", help="for the texts of two traces' tokens")
    parser.add_argument("--all", action="store_true", help="show every line that differs, not the first few")
    add_outputs(parser)
    return parser


def _is_trace(path):
    path = Path(path)
    return (path / "trace.json").exists() if path.is_dir() else path.suffix in (".safetensors", ".npz")


def _texts(options):
    texts = [text.encode("utf-8", errors="surrogateescape") for text in options.text]
    if options.file:
        try:
            lines = Path(options.file).read_bytes().split(b"\n")
        except OSError as error:
            raise InputError(options.file, "", "a file of lines", error.strerror) from None
        texts += lines[:-1] if lines[-1] == b"" else lines
    return texts


def _run(options):
    from paritrace.tokens import compare, report

    texts = _texts(options)
    traces = [_is_trace(path) for path in (options.reference, options.subject)]
    if traces == [True, True]:
        if options.text or options.file:
            raise InputError("tokens", "--text", "two tokenizers", "two traces")
        result = compare.traces(options.reference, options.subject, options.tokenizer)
    elif any(traces):
        raise InputError("tokens", "", "two traces or two tokenizers", "one of each")
    elif not options.text and not options.file:
        raise InputError("tokens", "", "--text or --file for two tokenizers", "neither")
    elif options.tokenizer:
        raise InputError("tokens", "--tokenizer", "two traces", "two tokenizers")
    else:
        result = compare.tokenizers(options.reference, options.subject, texts)
    forms = {
        "md": lambda: report.markdown(result, options.all),
        "terminal": lambda: report.terminal(result, options.all),
        "html": lambda: report.html(result),
        "junit": lambda: report.junit(result),
        "sarif": lambda: report.sarif(result),
    }
    write_outputs(options, result, forms)
    return _EXITS[result["verdict"]]


def main(arguments):
    """Runs `paritrace tokens ARGUMENTS`. Returns the exit code."""
    return guarded("tokens", lambda: _run(_parser().parse_args(arguments)))
