"""Local files of a model: which ones a folder holds, their digests, and their way to the server."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import orjson

from app.commands.failure import BadFile, one_line
from app.commands.progress import Display
from app.commands.server import Server
from app.store.digests import sha256_of
from app.store.manifest import is_local

_WEIGHTS = (
    "model*.safetensors",
    "consolidated*.safetensors",
    "*.safetensors",
    "*.gguf",
)
"""The first of these that a folder has is what its weights are: some hold the same twice."""

_PICKLES = ("*.bin", "*.pt", "*.pth")
_PICKLED = "has its weights pickled, and a pickle is a program: convert them to safetensors"
_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_TEMPLATES = "additional_chat_templates"
_MAGIC = b"GGUF"
_PIECE_BYTES = 256 << 10
"""Of an upload: small enough that a slow line shows progress."""


def find_files(path: Path, *, is_adapter: bool = False) -> dict[str, Path]:
    """The files of a model or adapter at `path`, a file or a folder, by their names for a server.

    Of a model's folder these are its weights and the small files beside them, of an adapter's PEFT's two.

    Raises:
        BadFile: for a folder without weights, and for names that a server does not take.
    """
    of_folder = _of_adapter if is_adapter else _of_folder
    try:
        files = of_folder(path) if path.is_dir() else {_name(path): path}
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {_told(error)}") from error
    for name in files:
        if not is_local(name):
            raise BadFile(f"{path}: no server takes a file of the name {one_line(name)!r}")
    return files


def sent(server: Server, files: Mapping[str, Path], display: Display) -> dict[str, str]:
    """The digests of files by their names. What the server lacks of them is uploaded."""
    digests = {name: _digest(path, display) for name, path in files.items()}
    for name, path in files.items():
        send(server, digests[name], path, f"uploading {path.name}", display)
    return digests


def send(server: Server, digest: str, path: Path, label: str, display: Display) -> None:
    """Upload one file in pieces, unless the server has it.

    Raises:
        BadFile: for one that cannot be read, or becomes shorter meanwhile.
    """
    if server.has_blob(digest):
        return
    try:
        with path.open("rb", buffering=0) as stream:
            size = _size(stream.fileno())
            with display.transfer(label, size) as tell:
                server.upload(digest, size, _pieces(stream.fileno(), path, size, tell))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {_told(error)}") from error


def _of_folder(path: Path) -> dict[str, Path]:
    if (path / "adapter_config.json").is_file():
        raise BadFile(f"{path} is an adapter: name it by ADAPTER, and by FROM the model that it is for")
    weights = next((found for pattern in _WEIGHTS if (found := _matching(path, pattern))), None)
    if weights is None:
        if any(_matching(path, pattern) for pattern in _PICKLES):
            raise BadFile(f"{path} {_PICKLED}")
        raise BadFile(f"{path} has neither safetensors nor GGUF in it")
    files = weights | {name: file for pattern in _BESIDE for name, file in _matching(path, pattern).items()}
    for folder in (*_modules(path), _TEMPLATES):
        for pattern in (*_BESIDE, "*.safetensors"):
            found = _matching(path / folder, pattern)
            files |= {f"{folder}/{name}": file for name, file in found.items()}
    return files


def _of_adapter(path: Path) -> dict[str, Path]:
    """What a training leaves beside them, such as the base's tokenizer, is no part of an adapter."""
    weights = _matching(path, "adapter*.safetensors")
    if not weights:
        raise BadFile(f"{path} has no adapter*.safetensors in it, as PEFT writes it")
    return weights | _matching(path, "adapter_config.json")


def _matching(folder: Path, pattern: str) -> dict[str, Path]:
    found = sorted(folder.glob(pattern))
    return {file.name: file for file in found if file.is_file() and not file.name.startswith(".")}


def _modules(path: Path) -> list[str]:
    """The folders of a model for sentence-transformers, such as `1_Pooling`."""
    try:
        found = orjson.loads((path / "modules.json").read_bytes())
    except (OSError, ValueError):
        return []
    folders = (
        [module.get("path") for module in found if isinstance(module, dict)]
        if isinstance(found, list)
        else []
    )
    return [folder for folder in folders if isinstance(folder, str) and folder and is_local(folder)]


def _name(path: Path) -> str:
    """The file's own name, with the ending by which GGUF is known: Ollama's blobs have none."""
    if not path.is_file():  # which a pipe is not, at whose other end nobody may write
        raise BadFile(f"{path} is neither a file nor a folder")
    if path.suffix.lower() in (".gguf", ".safetensors"):
        return path.name
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) == _MAGIC:
            return f"{path.name}.gguf"
    if any(path.match(pattern) for pattern in _PICKLES):
        raise BadFile(f"{path} {_PICKLED}")
    return path.name


def _digest(path: Path, display: Display) -> str:
    try:
        with (
            path.open("rb", buffering=0) as stream,
            display.transfer(f"hashing {path.name}", _size(stream.fileno())) as tell,
        ):
            return f"sha256:{sha256_of(stream.fileno(), tell)}"
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {_told(error)}") from error


def _size(descriptor: int) -> int:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is not a file")
    return found.st_size


def _pieces(descriptor: int, path: Path, size: int, tell: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    while done < size:
        piece = os.pread(descriptor, min(_PIECE_BYTES, size - done), done)
        if not piece:
            raise BadFile(f"{path} became shorter while it was uploaded")
        yield piece
        done += len(piece)
        tell(done)


def _told(error: OSError) -> str:
    return one_line(error.strerror or type(error).__name__)
