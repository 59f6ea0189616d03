"""The commands that talk to a server: `caravan models`, `pull`, `create`, `rm`, `ps`, `stop` and `import`."""

import io
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.commands.changes import Outcome
    from app.commands.server import Event, Server

# Engine processes import the command line again, so what is slow to import waits for a command.

_PANEL = "Models of a server"
_INTERRUPTED = 130

Host = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="The server, such as https://caravan.example or 10.0.0.5:11434; CARAVAN_HOST or OLLAMA_HOST "
        "where it is left out, else this machine.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        help="API key; better in CARAVAN_API_KEY or OLLAMA_API_KEY, where no process list shows it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's JSON and nothing else.")]
Name = Annotated[str, typer.Argument(metavar="MODEL", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Put the commands into the help of `app` as one group."""
    commands: tuple[tuple[str, Callable[..., None]], ...] = (
        ("models", models),
        ("ps", ps),
        ("pull", pull),
        ("create", create),
        ("import", import_folder),
        ("stop", stop),
        ("rm", rm),
    )
    for name, command in commands:
        app.command(name, rich_help_panel=_PANEL)(command)


def models(host: Host = None, key: Key = None, as_json: AsJson = False) -> None:
    """List the models that the server has."""
    with _command(), _server(host, key) as server:
        from app.commands.tables import models_table

        _show(server.document("GET", "/api/tags"), models_table, as_json=as_json)


def ps(host: Host = None, key: Key = None, as_json: AsJson = False) -> None:
    """List the models that are loaded."""
    with _command(), _server(host, key) as server:
        from app.commands.tables import running_table

        _show(server.document("GET", "/api/ps"), running_table, as_json=as_json)


def pull(
    model: Name,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let the server use http, or TLS that nobody checks.")
    ] = False,
    host: Host = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Have the server fetch a model from a registry or hub."""
    stopped = "the pull was broken off; what has come is kept, and the same pull goes on from there"
    with _command(stopped), _server(host, key) as server:
        from app.commands.progress import Quiet, open_display

        body = {"model": model, **({"insecure": True} if insecure else {})}
        with Quiet(shows_events=True) if as_json else open_display() as display:
            for event in server.events("/api/pull", body):
                display.event(event)


def create(
    model: Name,
    file: Annotated[
        Path, typer.Option("-f", "--file", metavar="PATH", help="The Modelfile; - is standard input.")
    ] = Path("Modelfile"),
    quantize: Annotated[
        str, typer.Option("-q", "--quantize", metavar="TYPE", help="Quantize the weights, as to q8_0.")
    ] = "",
    host: Host = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a model of a Modelfile; files that it names are uploaded, paths starting from its folder."""
    with _command("nothing was created; whole files that were uploaded are not uploaded again"):
        from app.commands.changes import create as make
        from app.commands.failure import CommandFailed
        from app.commands.progress import Quiet, open_display
        from app.commands.recipe import read_recipe

        text = _read(file)
        try:
            recipe = read_recipe(text, Path() if str(file) == "-" else file.parent)
        except CommandFailed as error:
            raise CommandFailed(f"{file}: {error}") from error
        for warning in recipe.warnings:
            typer.echo(f"caravan: {file}: {warning}", err=True)
        with _server(host, key) as server, Quiet(shows_events=True) if as_json else open_display() as display:
            make(server, model, recipe, quantize, display)


def import_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="Such as ~/.ollama/models.")
    ],
    only: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", show_default=False, help="By default all.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace models of the same names on the server.")
    ] = False,
    host: Host = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Bring the models of a folder that Ollama wrote to the server, under their names."""
    with _command("the import was broken off; the same import goes on with what is missing"):
        from app.commands.adoption import Folder
        from app.commands.changes import adopt
        from app.commands.progress import Quiet, open_display

        found = Folder(folder)
        display = Quiet(shows_events=False) if as_json else open_display()
        outcomes: list[Outcome] = []
        try:
            with _server(host, key) as server, display:
                for outcome in adopt(server, found, only or (), display, overwrite=overwrite):
                    outcomes.append(outcome)
        finally:
            _show_outcomes(outcomes, as_json=as_json)
    if any(outcome.state == "not adopted" for outcome in outcomes):
        raise typer.Exit(1)


def stop(model: Name, host: Host = None, key: Key = None, as_json: AsJson = False) -> None:
    """Unload a model."""
    with _command(), _server(host, key) as server:
        from app.commands.failure import Refused

        body = {"model": model, "prompt": "", "keep_alive": 0, "stream": False}
        try:
            answer = server.document("POST", "/api/generate", body)
        except Refused as error:
            if error.status == 404 and "not found" in str(error):
                raise Refused(f"couldn't find model {json.dumps(model)} to stop", error.status) from error
            raise
        if as_json:
            typer.echo(answer.line)


def rm(
    model: Annotated[list[str], typer.Argument(metavar="MODEL...", show_default=False)],
    host: Host = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Delete models."""
    failed = False
    with _command(), _server(host, key) as server:
        from app.commands.failure import Refused

        for name in model:
            try:
                server.done("DELETE", "/api/delete", {"model": name})
            except Refused as error:
                failed = True
                _complain(str(error))
                continue
            typer.echo(json.dumps({"deleted": name}) if as_json else f"deleted '{name}'")
    if failed:
        raise typer.Exit(1)


@contextmanager
def _command(stopped: str = "stopped") -> Generator[None]:
    """Whatever fails is one sentence on stderr and status 1; an interruption says `stopped`, status 130."""
    from app.commands.failure import CommandFailed

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except CommandFailed as error:
        _complain(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        _complain(stopped)
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def _server(host: str | None, key: str | None) -> Generator["Server"]:
    from app.commands.server import Server
    from app.settings.client import read_target
    from app.settings.environment import BadSetting

    try:
        target = read_target(host, key)
    except BadSetting as error:
        _complain(str(error))
        raise typer.Exit(2) from error
    with Server(target.url, target.key) as server:
        yield server


def _show(document: "Event", table: "Callable[..., list[str]]", *, as_json: bool) -> None:
    from datetime import UTC, datetime

    if as_json:
        typer.echo(document.line)
        return
    for line in table(document, datetime.now(UTC)):
        typer.echo(line)


def _show_outcomes(outcomes: "list[Outcome]", *, as_json: bool) -> None:
    from app.commands.tables import table

    rows = [(outcome.model, outcome.state, outcome.reason) for outcome in outcomes]
    if as_json:
        for model, state, reason in rows:
            typer.echo(json.dumps({"model": model, "state": state, "reason": reason}))
    elif rows:
        typer.echo("\n".join(table(("NAME", "STATE", "WHY"), rows)))


def _read(file: Path) -> bytes:
    from app.commands.failure import CommandFailed

    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error


def _complain(text: str) -> None:
    typer.echo(f"caravan: {text}", err=True)
