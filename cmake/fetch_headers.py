#!/usr/bin/env python3
"""Find the C and C++ libraries that the native build needs, and fetch the missing ones from the machine's own mirror.

Nothing is vendored in the repository. A package that the system already has is left alone; any other is downloaded by
apt into a private state directory and unpacked under ``<build>/deps/<package>/``: no root, no installation, nothing
outside the build directory is written. The mirror's address comes from the machine's own apt configuration, and every
index is checked against the distribution's own keyring, so an unsigned or altered package is refused by apt.

Run again it does nothing, and needs no network, once everything is there. Python >= 3.10, apt-get, dpkg-deb suffice::

    python3 cmake/fetch_headers.py --build-dir build
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STAMP = ".farthing-package.json"

# Directories that compilers search without being told.
SYSTEM_ROOTS = (Path("/usr"), Path("/usr/local"))

# Debian keeps rolling suites under names that are not the code name in /etc/os-release.
SUITE_ALIASES = {"stable", "oldstable", "testing", "unstable", "sid", "devel"}

# Newer suites to ask, in this order, for a package that the machine's own release does not carry. For Ubuntu the list
# is read from distro-info when it is installed; "devel" is an alias that the archive keeps for the release in making.
NEWER_SUITES = {"debian": ("trixie", "sid"), "ubuntu": ("resolute", "questing", "devel")}


class FetchError(RuntimeError):
    """A package cannot be found or fetched; the message says what, and how to go on."""


@dataclass(frozen=True)
class Package:
    """One distribution package: what of it we use, and whether a newer suite may provide it."""

    name: str
    headers: tuple[str, ...]  # alternatives, relative to <root>/include
    library: str | None  # static library that must stand beside the header
    any_suite: bool  # only headers are used and the library is loaded at run time: a newer suite will do
    root_variable: str  # what a user without apt sets to point at a copy of his own


# libonnxruntime-dev: bookworm and Ubuntu 24.04 have none. Its C API only grows, and the library is loaded with dlopen
# at run time, so headers from a newer suite are safe. The others are linked statically (no run-time dependency) and
# must therefore come from a suite whose C library is the machine's own.
PACKAGES = (
    Package(
        "libonnxruntime-dev",
        ("onnxruntime/onnxruntime_c_api.h", "onnxruntime/core/session/onnxruntime_c_api.h", "onnxruntime_c_api.h"),
        None,
        True,
        "ONNXRUNTIME_ROOT",
    ),
    Package("libpcre2-dev", ("pcre2.h",), "libpcre2-8.a", False, "PCRE2_ROOT"),
    Package("libutf8proc-dev", ("utf8proc.h",), "libutf8proc.a", False, "UTF8PROC_ROOT"),
    Package("nlohmann-json3-dev", ("nlohmann/json.hpp",), None, True, "NLOHMANNJSON_ROOT"),
    Package("libssl-dev", ("openssl/sha.h",), "libcrypto.a", False, "LIBCRYPTO_ROOT"),
)


def say(text: str) -> None:
    """Print one progress line; stdout stays free for the caller."""
    print(f"fetch_headers: {text}", file=sys.stderr, flush=True)


def present_under(package: Package, root: Path) -> bool:
    """Tell whether ``root`` (such as /usr) holds the package's header and, where one is needed, its static library."""
    if not any((root / "include" / header).is_file() for header in package.headers):
        return False
    if package.library is None:
        return True
    return any(True for pattern in ("lib", "lib64", "lib/*") for _ in root.glob(f"{pattern}/{package.library}"))


def provided_by(package: Package) -> Path | None:
    """Return the root that already provides the package: the user's own variable first, then the system."""
    own = os.environ.get(package.root_variable)
    if own:
        root = Path(own)
        if present_under(package, root) or any((root / header).is_file() for header in package.headers):
            return root
        raise FetchError(
            f"{package.root_variable} is {own}, expected a folder with include/{package.headers[0]}"
            f"{f' and lib/{package.library}' if package.library else ''}; correct or unset it"
        )
    return next((root for root in SYSTEM_ROOTS if present_under(package, root)), None)


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command and return its stdout; raise :class:`FetchError` with the last lines of its output."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise FetchError(f"{Path(command[0]).name} ended with status {done.returncode}:\n  {tail}")
    return done.stdout


