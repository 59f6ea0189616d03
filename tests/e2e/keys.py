"""Keys as an operator makes them: on the command line."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Keys:
    """The key file of a server, and the key that the tests' own client has."""

    file: Path
    own: str = ""

    @classmethod
    def made(cls, file: Path, *scopes: str) -> "Keys":
        words = [word for scope in scopes for word in ("--scope", scope)]
        return cls(file, cls(file).run("create", "--id", "own", *words).split()[-1])

    def run(self, *arguments: str) -> str:
        """What `caravan keys` prints."""
        command = [sys.executable, "-m", "app.cli", "keys", *arguments, "--file", str(self.file)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
