"""The command line of `paritrace import`: dumps that only Python reads, or that need a word from the user, as traces."""

import argparse
import sys

from paritrace.errors import InputError, first_line

EXIT_BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like every other error of ours."""

    def error(self, message):
        raise InputError(self.prog.removeprefix("paritrace "), "", "see --help", message)


def _shape(text):
    try:
        sizes = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        sizes = [-1]
    if min(sizes) < 0:
        raise argparse.ArgumentTypeError(f"expected sizes such as 10,64, found {text!r}")
    return sizes


def _parser():
    parser = _Parser(prog="paritrace import", description="Writes another program's dump as a trace.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, text in (
        ("torch", "a file of torch.save: tensors in dictionaries and lists"),
        ("msprobe", "a folder of msProbe with dump.json and .pt or .npy files"),
        ("raw", "raw values, .bin or .txt, with their shape"),
    ):
        command = kinds.add_parser(kind, help=text, description=f"Reads {text}.")
        command.add_argument("input", metavar="IN")
        command.add_argument(
            "-o", "--output", required=True, metavar="TRACE", help="trace directory (or FILE.safetensors)"
        )
        command.add_argument("--overwrite", action="store_true", help="replace an existing trace")
        command.add_argument("--quiet", action="store_true", help="no summary")
        if kind == "raw":
            command.add_argument("--shape", type=_shape, required=True, metavar="10,64")
            command.add_argument("--dtype", default="f32", help="f64, f32 (default), f16, bf16, i64, i32, i16, i8, u8")
            command.add_argument("--name", help="site, or the engine's own name (default: the file's)")
    return parser


def _run(options):
    if options.kind == "torch":
        from paritrace.readers import torch_file

        return torch_file.read(options.input, options.output, options.overwrite)
    if options.kind == "msprobe":
        from paritrace.readers import msprobe

        return msprobe.read(options.input, options.output, options.overwrite)
    from paritrace.readers import raw

    if options.dtype not in raw.DTYPES:
        raise InputError("--dtype", "", " or ".join(raw.DTYPES), options.dtype)
    return raw.read(options.input, options.output, options.shape, options.dtype, options.name, options.overwrite)


def main(arguments):
    """Runs `paritrace import ARGUMENTS`. Returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        recording = _run(options)
    except ImportError as error:
        print(
            f"paritrace: import needs a package that is not installed ({error.name}): pip install 'paritrace[hf]'",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    except (ValueError, OSError) as error:
        print(f"paritrace: {first_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if not options.quiet:
        print(f"{recording.path}: {recording.count} tensors")
    return 0
