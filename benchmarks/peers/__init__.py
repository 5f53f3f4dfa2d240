"""The libraries that are measured, each in a process of its own that stays alive.

`python -m benchmarks.peers.<name>` answers requests, a line of JSON each, as runner.py describes. A
module there gives `versions()` and `forms(case, given)`: the ways in which the library may compute
a case, of which its best counts.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

Answer = dict[str, Any]


class PeerError(Exception):
    """A library that could not do what was asked."""


@dataclass
class Peer:
    """A library, and its process once it is asked something.

    Attributes
    ----------
    name : str
        Its module here.
    title : str
        Its name in tables.
    needs : tuple of str
        The packages that must be installed.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    process: "subprocess.Popen[str] | None" = None

    def missing(self) -> str | None:
        """Return why the library is left out, or None."""
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return None

    def start(self, threads: int) -> None:
        """Start the process, on so many threads."""
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
            environment.pop(name, None)  # they would hold BLAS to another CPU than this
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.peers.{self.name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for the one who started it, who ends it
        )

    def send(self, do: str, **request: Any) -> None:
        """Send a request; `receive` its answer."""
        if self.process is None or self.process.stdin is None:
            raise PeerError("its process was not started")
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerError("its process ended") from None

    def receive(self) -> Answer:
        """Return the answer to the last request."""
        if self.process is None or self.process.stdout is None:
            raise PeerError("its process was not started")
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"its process ended ({self.process.wait()})")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def pause(self) -> None:
        """Stop the process where it stands: threads of many libraries wait by spinning."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def ask(self, do: str, **request: Any) -> Answer:
        """Let a paused process answer a request, and pause it again."""
        self.resume()
        try:
            self.send(do, **request)
            return self.receive()
        finally:
            self.pause()

    def resume(self) -> None:
        """Let a paused process go on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


_THREADS: Final = (
    "LAMINA_THREADS",
    "MKL_NUM_THREADS",
    "NPROC",  # XLA's
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)


def peers() -> list[Peer]:
    """Return all libraries, Lamina first."""
    return [
        Peer("lamina_layers", "Lamina", ("lamina",)),
        Peer("pytorch", "PyTorch", ("torch",)),
        Peer("pytorch_compiled", "torch.compile", ("torch",)),
        Peer("jax_jit", "JAX", ("jax",)),
        Peer("onnx_runtime", "ONNX Runtime", ("onnx", "onnxruntime")),
    ]
