"""Models of the Hugging Face hub, `hf.co/org/repo[:file or quantisation]`, by huggingface_hub.

A GGUF file goes into the store as any blob does, by ranges and held to its SHA-256. A repository of
safetensors becomes a folder in huggingface_hub's own cache, at the commit that it has now. There a file that
was broken off is fetched again from its beginning, and whole files are not.
"""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app.catalogue.folder import OTHER_EXPORTS
from app.catalogue.hub import SMALL_FILES, WEIGHTS
from app.core.brief import brief
from app.core.errors import AppError, DigestMismatch, RegistryFailed, StoreFailed
from app.core.model import ModelName
from app.registry.downloads import Downloads
from app.registry.policy import HUBS, Policy
from app.registry.progress import INTERVAL_S, Progress, pulling
from app.registry.site import Site

ENDPOINT = "https://huggingface.co"
DEFAULT_QUANTISATIONS = ("Q4_K_M", "Q4_0", "Q8_0")
"""What a name without one gets: the first is the hub's own choice for Ollama, the others stand in for it."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILES = 20_000


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: `sha256` is 64 hex digits, "" for a file that is not in large storage."""

    path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Repository:
    """What the hub says of a repository at one commit (40 hex digits)."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]


@dataclass(slots=True)
class Result:
    """What a pull from the hub brought: `gguf` in the store under its `digest`, or a `folder` of safetensors.
    `repository` says from where and of which commit."""

    repository: Repository | None = None
    gguf: HubFile | None = None
    folder: Path | None = None

    @property
    def digest(self) -> str:
        return f"sha256:{self.gguf.sha256}" if self.gguf else ""


def is_hub(name: ModelName) -> bool:
    return name.host.lower() in HUBS


@dataclass(slots=True)
class Hub:
    """The hub at `endpoint`, without a slash at its end. `client` has the address guard, as have the sessions
    of huggingface_hub where `guarding.install` was called. `token` comes from the environment of the server
    and from nowhere else; it is sent to the endpoint alone. `cache` is huggingface_hub's.
    """

    client: httpx.AsyncClient
    policy: Policy
    cache: Path
    endpoint: str = ENDPOINT
    token: str = field(default="", repr=False)
    offline: bool = False

    async def look(self, repo: str, revision: str = "main") -> Repository:
        """The commit and files of `repo`.

        Raises:
            RegistryFailed: where there is none, or the hub cannot be reached.
            Forbidden: where the policy does not let it come.
        """
        self.policy.check_hub(repo)
        if self.offline:
            raise RegistryFailed(f"{repo} cannot be pulled: this server is offline (HF_HUB_OFFLINE)")
        info = await asyncio.to_thread(self._info, repo, revision)
        commit = info.sha or ""
        if not _COMMIT.fullmatch(commit):
            raise RegistryFailed(f"the hub does not say which commit of {repo} is served")
        siblings = info.siblings or []
        if len(siblings) > _FILES:
            raise RegistryFailed(f"{repo} has {len(siblings)} files, of at most {_FILES}")
        return Repository(repo, commit, tuple(_file(each) for each in siblings))

    async def pull_gguf(
        self, found: Repository, file: HubFile, downloads: Downloads
    ) -> AsyncGenerator[Progress]:
        """Bring a GGUF file into the store, as a blob of its SHA-256. The caller holds it against pruning and
        has reserved its room.

        Raises:
            RegistryFailed, AddressRefused, Forbidden, StoreFailed: as a pull from a registry.
        """
        self.policy.check_size(file.size)
        digest = f"sha256:{file.sha256}"
        origin = httpx.URL(self.endpoint)
        site = Site(
            self.client,
            origin,
            self.policy,
            plain=origin.scheme == "http",
            authorization=f"Bearer {self.token}" if self.token else "",
        )
        url = httpx.URL(f"{self.endpoint}/{found.repo}/resolve/{found.commit}/{quote(file.path)}")

        def get(headers: Mapping[str, str]) -> AbstractAsyncContextManager[httpx.Response]:
            return site.open("GET", url, headers=headers)

        try:
            fetched = downloads.fetch(digest, file.size, get, origin=str(site.origin))
            async with aclosing(fetched) as counts:
                async for count in counts:
                    yield pulling(digest, file.size, count)
        except DigestMismatch as error:
            raise RegistryFailed(
                f"digest mismatch, file must be downloaded again: want {error.wanted}, got {error.got}"
            ) from error
        yield pulling(digest, file.size, file.size)

    async def pull_folder(self, found: Repository, result: Result) -> AsyncGenerator[Progress]:
        """Bring what vLLM needs of a repository of safetensors into the cache; `result.folder` is where.
        Whole files that are there are not fetched again. Leaving it ends with the piece that is received. The
        caller has reserved the room.

        Raises:
            RegistryFailed: where it has no safetensors, or cannot be had.
            Forbidden: for one that is too large.
        """
        files = chosen_files(found)
        total = sum(file.size for file in files)
        self.policy.check_size(total)
        meter = _Meter()
        work = asyncio.ensure_future(asyncio.to_thread(self._snapshot, found, files, meter))
        status = f"pulling {found.commit[:12]}"
        try:
            while not (await asyncio.wait({work}, timeout=INTERVAL_S))[0]:
                yield Progress(status, f"sha1:{found.commit}", total, min(meter.received, total))
            result.folder = work.result()
        finally:
            meter.stop.set()
            # The thread ends at its next piece; nobody waits for it, and nobody is told how it ended.
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
        yield Progress(status, f"sha1:{found.commit}", total, total)

    def _info(self, repo: str, revision: str) -> Any:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token or False)
        with _as_failures(repo):
            return api.model_info(repo, revision=revision, files_metadata=True, timeout=30)

    def _snapshot(self, found: Repository, files: tuple[HubFile, ...], meter: "_Meter") -> Path:
        from huggingface_hub import snapshot_download

        with _as_failures(found.repo):
            folder = snapshot_download(
                found.repo,
                revision=found.commit,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                token=self.token or False,
                allow_patterns=[_escaped(file.path) for file in files],
                tqdm_class=_bar_of(meter),
                max_workers=4,
            )
        return Path(folder)


def choose_gguf(found: Repository, tag: str) -> HubFile | None:
    """The GGUF file that `tag` names: a file, a quantisation, or `latest`, which is the hub's default choice.
    None where the repository has none.

    Raises:
        RegistryFailed: where it has some, and not that one, or only in parts.
    """
    ggufs = [file for file in found.files if file.path.lower().endswith(".gguf") and not _is_extra(file.path)]
    if not ggufs:
        return None
    if tag == "latest":
        choices = (_of(ggufs, each) for each in DEFAULT_QUANTISATIONS)
        fitting = next(filter(None, choices), sorted(ggufs, key=lambda file: file.size)[:1])
    else:
        named = (tag.lower(), f"{tag.lower()}.gguf")
        fitting = [file for file in ggufs if file.path.lower() in named] or _of(ggufs, tag)
    if not fitting:
        raise RegistryFailed(f"{found.repo} has no GGUF file or quantisation {tag}")
    file = fitting[0]
    if _SHARD.search(file.path):
        raise RegistryFailed(f"{file.path} is one part of a GGUF file in several, which is not pulled")
    if not file.sha256:
        raise RegistryFailed(f"the hub does not say the SHA-256 of {file.path}")
    return file


def chosen_files(found: Repository) -> tuple[HubFile, ...]:
    """What vLLM needs of a repository: the first kind of safetensors that there is, and the small files.
    Pickled weights are not pulled: they are programs.

    Raises:
        RegistryFailed: where it has no safetensors.
    """
    usable = [f for f in found.files if f.path.partition("/")[0] not in OTHER_EXPORTS or "/" not in f.path]
    for patterns in WEIGHTS[:2]:
        weights = [file for file in usable if _fits(file.path, patterns)]
        if weights:
            small = [
                file for file in usable if _fits(file.path, SMALL_FILES) and not file.path.endswith(".bin")
            ]
            return tuple({file.path: file for file in (*small, *weights)}.values())
    raise RegistryFailed(f"{found.repo} has no GGUF file and no safetensors")


def _of(ggufs: list[HubFile], quantisation: str) -> list[HubFile]:
    """The files of a quantisation, which stands at the end of a file's name or is that of its folder."""
    end = re.compile(rf"(^|[-._/]){re.escape(quantisation)}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
    return [file for file in ggufs if end.search(file.path)]


def _is_extra(path: str) -> bool:
    """Projectors and importance matrices are GGUF files too."""
    name = path.rpartition("/")[2].lower()
    return name.startswith("mmproj") or "imatrix" in name


def _fits(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _escaped(path: str) -> str:
    """A pattern that fits this path alone."""
    return re.sub(r"([*?[])", r"[\1]", path)


@contextmanager
def _as_failures(repo: str) -> Generator[None]:
    """What huggingface_hub raises, in sentences for a client."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    try:
        yield
    except (AppError, _Left):
        raise
    except errors.OfflineModeIsEnabled as error:
        raise RegistryFailed(f"{repo} cannot be pulled: this server is offline (HF_HUB_OFFLINE)") from error
    except errors.GatedRepoError as error:
        raise RegistryFailed(
            f"{repo} needs the consent of its makers: accept its terms at the hub and give the server a "
            "token (HF_TOKEN)"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise RegistryFailed("pull model manifest: file does not exist") from error
    except errors.LocalEntryNotFoundError as error:
        raise RegistryFailed(f"{repo} cannot be pulled: the hub cannot be reached") from error
    except OSError as error:
        if error.errno is None:
            raise RegistryFailed(f"{repo} cannot be pulled: {_first_line(error)}") from error
        raise StoreFailed(f"{repo} cannot be written to the cache: {error.strerror}") from error
    except (HTTPError, ValueError) as error:
        raise RegistryFailed(f"{repo} cannot be pulled: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return brief(lines[0] if lines else type(error).__name__)


def _file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    sha = (lfs.sha256 if lfs else "") or ""
    size = sibling.size if isinstance(sibling.size, int) and sibling.size >= 0 else 0
    return HubFile(sibling.rfilename, size, sha if _SHA256.fullmatch(sha) else "")


class _Meter:
    def __init__(self) -> None:
        self.received = 0
        self.stop = threading.Event()


class _Left(Exception):
    """Nobody waits for the folder any more."""


def _bar_of(meter: _Meter) -> Any:
    """A progress bar for huggingface_hub that prints nothing and ends the work once nobody waits."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg,misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # There are two bars of bytes, of what is received and of what is written, and one of files.
            self.is_written = str(kwargs.get("desc", "")).startswith("Reconstruct")
            super().__init__(*args, **kwargs | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if meter.stop.is_set():
                raise _Left
            if self.is_written:
                meter.received += int(n or 0)
            return None

    return Bar
