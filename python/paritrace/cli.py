"""The command line of `paritrace capture`: parse, call the adapter, one line of outcome, exit code. No engine is imported
before its subcommand is known.
"""

import argparse
import sys
import time

from paritrace.errors import InputError, first_line

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like every other error of ours."""

    def error(self, message):
        raise InputError(self.prog.removeprefix("paritrace "), "", "see --help", message)


def _tokens(text):
    try:
        ids = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        ids = []
    if not ids:
        raise argparse.ArgumentTypeError(f"expected token ids separated by commas, found {text!r}")
    return ids


def _count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of steps, found {text!r}")
    return int(text)


def _input(text):
    name, _, file = text.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(f"expected NAME=FILE.npy, found {text!r}")
    return name, file


def _common(parser, text=True, decode=True, inputs=False):
    prompt = parser.add_mutually_exclusive_group(required=True)
    if inputs:
        prompt.add_argument(
            "--input", type=_input, action="append", metavar="NAME=FILE.npy", help="an input of the graph (repeatable)"
        )
    prompt.add_argument(
        "--tokens", type=_tokens, metavar="1,2,3", help="token ids of the prompt, fed exactly as they are"
    )
    if text:
        prompt.add_argument("--text", help="a prompt for the model's own tokenizer")
    parser.add_argument(
        "-o", "--output", required=True, metavar="TRACE", help="trace directory to write (or FILE.safetensors)"
    )
    if decode:
        parser.add_argument(
            "--decode", type=_count, default=0, metavar="N", help="greedy steps after the prompt, with the KV cache"
        )
    parser.add_argument(
        "--mode", choices=("full", "digest", "stats"), default="full",
        help="full: all values (default); digest: hashes and sketches; stats: statistics only",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing trace")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")


def _parser():
    parser = _Parser(
        prog="paritrace capture",
        description="Runs a model in an engine and records what it computes, step by step, as a trace.",
        epilog="Exit codes: 0 recorded, 2 bad usage or input, 130 interrupted (the trace stays open).",
    )
    engines = parser.add_subparsers(dest="engine", required=True, metavar="ENGINE")

    hf = engines.add_parser(
        "hf", help="Hugging Face Transformers", description="Records a Hugging Face model, with eager attention."
    )
    hf.add_argument("model", metavar="MODEL_DIR", help="folder with config.json and weights")
    hf.add_argument("--dtype", choices=("f32", "bf16", "f16", "f64"), help="run in this dtype (default: the folder's)")
    _common(hf)

    llamacpp = engines.add_parser("llamacpp", help="llama.cpp", description="Records a GGUF in llama.cpp, on the CPU.")
    llamacpp.add_argument("model", metavar="MODEL.gguf")
    llamacpp.add_argument(
        "--flash-attn", choices=("on", "off", "auto"), default="auto",
        help="auto is llama.cpp's own choice, usually on; off shows the attention's probabilities",
    )  # fmt: skip
    llamacpp.add_argument(
        "--kv-type", choices=("f16", "f32"), default="f16", help="dtype of the KV cache (default f16, llama.cpp's own)"
    )
    llamacpp.add_argument("--threads", type=_count, default=0, metavar="N", help="default: all cores")
    _common(llamacpp)

    onnx = engines.add_parser(
        "onnx",
        help="ONNX Runtime",
        description="Records an ONNX model in ONNX Runtime, op by op: graph optimisations are off.",
    )
    onnx.add_argument("model", metavar="MODEL.onnx")
    _common(onnx, text=False, inputs=True)

    for name, what in (
        ("jax", "a function of token ids [1, tokens] with paritrace.jax.tap in it (Flax's intermediates, too)"),
        ("torch", "a function without arguments that returns a torch.nn.Module"),
    ):
        own = engines.add_parser(name, help=f"{what.split(' with ')[0]}", description=f"Records {what}.")
        own.add_argument("model", metavar="FILE.py:NAME")
        _common(own, text=False, decode=False)
    return parser


def _progress(quiet):
    """A printer of progress lines on standard error that stays silent for runs of under two seconds."""
    if quiet or not sys.stderr.isatty():
        return lambda line: None
    start = time.monotonic()

    def say(line):
        if time.monotonic() - start > 2:
            print(f"paritrace: {line}", file=sys.stderr)

    return say


def _run(options):
    common = {name: getattr(options, name) for name in ("mode", "overwrite")}
    common["progress"] = _progress(options.quiet)
    if options.engine == "onnx" and options.input:
        from paritrace import onnx

        if options.decode:
            raise InputError("--decode", "", "--tokens", "--input")
        return onnx.run_feeds(options.model, options.output, dict(options.input), **common)
    common["tokens"] = options.tokens
    if options.engine == "jax":
        from paritrace import jax

        return jax.run(options.model, options.output, **common)
    if options.engine == "torch":
        from paritrace import hf

        return hf.run_function(options.model, options.output, **common)
    common["decode"] = options.decode
    if options.engine == "onnx":
        from paritrace import onnx

        return onnx.run(options.model, options.output, **common)
    common["text"] = options.text
    if options.engine == "hf":
        from paritrace import hf

        return hf.run(options.model, options.output, dtype=options.dtype, **common)
    from paritrace import llamacpp

    own = {"flash_attention": options.flash_attn, "kv_type": options.kv_type, "threads": options.threads}
    return llamacpp.run(options.model, options.output, **own, **common)


def main(arguments):
    """Runs `paritrace capture ARGUMENTS`. Returns the exit code."""
    engine = "capture"
    try:
        options = _parser().parse_args(arguments)
        engine = options.engine
        recording = _run(options)
    except InputError as error:
        return _fail(str(error))
    except ImportError as error:
        return _fail(
            f"capture {engine} needs a package that is not installed ({error.name}): pip install 'paritrace[{engine}]'"
        )
    except (ValueError, OSError) as error:  # the trace writer's, with file and place in the text
        return _fail(first_line(error))
    except KeyboardInterrupt:
        print("paritrace: interrupted; a trace already begun stays open", file=sys.stderr)
        return EXIT_INTERRUPTED
    if not options.quiet:
        steps = len(recording.steps)
        print(f"{recording.path}: {recording.count} tensors, {steps} step{'s' if steps != 1 else ''}")
    return 0


def _fail(line):
    print(f"paritrace: {line}", file=sys.stderr)
    return EXIT_BAD_INPUT