def os_release() -> dict[str, str]:
    """Read /etc/os-release."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines) if key}


def family(release: dict[str, str]) -> str:
    """Return ``debian`` or ``ubuntu``, also for systems derived from them."""
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    for name in ("ubuntu", "debian"):
        if name in names:
            return name
    raise FetchError(
        f"the system is {release.get('ID', 'unknown')}, expected Debian or Ubuntu; install the packages by your own "
        f"package manager and set {', '.join(p.root_variable for p in PACKAGES)} where they are not in /usr"
    )


@dataclass(frozen=True)
class Source:
    """One line of apt sources: where, which suite, which components."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self, keyring: Path | None) -> str:
        """Return the line for a sources.list; without a keyring apt falls back on the keys it trusts anyway."""
        option = f"[signed-by={keyring}] " if keyring else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}\n"


def configured_sources(codename: str) -> list[Source]:
    """Ask apt which mirrors and suites the machine uses, and keep those of the distribution itself.

    apt parses both of its own source formats; ``--no-release-info`` makes it list targets never downloaded yet.
    """
    listing = run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
         "Identifier: Packages"]
    )  # fmt: skip
    components: dict[tuple[str, str], dict[str, None]] = {}
    for row in listing.split():
        uri, suite, component = row.split("|")
        if suite == codename or suite.startswith(f"{codename}-") or suite.split("-")[0] in SUITE_ALIASES:
            components.setdefault((uri, suite), {})[component] = None
    sources = [Source(uri, suite, tuple(names)) for (uri, suite), names in components.items()]
    if not sources:
        raise FetchError(
            f"apt's configuration is without a source for {codename or 'this release'}, expected the distribution's "
            "own mirror; restore /etc/apt/sources.list.d (or sources.list)"
        )
    return sources


def newer_sources(os_family: str, own: list[Source], codename: str) -> Iterator[list[Source]]:
    """Yield the same mirror under newer suites, for packages of which only the headers are used."""
    main = next((s for s in own if s.suite == codename), own[0])
    suites = list(NEWER_SUITES[os_family])
    table = Path("/usr/share/distro-info/ubuntu.csv")
    if os_family == "ubuntu" and table.is_file():
        with table.open(newline="", encoding="utf-8") as rows:
            order = [row["series"] for row in csv.DictReader(rows)]
        newer = order[order.index(codename) + 1 :] if codename in order else []
        suites = [*reversed(newer), "devel"]
    for suite in suites:
        if all(suite != s.suite for s in own):
            yield [Source(main.uri, suite, main.components)]


