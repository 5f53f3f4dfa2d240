"""What a run says about the machine it ran on."""

import os
import platform
from pathlib import Path

from lamina.engine import jit


def describe() -> dict[str, str | int]:
    """Return CPU model, cores, vector width, system and Python."""
    return {
        "cpu": _model(),
        "cores": os.cpu_count() or 1,
        "vector_bits": jit.vector_bytes() * 8,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _model() -> str:
    """Return the CPU's name for itself, and LLVM's for its kind."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name} ({jit.cpu()[0]})"


def threads() -> int:
    """Return how many threads there may be at the same time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
