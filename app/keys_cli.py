"""`caravan keys`: making, listing and revoking API keys, in the file that a server watches."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.access.keys import KeyRecord

# Engine processes import the command line again, so what is slow to import waits for a command.

commands = typer.Typer(no_args_is_help=True)

FileOption = Annotated[
    Path | None, typer.Option("--file", help="Key file; CARAVAN_KEYS_FILE where it is left out.")
]


@commands.command()
def create(
    name: Annotated[str, typer.Option(help="Whose key it is, for people to read.")] = "",
    key_id: Annotated[
        str | None, typer.Option("--id", help="Id in logs and metrics (a-z, 0-9, -); made up if left out.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="inference, models:read, models:write, tools, metrics, admin. "
            "Repeatable; by default the first two."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model that may be used; `*` stands for any text. Repeatable; all if left out."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="A date or time (UTC), or a time from now: 90d, 12h.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Most requests a minute.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Most tokens a minute, prompt and output.")
    ] = None,
    concurrent_requests: Annotated[int | None, typer.Option(help="Most requests at once.")] = None,
    max_context: Annotated[int | None, typer.Option(help="Largest num_ctx.")] = None,
    max_predict: Annotated[int | None, typer.Option(help="Largest num_predict.")] = None,
    max_tool_calls: Annotated[
        int | None, typer.Option(help="Most calls of built-in tools in a request.")
    ] = None,
    priority: Annotated[int, typer.Option(help="A lower number is served first.")] = 0,
    public_key: Annotated[
        str | None,
        typer.Option(
            help="Make no secret: let in who signs with this key, an Ed25519 .pub file or its text, as "
            "Ollama's command line does with OLLAMA_AUTH=1."
        ),
    ] = None,
    file: FileOption = None,
) -> None:
    """Make a key and print it. This is the only time that it can be seen."""
    from app.access.keys import DEFAULT_SCOPES, new_id, new_key

    key_id = key_id or new_id()
    key, sealed = new_key(key_id) if public_key is None else (None, None)
    fields: dict[str, Any] = {
        "id": key_id,
        "name": name,
        "hash": sealed,
        "scopes": scope or list(DEFAULT_SCOPES),
        "models": model or None,
        "created": datetime.now(UTC).replace(microsecond=0),
        "limits": {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrent_requests": concurrent_requests,
            "max_context": max_context,
            "max_predict": max_predict,
            "max_tool_calls": max_tool_calls,
        },
        "priority": priority,
    }
    with _failing_well():
        signer = None if public_key is None else _public_key(public_key)
        record = _record(fields | {"expires": _expiry(expires), "public_key": signer})
        path = _path(file)
        with _changed(path) as records:
            if any(known.id == record.id for known in records):
                raise _Wrong(
                    f"{path}: there is a key {record.id!r} already; revoke it first, or give another --id"
                )
            for known in records:
                if record.public_key and known.public_key == record.public_key:
                    raise _Wrong(f"--public-key: it is that of the key {known.id!r} already")
            records.append(record)
    if key is None:
        print(f"key {record.id!r} is in {path}: it lets in who signs with {_signer(record)}", file=sys.stderr)
        return
    print(key)
    print(f"key {record.id!r} is in {path}; it is not shown again", file=sys.stderr)


@commands.command(name="list")
def list_keys(file: FileOption = None) -> None:
    """List the keys by what is known of them, which is not the keys themselves."""
    from app.access.files import read_keys

    with _failing_well():
        records, _ = read_keys(_path(file))
    rows = [("ID", "NAME", "SCOPES", "MODELS", "EXPIRES", "LIMITS", "PUBLIC KEY"), *map(_row, records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@commands.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], file: FileOption = None) -> None:
    """Take a key out of the file; a running server refuses it within seconds."""
    with _failing_well():
        path = _path(file)
        with _changed(path) as records:
            kept = [record for record in records if record.id != key_id]
            if len(kept) == len(records):
                raise _Wrong(f"{path}: there is no key {key_id!r}")
            records[:] = kept
    print(f"key {key_id!r} is revoked", file=sys.stderr)


class _Wrong(Exception):
    """What was asked for cannot be done; the text is one line."""


@contextmanager
def _failing_well() -> Generator[None]:
    from app.access.files import BadKeys
    from app.settings.environment import BadSetting

    try:
        yield
    except (_Wrong, BadKeys, BadSetting) as error:
        print(f"caravan: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _path(file: Path | None) -> Path:
    from app.settings.server import read_settings

    path = file or read_settings().keys_file
    if path is None:
        raise _Wrong("which file holds the keys? Give --file or set CARAVAN_KEYS_FILE")
    return path


@contextmanager
def _changed(path: Path) -> Generator[list["KeyRecord"]]:
    """The keys of a file, to be changed: they are written when the block ends well."""
    from app.access.files import changing, read_keys

    with changing(path) as save:
        records = list(read_keys(path)[0]) if path.exists() else []
        yield records
        save(records)


def _record(fields: dict[str, Any]) -> "KeyRecord":
    from pydantic import ValidationError

    from app.access.keys import KeyRecord

    try:
        return KeyRecord.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        option = next((str(part) for part in first["loc"] if part != "limits"), "")
        option = {"scopes": "scope", "models": "model"}.get(option, option).replace("_", "-")
        raise _Wrong(f"--{option}: {first['msg'].removeprefix('Value error, ')}") from None


def _public_key(given: str) -> str:
    """A public key, or what the file of that name holds."""
    if given.startswith(("ssh-", "ecdsa-", "sk-", "-----BEGIN")):
        return given
    try:
        return Path(given).expanduser().read_text("utf-8")
    except OSError as error:
        raise _Wrong(f"--public-key: {given}: {error.strerror}") from error
    except UnicodeError as error:
        raise _Wrong(f"--public-key: {given}: it is no public key") from error


def _expiry(text: str | None) -> datetime | None:
    """A moment to come: `90d` and Go's durations are from now."""
    if text is None:
        return None
    from app.access.keys import read_moment

    now = datetime.now(UTC).replace(microsecond=0)
    try:
        span = _span(text)
        moment: Any = read_moment(text) if span is None else now + span
    except ValueError as error:
        raise _Wrong(f"--expires: {error}, and no time from now such as 90d or 12h") from error
    except OverflowError as error:
        raise _Wrong(f"--expires: {text} is too far from now") from error
    if moment <= now:
        raise _Wrong(f"--expires: {text} is over already; the key would let nobody in")
    return moment


