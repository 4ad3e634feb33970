"""The command `replica`: which commands there are, and the one place where an error becomes words and an exit code.

Only the module of the command that was asked for is imported, so that a quick command starts quickly.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

VERSION = "0.1.0"  # as in pyproject.toml; asking importlib.metadata costs 37 ms at every start

# Section of the help -> module -> its commands, in the order in which they are shown.
SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "The clone and its peers": {
        "cli.life": ("init",),
        "cli.peers": ("invite", "join", "up", "down", "sync", "peers"),
        "cli.life ": ("status", "members", "remove", "doctor"),
    },
    "Memory": {
        "cli.memory": ("ls", "show", "add", "search"),
        "cli.recall": ("recall",),
        "cli.memory ": ("log", "diff", "blame", "restore"),
    },
    "Decisions": {"cli.decide": ("conflicts", "resolve", "accept", "reject")},
    "Cloud memory": {"cli.cloud": ("sinks", "export", "push", "pull", "cloud")},
    "The working day": {"cli.workday": ("start", "save"), "cli.harvest": ("harvest", "migrate")},
    "Session logs and agents": {
        "cli.sessions": ("compare", "backfill"),
        "cli.learn": ("learn",),
        "cli.agents": ("connect", "disconnect"),
        "cli.mcp": ("mcp",),
    },
    "A look at it": {"cli.stats": ("stats",), "cli.web": ("web",)},
    "Upkeep": {"cli.upkeep": ("compact", "backup", "restore-backup")},
}
MODULES = {name: module.strip() for modules in SECTIONS.values() for module, names in modules.items() for name in names}
HIDDEN = {"hook": "cli.agents"}  # what programs run, and no person

USAGE_ERROR = typer.BadParameter.__mro__[1]  # its home is a private module of typer
ANY_CLICK_ERROR = typer.BadParameter.__mro__[2]


class Sections(TyperGroup):
    """A help page that says which commands belong together."""

    def list_commands(self, ctx) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx, formatter) -> None:
        width = max((len(name) for name in self.commands), default=0)
        for title, modules in SECTIONS.items():
            names = [name for group in modules.values() for name in group if name in self.commands]
            limit = formatter.width - 6 - width
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Command(TyperCommand):
    """Takes an argument such as "- a bullet" for the text that it is: no option has a blank in its name."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        take_values = {name for p in self.params if not getattr(p, "is_flag", True) for name in p.opts}
        texts, rest = [], []
        for before, argument in zip(["", *args], args, strict=False):
            is_text = argument.startswith("-") and len(argument.partition("=")[0].split(maxsplit=1)) > 1
            (texts if is_text and before not in take_values else rest).append(argument)
        return super().parse_args(ctx, [*rest, "--", *texts] if texts and "--" not in args else args)


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """The application: with the one command that `arguments` begin with, or else with all of them."""
    app = typer.Typer(
        cls=Sections, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )  # fmt: skip
    app.callback(invoke_without_command=True)(_start)
    asked = arguments[0] if arguments else ""
    for name in (asked,) if asked in {**MODULES, **HIDDEN} else MODULES:
        command = _command(name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, cls=Command, hidden=name in HIDDEN)(command)
    return app


def _command(name: str):
    return getattr(import_module({**MODULES, **HIDDEN}[name]), name.replace("-", "_"))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"replica {VERSION}")
        raise typer.Exit


def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Keep the memory of AI agents the same on all your machines: local files, no server, nothing lost.

    Begin with `replica init` in a folder, then `replica invite` there and `replica join CODE` on the next machine.

    Example: replica init ~/memory
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has enough of it. Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    from replica.errors import ReplicaError, UsageError

    try:
        code = typer.main.get_command(build(arguments)).main(arguments, prog_name="replica", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ReplicaError as error:
        return _fail(str(error), error.hint, 2 if isinstance(error, UsageError) else 1)
    except ANY_CLICK_ERROR as error:
        return _wrong_usage(error)
    except typer.Abort:
        return _fail("given up", "", 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "check whose the folder is, and its permissions" if isinstance(error, PermissionError) else ""
        return _fail(f"{where}{error.strerror or error}", hint, 1)
    except Exception as error:
        if os.environ.get("REPLICA_TRACEBACK"):
            raise
        return _fail(
            f"unforeseen: {type(error).__name__}: {error}",
            "this is a fault of the program, not yours; with REPLICA_TRACEBACK=1 it shows where",
            1,
        )


def _wrong_usage(error) -> int:
    message = error.format_message().strip().rstrip(".") or "wrong usage"
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "replica"
    hint = f"see `{command} --help`"
    if command == "replica" and getattr(error, "option_name", None):
        hint = "options come after the command, such as `replica status --dir DIR`; " + hint
    return _fail(message[0].lower() + message[1:], hint, error.exit_code)


def _fail(message: str, hint: str, code: int) -> int:
    from cli.common import cell

    # What peers and strangers sent may stand in a message: it comes on one line, and steers no terminal.
    typer.echo(f"replica: error: {cell(message)}", err=True)
    if hint:
        typer.echo(f"replica: hint: {cell(hint)}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
