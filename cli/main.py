"""The command ``farthing``: a group whose commands are loaded when they are called, and the one place where errors are printed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from .. import __version__
from ..errors import FarthingError, MissingDependencyError, found_wanted

INTERNAL, INTERRUPTED = 70, 130
"""Exit codes beside those of the error classes: a defect of ours (EX_SOFTWARE), and Ctrl-C (128 + SIGINT)."""

HELP = """Compile token-efficient language models to ONNX bundles and run them on small devices.

\b
From a checkpoint to text:
  farthing export decoder --checkpoint model.gguf --out bundle
  farthing verify bundle
  farthing quantize bundle --weights int4 --out bundle-int4
  farthing run bundle-int4 --prompt "What is a farthing?"

\b
Each command explains itself:  farthing COMMAND --help
Exit codes: 0 done, 1 failed, 2 bad request, 3 bad checkpoint, 4 bad bundle, 5 verification failed, 6 a part is not installed,
70 a defect of farthing, 130 interrupted.
"""

COMMANDS = {
    "methods": "List what can be compiled.",
    "export": "Turn a checkpoint into a bundle.",
    "import": "Make a bundle of somebody else's ONNX file.",
    "verify": "Check that a bundle computes what it should.",
    "eval": "Perplexity of a bundle, and its distance from another.",
    "inspect": "Show what is in a bundle and what it will need.",
    "quantize": "Make a bundle smaller.",
    "train-mtp": "Teach a frozen model to guess several tokens ahead.",
    "train-judge": "Teach a model which drafted words will do (lossy).",
    "draft-table": "Count what tends to follow, to guess ahead.",
    "compile": "Compile a bundle for a CPU, a Jetson or an RTX card.",
    "tune": "Measure this machine, so that decoding can guess ahead.",
    "ima-report": "Find what rows of images can leave out (lossy).",
    "tune-visual": "Choose how few visual tokens are enough for your pictures.",
    "prune-view": "Show which parts of a picture are kept.",
    "analyze-codes": "Measure image codes, and say how to decode them.",
    "run": "Generate text from a prompt.",
    "draw": "Draw images with a bundle.",
    "batch": "Generate text from many prompts at once.",
    "chat": "Talk with a bundle.",
    "bench": "Measure speed and memory.",
    "roofline": "What this machine can do, and how near a bundle comes.",
    "report": "Write a page about a bundle: speed, memory, loss.",
    "ops": "List and check the custom operators.",
    "selftest": "Test on a GPU, and write a report.",
    "doctor": "Say what is installed, what is missing, and how to get it.",
}
"""Name and one-line help. Command ``x`` is ``x_command`` of module ``farthing.cli.x``; here its help costs no import."""

EXPORT_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "gguf", "matplotlib")


class LazyGroup(click.Group):
    """Loads a command's module when the command is asked for, so that ``farthing --help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command ``name``; None if there is no such name. Raises MissingDependencyError if its file is not installed."""
        if name not in COMMANDS:
            return None
        plain = name.replace("-", "_")
        module = f"{__package__}.{plain}"
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(
                found_wanted(
                    f"command {name!r}", "not part of this installation", module, "install farthing again, or update it"
                )
            )
        return getattr(importlib.import_module(module), f"{plain}_command")  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from COMMANDS alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and names the nearest command to a mistyped one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            fix = f"the nearest is {near[0]!r}" if near else "see `farthing --help`"
            raise click.UsageError(found_wanted("command", repr(args[0]), f"one of {', '.join(COMMANDS)}", fix), ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. Errors are one line on stderr; FARTHING_DEBUG=1 adds the traceback."""
    try:
        code = cli.main(list(sys.argv[1:] if arguments is None else arguments), "farthing", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) went away. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sys.exit(_report(error))
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print ``error``; returns the exit code."""
    if os.environ.get("FARTHING_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, FarthingError):
        top = (error.name or "").partition(".")[0]
        if top and top != "farthing":
            extra = "'farthing[export]'" if top in EXPORT_PACKAGES else top
            error = MissingDependencyError(
                found_wanted(f"package {top}", "not installed", "installed for this command", f"pip install {extra}")
            )
    if isinstance(error, FarthingError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    click.echo(
        f"error: unexpected {type(error).__name__}: {error}\n"
        "This is a defect of farthing. Run again with FARTHING_DEBUG=1 for the traceback, and report it.",
        err=True,
    )
    return INTERNAL
