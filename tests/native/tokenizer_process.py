"""The C++ tokenizer in a process of its own: building the driver, and talking to it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_driver() -> Path:
    """Return the driver, built if need be; skips where there is no compiler."""
    given_path = os.environ.get("FARTHING_TOKENIZER_DRIVER")
    if given_path:
        return Path(given_path)
    if shutil.which("cmake") is None or not any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        pytest.skip("no CMake or C++ compiler: the C++ tokenizer cannot be built")
    build = ROOT / "build" / "tokenizer-tests"
    source = ROOT / "tests" / "native" / "tokenizer_build"
    for command in (["cmake", "-S", source, "-B", build], ["cmake", "--build", build, "-j2"]):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return build / "tokenizer_driver"


class Driver:
    """A C++ tokenizer in a process of its own."""

    def __init__(self, program: Path, document: Path) -> None:
        """Start it; raises ValueError with the C++ message when the file is refused."""
        self.process = subprocess.Popen([program, document], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._answer()
        except ValueError:
            self.close()
            raise

    def _answer(self) -> bytes:
        assert self.process.stdout is not None
        head = self.process.stdout.read(4)
        assert len(head) == 4, f"the driver died with status {self.process.wait()}"
        (size,) = struct.unpack("<I", head)
        if size == 0xFFFFFFFF:
            (size,) = struct.unpack("<I", self.process.stdout.read(4))
            raise ValueError(self.process.stdout.read(size).decode())
        return self.process.stdout.read(size)

    def ask(self, operation: bytes, flags: int, payload: bytes) -> bytes:
        """Send one request and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(operation + bytes([flags]) + struct.pack("<I", len(payload)) + payload)
        self.process.stdin.flush()
        return self._answer()

    def encode(self, text: str | bytes, add: bool = False, special: bool = True) -> list[int]:
        """Encode a text, or bytes that need not be UTF-8."""
        payload = text if isinstance(text, bytes) else text.encode()
        answer = self.ask(b"e", int(add) | int(special) << 1, payload)
        return list(struct.unpack(f"<{len(answer) // 4}i", answer))

    def decode(self, ids: list[int], skip: bool = True, stream: bool = False) -> str:
        """Decode ids at once or one by one."""
        return self.ask(b"s" if stream else b"d", int(skip), struct.pack(f"<{len(ids)}i", *ids)).decode()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
