"""One virtual environment for each peer, made once, so that no peer's pins can disturb another's.

They live in `benchmarks/.environments/<name>` (a folder that ignores itself in git). A marker holds
a hash of the requirements: an environment is left alone while they stay the same and made anew when
they change. A peer that cannot be installed is reported, which is not fatal.

    python benchmarks/speed/environments.py [NAME ...]
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".environments"
MARKER = "requirements.sha256"
INSTALL_SECONDS = 1200


@dataclass(frozen=True)
class Environment:
    """A set of pinned packages; `options` are passed to pip."""

    name: str
    options: tuple[str, ...] = ()

    @property
    def requirements(self) -> Path:
        return HERE / "peers" / f"requirements-{self.name}.txt"

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self.folder.joinpath(*inside)

    def fingerprint(self) -> str:
        parts = [self.requirements.read_text(), " ".join(self.options), sys.version]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def ready(self) -> bool:
        marker = self.folder / MARKER
        return marker.exists() and marker.read_text() == self.fingerprint() and self.python.exists()


# pcx 0.6.3 asks for jax < 0.5. `pcx-newest` is the same release on the newest JAX for Python 3.11,
# outside its declared bounds but giving the same numbers: without it, part of any lead over pcx
# would only be the age of the compiler it is held to.
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("numpy"),
        Environment("pcx"),
        Environment("pcx-newest", ("--no-deps",)),
        Environment("fabricpc"),
        Environment("ngclearn"),
        Environment("torch"),
        Environment("rl"),
    )
}


def _install(environment: Environment) -> None:
    shutil.rmtree(environment.folder, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    venv.create(environment.folder, with_pip=True)
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--no-input"]
    command = [*pip, *environment.options, "-r", str(environment.requirements)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    (environment.folder / MARKER).write_text(environment.fingerprint())


def ensure(name: str) -> tuple[Path | None, str]:
    """The interpreter of a peer's environment, or None and the reason there is none."""
    environment = ENVIRONMENTS[name]
    if environment.ready():
        return environment.python, ""
    print(f"making the environment of {name} ...", file=sys.stderr, flush=True)
    try:
        _install(environment)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "no output").strip().splitlines()
        wrong = [line for line in lines if "ERROR" in line] or lines
        return None, f"pip could not install it: {wrong[-1]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"the environment could not be made: {error}"
    return environment.python, ""


def main() -> None:
    names = sys.argv[1:] or list(ENVIRONMENTS)
    for name in names:
        if name not in ENVIRONMENTS:
            sys.exit(f"no environment named {name!r}; choose from {', '.join(ENVIRONMENTS)}")
        python, reason = ensure(name)
        print(f"{name}: {python or 'skipped, ' + reason}")


if __name__ == "__main__":
    main()