class Apt:
    """A private apt: its own sources, lists and cache under one folder, the machine's keyring and proxy settings."""

    def __init__(self, folder: Path, sources: list[Source], keyring: Path | None, architecture: str) -> None:
        """Write the configuration; nothing is downloaded before :meth:`update`."""
        self.folder = folder.resolve()
        for part in ("lists/partial", "cache/archives/partial", "etc", "download"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        listing = self.folder / "etc/sources.list"
        listing.write_text("".join(source.line(keyring) for source in sources), encoding="utf-8")
        # Hooks of the machine (cache cleaners, desktop notifiers) are about its own apt, not about this one.
        settings = (
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n#clear APT::Architectures;\n"
            f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
            'Acquire::Languages "none";\nAcquire::Retries "3";\n'
            f'Dir::Etc::sourcelist "{listing}";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{self.folder}/lists";\nDir::State::status "{self.folder}/status";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            # Without this, root's apt drops to a user who may not read the build folder.
            'APT::Sandbox::User "root";\n'
        )
        self.config = self.folder / "etc/apt.conf"
        self.config.write_text(settings, encoding="utf-8")

    def update(self) -> None:
        """Fetch and check the package lists."""
        run(["apt-get", "--config-file", str(self.config), "--error-on=any", "update"])

    def offers(self, name: str) -> bool:
        """Tell whether these sources carry the package."""
        shown = run(["apt-cache", "--config-file", str(self.config), "policy", name])
        return "Candidate:" in shown and "Candidate: (none)" not in shown

    def unpack(self, name: str, target: Path, suite: str, architecture: str) -> str:
        """Download a package and unpack it to ``target``, which appears whole or not at all. Returns its version."""
        download = self.folder / "download" / name
        shutil.rmtree(download, ignore_errors=True)
        download.mkdir(parents=True)
        run(["apt-get", "--config-file", str(self.config), "download", name], cwd=download)
        archive = next(download.glob("*.deb"))
        version = run(["dpkg-deb", "--field", str(archive), "Version"]).strip()
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
            partial = Path(scratch) / "package"
            run(["dpkg-deb", "--extract", str(archive), str(partial)])
            stamp = {"package": name, "version": version, "suite": suite, "architecture": architecture}
            (partial / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        return version


def already_fetched(package: Package, target: Path, architecture: str | None) -> bool:
    """Tell whether ``target`` holds a complete earlier download for this architecture."""
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = architecture is None or stamp.get("architecture") == architecture
    return same and present_under(package, target / "usr")


def fetch(packages: list[Package], deps: Path, architecture: str) -> None:
    """Download ``packages`` into ``deps/<package>``: from the machine's suites, or newer ones where that is safe."""
    release = os_release()
    os_family = family(release)
    codename = release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME") or "sid"
    ring = Path(f"/usr/share/keyrings/{os_family}-archive-keyring.gpg")
    keyring = ring if ring.is_file() else None
    own = configured_sources(codename)
    deps.mkdir(parents=True, exist_ok=True)
    waiting = {package.name: package for package in packages}
    refused: list[str] = []
    with tempfile.TemporaryDirectory(dir=deps, prefix=".apt-") as scratch:
        for number, sources in enumerate([own, *newer_sources(os_family, own, codename)]):
            wanted = [p for p in waiting.values() if number == 0 or p.any_suite]
            if not wanted:
                break
            suite = codename if number == 0 else sources[0].suite
            apt = Apt(Path(scratch) / suite, sources, keyring, architecture)
            say(f"reading the package lists of {suite}")
            try:
                apt.update()
            except FetchError as error:
                if number == 0:
                    raise FetchError(
                        f"the mirror's index of {suite} is not readable, expected a signed package list; check the "
                        f"network, the proxy and the apt sources of this machine. {error}"
                    ) from error
                refused.append(suite)
                continue
            for package in wanted:
                if apt.offers(package.name):
                    say(f"downloading {package.name} from {suite}")
                    version = apt.unpack(package.name, deps / package.name, suite, architecture)
                    say(f"{package.name} {version} is in {deps / package.name}")
                    del waiting[package.name]
    for package in waiting.values():
        tried = f" (not readable: {', '.join(refused)})" if refused else ""
        raise FetchError(
            f"{package.name} is in no suite of the configured mirror{tried}, expected at least one; install it by hand "
            f"and set {package.root_variable} to the folder that holds its include/"
        )


def tools_present() -> None:
    """Refuse early, with a remedy, where apt or dpkg do not exist."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(
                f"{tool} is missing, expected a Debian or Ubuntu system; install the libraries by your own package "
                f"manager and set {', '.join(p.root_variable for p in PACKAGES)} where they are not in /usr"
            )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--build-dir", type=Path, default=Path("build"), help="packages go to BUILD_DIR/deps")
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PACKAGES], help="just these packages")
    parser.add_argument("--arch", help="Debian architecture to build for, such as arm64 (default: this machine's)")
    parser.add_argument("--always", action="store_true", help="fetch even what the system already has")
    options = parser.parse_args(arguments)
    deps: Path = options.build_dir / "deps"
    try:
        missing = []
        for package in PACKAGES:
            if options.only and package.name not in options.only:
                continue
            # The system's libraries are for the system's architecture, so a cross build takes none of them.
            root = None if options.always or options.arch else provided_by(package)
            if root is not None:
                say(f"{package.name} is provided by {root}")
            elif already_fetched(package, deps / package.name, options.arch):
                say(f"{package.name} is in {deps / package.name}")
            else:
                missing.append(package)
        if missing:
            tools_present()
            architecture = options.arch or run(["dpkg", "--print-architecture"]).strip()
            fetch(missing, deps, architecture)
    except FetchError as error:
        print(f"fetch_headers: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
