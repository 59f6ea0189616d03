"""The `caravan` command line. Engine processes import this module again, so it stays light."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app import __version__, keys_cli

_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The Ollama API at cluster scale, on vLLM.",
)

_app.add_typer(keys_cli.commands, name="keys", help="API keys: make, list and revoke them.")


def main() -> None:
    """The entry point of the `caravan` console script."""
    _app()


@_app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@_app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SOURCE; SOURCE is a folder, a .gguf file or a hub repository. Repeatable."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, HOST[:PORT].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, `models` among them.")] = None,
) -> None:
    """Serve models over the Ollama API; without --model, the bundled smollm2:135m."""
    from app.access.files import BadKeys
    from app.core.errors import AppError
    from app.serve import GaveUp, run
    from app.settings import BadSetting, read_settings

    try:
        if config is not None:
            os.environ["CARAVAN_CONFIG"] = str(config)  # noqa: TID251  # where the settings look for it
        given: dict[str, Any] = {"models": [_named(text) for text in model]} if model else {}
        if host is not None:
            given["host"] = host
        if port is not None:
            given["port"] = port
        run(read_settings(**given))
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