def _span(text: str) -> timedelta | None:
    """A time from now; None for what is none."""
    if text.endswith("d") and text[:-1].isdigit():
        return timedelta(days=int(text[:-1]))
    import goduration

    try:
        return timedelta(seconds=goduration.Duration.parse(text).nanoseconds / 1e9)
    except ValueError:
        return None


def _row(record: "KeyRecord") -> tuple[str, ...]:
    limits = record.limits.model_dump(exclude_none=True)
    if record.priority:
        limits["priority"] = record.priority
    return (
        record.id,
        record.name or "-",
        ",".join(record.scopes),
        ",".join(record.models or ["all"]),
        _until(record),
        ",".join(f"{name}={value}" for name, value in limits.items()) or "-",
        _signer(record),
    )


def _signer(record: "KeyRecord") -> str:
    """The public key by its fingerprint, as `ssh-keygen -l` tells it."""
    from app.access.ssh import fingerprint, read_public_key

    return fingerprint(read_public_key(record.public_key)) if record.public_key else "-"


def _until(record: "KeyRecord") -> str:
    if record.expires is None:
        return "never"
    over = " (over)" if record.expires <= datetime.now(UTC) else ""
    return f"{record.expires.astimezone(UTC):%Y-%m-%d %H:%M}{over}"
