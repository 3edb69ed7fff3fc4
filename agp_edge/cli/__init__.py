"""The command line `agp-edge`: one module per command, all errors one line.

Exit codes: 0 fine, 1 an error (one line on stderr), 2 wrong usage, 3 an image is anomalous, 4 what
was looked at is outside its limits (bench, compare, data, quantize, validate), 130 interrupted, 141
the reader of our output went away.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Protocol, cast

from agp_edge.dependencies import EXTRA_OF_MODULE, missing_module_error
from agp_edge.errors import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

# In the order of a model's life; each is a module agp_edge/cli/<name>.py.
COMMANDS = (
    "data",
    "train",
    "export",
    "quantize",
    "build",
    "threshold",
    "sign",
    "score",
    "eval",
    "validate",
    "compare",
    "bench",
    "info",
    "doctor",
    "demo",
)

EPILOG = """\
exit codes: 0 fine; 1 an error, one line on stderr; 2 wrong usage; 3 an image is anomalous;
4 outside its limits; 130 interrupted. AGP_EDGE_TRACEBACK=1 shows where an error came from."""


class Command(Protocol):
    """What a module agp_edge.cli.<name> offers; heavy imports stay inside `run`."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never prints a traceback unless asked to."""
    try:
        code = _run(argv)
        sys.stdout.flush()  # a closed pipe must show here, not while the interpreter ends
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("AGP_EDGE_TRACEBACK") == "1":
            raise
        return _fail(_sentence(error), 1)


def _run(argv: Sequence[str] | None) -> int:
    commands = {name: _command(name) for name in COMMANDS}
    args = _parser(commands).parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # A file's or a class's name that the terminal cannot show is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return commands[args.command].run(args)


def _command(name: str) -> Command:
    return cast("Command", importlib.import_module(f"agp_edge.cli.{name}"))


def _parser(commands: dict[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agp-edge",
        description="Visual anomaly detection for inline inspection cameras.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_PrintVersion)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands.items():
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
    return parser


class _PrintVersion(argparse.Action):
    """Like argparse's own, but reads the package's metadata only when asked."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import agp_edge  # noqa: PLC0415  (already loaded; the name is needed only here)

        print(f"agp-edge {agp_edge.__version__}")
        parser.exit()


def _sentence(error: Exception) -> str:
    if isinstance(error, Error):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        module = error.name.partition(".")[0]
        if module in EXTRA_OF_MODULE:
            return str(missing_module_error(module))
    if isinstance(error, ImportError) and error.name in ("agp_edge", "agp_edge._core"):
        return (
            f"the compiled part of agp_edge does not load ({error}): install the package again "
            "with `pip install --force-reinstall agp-edge`"
        )
    if isinstance(error, OSError):  # of the operating system's own words, with the file's name
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error} "
        "(this is a bug: set AGP_EDGE_TRACEBACK=1 to see where, and report it)"
    )


def _fail(sentence: str, code: int) -> int:
    print("agp-edge: " + " ".join(sentence.split()), file=sys.stderr)
    return code
