"""The command line: `tesserac COMMAND ...`. Commands live in `tesserac.commands`, one module each, loaded on use."""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from tesserac import __version__
from tesserac.console import Console
from tesserac.crash import report_crash
from tesserac.diagnostics import CompileError

COMMANDS = {
    "build": "Compile a source into a project folder and make it.",
    "check": "Report every error of a source; write nothing.",
    "inspect": "Show a program at one stage of the compiler.",
    "explain": "Explain an error code, or what became of a source line.",
    "plan": "Say how a program would be cut over a mesh of devices, and why.",
    "run": "Build a source into a cache folder and run the program.",
    "ckpt": "Look into the checkpoints that several ranks wrote, or merge one into a single file.",
    "tune": "Try the schedules of CUDA kernels and write down the fastest.",
    "verify": "Run every CUDA kernel alone against the evaluator.",
    "ops": "List the operators of the language.",
    "doctor": "Say which compilers and tools are there, and what is missing.",
}
"""Every command with its line of help, in the order in which `--help` lists them."""


class Commands(click.Group):
    """Finds commands by name without importing the others, and suggests the nearest name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command's module."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"tesserac.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with; a usage error names the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean `{near[0]}`?" if near else f" The commands are {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(__version__, "-V", "--version", message="tesserac %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Compiles Tessera programs into C++ projects that train and infer on their own.

    `tesserac COMMAND --help` lists a command's flags.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status; nothing but KeyboardInterrupt's kin ever escapes."""
    console = Console.for_terminal()
    try:
        result = cli.main(list(arguments), prog_name="tesserac", standalone_mode=False, obj=console)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        console.usage_error(error)
        return 2
    except click.ClickException as error:
        console.error_line(error.format_message())
        return error.exit_code
    except CompileError as error:
        console.diagnostics(error.diagnostics)
        return int(getattr(error, "exit_code", 1))
    except (KeyboardInterrupt, click.Abort):
        console.error_line("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is left to say, nor to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as error:
        report_crash(error, arguments, console)
        return 3


def main() -> NoReturn:
    """Entry point of the `tesserac` script."""
    gc.disable()  # programs are immutable trees without cycles: looking for garbage took a quarter of a compilation
    status = run(sys.argv[1:])
    gc.freeze()  # nor is there any to look for at the end
    sys.exit(status)


if __name__ == "__main__":
    main()
