"""For tests that compare with packages from PyPI: skips, and a virtual environment that has them."""

import os
import pathlib
import subprocess
import sys
import tempfile
import venv

SKIPPED = 77  # which ctest shows as skipped


def skip(why: str) -> None:
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def enter(name: str, *packages: str) -> None:
    """Comes back in the interpreter of a virtual environment that has the packages.

    FIREQ_TEST_VENV names an environment to make or to use again; without it each run makes one.
    """
    if os.environ.get("FIREQ_IN_VENV") == "1":
        return
    directory = pathlib.Path(os.environ.get("FIREQ_TEST_VENV") or tempfile.mkdtemp(prefix=f"fireq_{name}_"))
    python = directory / "bin/python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    os.execve(python, [str(python), *sys.argv], os.environ | {"FIREQ_IN_VENV": "1"})
