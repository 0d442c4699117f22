"""The release of Airflow, which takes minutes to build.

What one layer of the tests has built, others use, and so do later runs of the same recipe.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path
from tarfile import TarFile
from tempfile import TemporaryFile

from docker.models.containers import Container

from plainpillar import ROOT

_RECIPE = (
    "airflow/files/requirements.txt",
    "airflow/files/build_release.py",
    "_modules/airflow.py",
)
_BUILT = "/srv/stack/archives/airflow-releases"  # on the machine that has built it


def folder() -> Path:
    """Return the folder of the archives of this recipe, which may not exist."""
    recipe = sha256()
    for name in _RECIPE:
        recipe.update((ROOT / "salt" / name).read_bytes())
    return ROOT / ".stack" / "test-archives" / recipe.hexdigest()[:12]


def is_kept() -> bool:
    """Return whether the release of this recipe was built before."""
    return any(folder().glob("airflow-releases/*.sha256"))


def keep(machine: Container) -> None:
    """Keep what a machine has built, in the place of what other recipes have made."""
    shutil.rmtree(folder().parent, ignore_errors=True)
    fresh = folder().with_suffix(".new")
    fresh.mkdir(parents=True)
    chunks, _ = machine.get_archive(_BUILT)
    with TemporaryFile() as packed:
        packed.writelines(chunks)
        packed.seek(0)
        with TarFile(fileobj=packed) as tar:
            tar.extractall(fresh, filter="data")
    fresh.rename(folder())
