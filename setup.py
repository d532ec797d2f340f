"""Build of farthing: setuptools for the Python part, CMake for the native part.

The root of the repository is the package ``farthing`` (``package_dir``), so the list of packages is explicit.

FARTHING_NATIVE chooses what becomes of the native part (operator library and runtime core):
  auto     build it where a compiler, CMake and headers are found, else say so once and install in portable mode (default)
  require  fail where it cannot be built
  off      portable mode: graphs run by their standard-operator bodies, the decode loop in Python
Further: FARTHING_BUILD_DIR (CMake's folder, default build/cmake-<python>), CMAKE_ARGS (passed on), ONNXRUNTIME_ROOT (see cmake/).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
PARTS = ("cli", "plugins", "models", "export", "calibration", "runtime")
"""Top-level folders that are shipped. tests, benchmarks, examples and docs are not."""

MODES = ("auto", "require", "off")


class NativeError(Exception):
    """The native part cannot be built; the message says what is missing and how to get it."""


class Native:
    """Builds the native part once per process and stages what belongs into the package."""

    def __init__(self) -> None:
        self.mode = os.environ.get("FARTHING_NATIVE", "auto")
        if self.mode not in MODES:
            sys.exit(f"FARTHING_NATIVE is {self.mode!r}, expected one of {', '.join(MODES)}; correct or unset it")
        tag = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
        self.folder = Path(os.environ.get("FARTHING_BUILD_DIR") or ROOT / "build" / f"cmake-{tag}")
        self.stage = self.folder / "stage"
        self._tried = False
        self.built = False

    def build(self) -> bool:
        """True when `stage` holds native files. Tries once; raises SystemExit in mode ``require`` on failure."""
        if not self._tried and self.mode != "off":
            self._tried = True
            try:
                self._build()
                self.built = True
            except NativeError as error:
                if self.mode == "require":
                    sys.exit(f"farthing: native part not built: {error}")
                # stderr: pip shows it with -v, and `farthing doctor` repeats it for an installed package.
                print(
                    f"warning: farthing is installed in portable mode, without its native part: {error}\n"
                    "         Everything works, but slower; `farthing doctor` says what to install.",
                    file=sys.stderr,
                )
        return self.built

    def install(self, package: Path) -> None:
        """Copy the staged files into the package folder ``package``."""
        shutil.copytree(self.stage, package, dirs_exist_ok=True)

    def _build(self) -> None:
        cmake, ninja = _tool("cmake"), _tool("ninja")
        python = self._python_options()
        shutil.rmtree(self.stage, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Tools of an isolated build environment are gone at the next build, so their paths are given every time and the
        # cache never gets to remember them; objects are kept, and a second build is quick.
        options = [f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_BUILD_TYPE=Release", *python]
        options += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        _run([cmake, "-S", str(ROOT), "-B", str(self.folder), "-G", "Ninja", *options], "configuring")
        _run([cmake, "--build", str(self.folder), "--parallel", jobs], "compiling")
        install = ["--component", "python", "--prefix", str(self.stage), "--strip"]
        _run([cmake, "--install", str(self.folder), *install], "installing")
        if not list(self.stage.rglob("*.so")):
            raise NativeError("CMake's install component 'python' is empty, expected libfarthing_ops.so; report this")

    @staticmethod
    def _python_options() -> list[str]:
        """CMake options for the Python binding; without Python's headers only the operator library is built."""
        header = Path(sysconfig.get_path("include")) / "Python.h"
        try:
            import nanobind
        except ImportError:
            missing = "package nanobind is not installed; pip install nanobind, or build with isolation"
        else:
            if header.is_file():
                return [
                    "-DFARTHING_PYTHON=ON",
                    f"-DPython_EXECUTABLE={sys.executable}",
                    f"-Dnanobind_DIR={nanobind.cmake_dir()}",
                ]
            missing = "Python.h is missing; on Debian and Ubuntu: apt-get install python3-dev"
        print(f"warning: farthing is built without its C++ decode loop for Python: {missing}", file=sys.stderr)
        return ["-DFARTHING_PYTHON=OFF"]


