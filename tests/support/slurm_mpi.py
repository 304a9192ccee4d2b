"""The host's own Open MPI in containers: a program, an image with the host's programs, and what a site has to allow for it."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import HOST_IMAGE, USERS

MPI_IMAGE = f"-v /usr:/usr:ro -v /etc/alternatives:/etc/alternatives:ro {HOST_IMAGE}"
needs_mpi = pytest.mark.skipif(
    shutil.which("mpicc") is None, reason="needs Debian's openmpi-bin and libopenmpi-dev (tests/setup.sh)"
)
_PROGRAM = """
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
	int rank, size, sum = 0;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	printf("rank %d of %d, sum %d, %s\\n", rank, size, sum, access("/etc/debian_version", F_OK) ? "image" : "host");
	return MPI_Finalize();
}
"""


def mpi_program() -> Path:
    """It prints a line for each rank, with the sum of all."""
    program = Path(pwd.getpwnam(USERS[0]).pw_dir) / "hello-mpi"
    subprocess.run(["mpicc", "-x", "c", "-", "-o", str(program)], input=_PROGRAM, text=True, check=True)
    return program


def with_hosts_mpi(config: str) -> str:
    """A configuration under which MPI_IMAGE may be had."""
    return config.replace("\n[mounts]\n", '\n[mounts]\nallow = ["/usr", "/etc/alternatives"]\n')
