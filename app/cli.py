"""The `caravan` command line. Engine processes import this module again, so it stays light."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import __version__, keys_cli
from app.commands import cli as client_commands

if TYPE_CHECKING:
    from app.settings.server import Settings

_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The Ollama API at cluster scale, on vLLM.",
)

_app.add_typer(keys_cli.commands, name="keys", help="API keys: make, list and revoke them.")
client_commands.add_to(_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@_app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """The entry point of the `caravan` console script."""
    _app()


@_app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="NAME=SOURCE; SOURCE is a folder, a .gguf file or a hub repository. Repeatable."
    ),
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings, `models` among them.")]


@_app.command()
def serve(
    model: Models = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, HOST[:PORT].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    config: Config = None,
) -> None:
    """Serve models over the Ollama API; without --model, the bundled smollm2:135m."""
    with _one_line():
        from app.serve import run

        run(_settings(config, model, host=host, port=port))


@_app.command()
def fetch(model: Models = None, config: Config = None) -> None:
    """Fetch and convert models into CARAVAN_CACHE_DIR; a server then needs no network for them."""
    with _one_line():
        from app.fetch import run

        run(_settings(config, model))


@_app.command()
def worker(
    node_rank: Annotated[int, typer.Option(help="The number of this node; the leader, a server, is 0.")],
    model: Models = None,
    config: Config = None,
) -> None:
    """Run the ranks of a model that spans nodes, with the settings of the server that leads them."""
    with _one_line():
        from app.worker import run

        run(_settings(config, model), node_rank)


def _settings(config: Path | None, models: list[str] | None, **given: Any) -> "Settings":
    from app.settings.server import read_settings

    if config is not None:
        os.environ["CARAVAN_CONFIG"] = str(config)  # noqa: TID251  # where the settings look for it
    if models:
        given["models"] = [_named(text) for text in models]
    return read_settings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def _one_line() -> Generator[None]:
    """What the operator has to mend is one line and exit code 1; any other failure keeps its traceback."""
    from app.access.files import BadKeys
    from app.core.errors import AppError
    from app.runtime.lifecycle import GaveUp
    from app.settings.environment import BadSetting

    try:
        yield
    except (BadSetting, BadKeys, AppError, GaveUp) as error:
        print(f"caravan: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _named(text: str) -> dict[str, str]:
    name, _, source = text.partition("=")
    if not name or not source:
        raise typer.BadParameter(f"{text!r} is not NAME=SOURCE", param_hint="--model")
    return {"name": name, "source": source}


if __name__ == "__main__":
    main()