def _tool(name: str) -> str:
    """Path of a build tool: beside this Python (an environment's own), then on PATH."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    path = beside or shutil.which(name)
    if path is None:
        raise NativeError(f"{name} is missing, expected on PATH; pip install {name}")
    return path


def _run(command: list[str], what: str) -> None:
    """Run a step, showing its output at the end only if it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    print(result.stdout, flush=True)  # pip keeps it back unless asked with -v
    if result.returncode:
        tail = "\n".join(line for line in result.stdout.splitlines() if line.strip())[-1500:]
        raise NativeError(f"{what} it failed (status {result.returncode}), the end of the output being\n{tail}\n")


NATIVE = Native()


class FarthingDistribution(Distribution):
    """A distribution that is platform-specific exactly when the native part was built."""

    def has_ext_modules(self) -> bool:
        return NATIVE.built


class BuildNative(build_ext):
    """``build_ext``: put the native files into the package being built, or into the source tree (in-place, editable)."""

    def run(self) -> None:
        if NATIVE.build():
            NATIVE.install(ROOT if self.inplace or self.editable_mode else Path(self.build_lib) / "farthing")

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []


class BuildPython(build_py):
    """``build_py`` without this file, which shares the root with the package."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [
            found for found in super().find_package_modules(package, package_dir) if found[:2] != ("farthing", "setup")
        ]


class Wheel(bdist_wheel):
    """A wheel of exactly today's files: nothing that an older build left behind gets in."""

    def run(self) -> None:
        self.root_is_pure = not NATIVE.build()
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()


class Editable(editable_wheel):
    """An editable install: native files go into the source tree, beside their sources."""

    def run(self) -> None:
        NATIVE.build()
        super().run()


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    found = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        sys.exit('__version__ in __init__.py is missing, expected a line __version__ = "X.Y.Z"; add it')
    return found.group(1)


def packages() -> list[str]:
    """``farthing`` and every folder of PARTS that has an ``__init__.py``, as dotted names."""
    folders = sorted(init.parent.relative_to(ROOT) for part in PARTS for init in (ROOT / part).rglob("__init__.py"))
    return ["farthing", *(".".join(("farthing", *folder.parts)) for folder in folders)]


EXTRAS = {
    # What turns checkpoints into bundles, changes and measures them. On a machine without a GPU install
    # torch==2.13.0 from a CPU wheel first, or pip brings gigabytes of CUDA.
    "export": [
        "torch>=2.6",
        "onnx>=1.20",
        "gguf>=0.14",
        "matplotlib>=3.8",
    ],
    # Shares its module with onnxruntime and cannot stand beside it: see "GPU" in README.md.
    "gpu": ["onnxruntime-gpu>=1.24"],
    # Opening picture files, for prompts with images; arrays of pixels need nothing.
    "images": ["pillow>=10"],
    "rtx": ["tensorrt-rtx-cu13>=1.7,<2"],
    "quant": ["nvidia-modelopt[onnx]>=0.30"],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.9",
        "mypy>=1.14",
        "pre-commit>=4",
        "clang-format>=18,<23",
        "transformers>=4.51",
        "accelerate>=1",
        "pillow>=13",  # its resizing of tall pictures changed in the last bit, and ours is compared with it
        "psutil>=5.9",
        "types-jsonschema",
    ],
}

setup(
    name="farthing",
    version=version(),
    description="Compile token-efficient models to ONNX bundles and run them on small devices",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    distclass=FarthingDistribution,
    package_dir={"farthing": "."},
    packages=packages(),
    include_package_data=False,  # C++ sources live beside the Python ones, and stay at home
    package_data={
        "farthing": ["py.typed"],
        "farthing.runtime": ["include/*.h", "include/**/*.h", "include/**/*.hpp"],
        "farthing.runtime.bundle": ["*.json"],
        "farthing.calibration.report": ["page.html"],
    },
    install_requires=[
        "numpy>=1.26",
        "onnxruntime>=1.24",
        "tokenizers>=0.20",
        "click>=8.1",
        "rich>=13",
        "jinja2>=3.1",
        "jsonschema>=4.20",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["farthing=farthing.cli.main:main"]},
    cmdclass={
        "build_py": BuildPython,
        "build_ext": BuildNative,
        "bdist_wheel": Wheel,
        "editable_wheel": Editable,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Programming Language :: Python :: 3",
        "Programming Language :: C++",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
