"""The distribution's packages, where we may install them."""

import os
import shutil
import subprocess
from pathlib import Path

from script.console import Problem

APT_INSTALL = Path(__file__).parent / "apt-install"


def can_install() -> bool:
    """Whether this is Debian or Ubuntu and we are root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*packages: str) -> None:
    """Installs those that are missing. Raises Problem where that fails."""
    if subprocess.run([APT_INSTALL, *packages]).returncode != 0:
        raise Problem(f"{' '.join(packages)} could not be installed; the lines above say why.")
