"""The process behind `reader.py`: reads jobs from its standard input until that ends, and limits itself.

A job and a reply are two lengths (`HEAD`), a JSON object and, of a job, the body. Replies are JSON and no
pickle: whoever takes over this process through a parser must not get the server with it.
"""

import importlib
import json
import os
import resource
import struct
import sys
from typing import IO, Any

from app.tools.extract import ReadLimits, Unreadable, extract

HEAD = struct.Struct(">II")
_SPENT_BYTES = 300 << 20
_SPENT_JOBS = 500


def main() -> None:
    limits = ReadLimits(**json.loads(sys.argv[1]))
    # What a library prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _bind(limits)
    # Before the first job, so that its time is not the job's.
    importlib.import_module("app.tools.markup")
    replies.write(b"\n")
    replies.flush()
    _serve(sys.stdin.buffer, replies, limits)


def _serve(jobs: IO[bytes], replies: IO[bytes], limits: ReadLimits) -> None:
    for count in range(1, _SPENT_JOBS + 1):
        head = jobs.read(HEAD.size)
        if len(head) < HEAD.size:
            return
        sizes = HEAD.unpack(head)
        job, body = json.loads(jobs.read(sizes[0])), jobs.read(sizes[1])
        _allow_seconds(limits)
        reply = _done(job, body, limits)
        del body
        reply["is_spent"] = reply.get("is_spent") or _used_bytes() > _SPENT_BYTES or count == _SPENT_JOBS
        data = json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace")
        replies.write(HEAD.pack(len(data), 0) + data)
        replies.flush()


def _done(job: dict[str, Any], body: bytes, limits: ReadLimits) -> dict[str, Any]:
    try:
        if job["do"] == "robots":
            return {"is_allowed": _allows(body, job["agent"], job["url"])}
        found = extract(body, job["media_type"], job["charset"], job["url"], limits)
    except Unreadable as error:
        return {"refusal": str(error)}
    except MemoryError:
        return {"refusal": "the page takes too much memory to read", "is_spent": True}
    except Exception:  # the outermost edge of this process: the parsers raise what their input leads them to
        return {"refusal": "the page is damaged and cannot be read", "is_spent": True}
    return {
        "title": found.title,
        "text": found.text,
        "links": found.links,
        "is_truncated": found.is_truncated,
    }


def _allows(robots: bytes, agent: str, url: str) -> bool:
    from protego import Protego

    return Protego.parse(robots.decode("utf-8", "replace")).can_fetch(url, agent)


def _used_bytes() -> int:
    """What this process has now: `getrusage` tells the most, and of the server too, that it came from."""
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * resource.getpagesize()


def _bind(limits: ReadLimits) -> None:
    """No files written, few opened, no dump of memory, so much address space."""
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))


def _allow_seconds(limits: ReadLimits) -> None:
    """Processor time for the next job: the kernel ends this process over it, though nobody is left to."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + limits.time_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
