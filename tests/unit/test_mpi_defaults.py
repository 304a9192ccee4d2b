"""Which variables an MPI's launcher gets, and which it does not since somebody has chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pbsdock.policy.mpi import Setting, defaults, host_lines, mentioned

_SETTING = Setting(
    agent="/tools/tm-agent",
    node_file="/aux/7.vm",
    host_file="/run/hosts",
    virtual_interfaces=("docker0", "virbr0"),
    copies_between_processes=True,
    has_own_cpus=False,
)


def test_every_host_has_its_slots() -> None:
    """Also one with a single slot."""
    assert host_lines(("n1", "n2"), (1, 3)) == "n1 slots=1\nn2 slots=3\n"


def test_all_of_them() -> None:
    """Nobody has chosen anything."""
    assert defaults(_SETTING, ()) == {
        "OMPI_MCA_plm_rsh_agent": "/tools/tm-agent",
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
        "OMPI_MCA_orte_leave_session_attached": "1",
        "OMPI_MCA_orte_default_hostfile": "/run/hosts",
        "OMPI_MCA_oob_tcp_if_exclude": "127.0.0.0/8,docker0,virbr0",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "OMPI_MCA_btl_tcp_if_exclude": "127.0.0.0/8,docker0,virbr0",
        "PRTE_MCA_plm_ssh_agent": "/tools/tm-agent",
        "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
        "PRTE_MCA_prte_default_hostfile": "/run/hosts",
        "PRTE_MCA_prte_if_exclude": "127.0.0.0/8,docker0,virbr0",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "HYDRA_LAUNCHER": "rsh",
        "HYDRA_LAUNCHER_EXEC": "/tools/tm-agent",
        "HYDRA_HOST_FILE": "/aux/7.vm",
        "I_MPI_HYDRA_BOOTSTRAP": "rsh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": "/tools/tm-agent",
        "I_MPI_HYDRA_HOST_FILE": "/aux/7.vm",
        "I_MPI_PIN": "off",
    }


@pytest.mark.parametrize(
    ("own", "gone"),
    [
        ("HYDRA_LAUNCHER", {"HYDRA_LAUNCHER", "HYDRA_LAUNCHER_EXEC"}),
        ("HYDRA_BOOTSTRAP", {"HYDRA_LAUNCHER", "HYDRA_LAUNCHER_EXEC"}),
        ("OMPI_MCA_btl_tcp_if_include", {"OMPI_MCA_btl_tcp_if_exclude"}),
        ("OMPI_MCA_plm", {"OMPI_MCA_plm_rsh_agent"}),
        ("PRTE_MCA_prte_if_include", {"PRTE_MCA_prte_if_exclude"}),
        ("I_MPI_PIN_DOMAIN", {"I_MPI_PIN"}),
        ("OMP_NUM_THREADS", set()),
    ],
)
def test_what_somebody_has_chosen_stays(own: str, gone: set[str]) -> None:
    """An include list beside our exclude list would end Open MPI."""
    assert set(defaults(_SETTING, ())) - set(defaults(_SETTING, (own,))) == gone


def test_with_cpus_of_its_own_binding_is_the_launchers() -> None:
    """No other job is on them."""
    left = set(defaults(_SETTING, ())) - set(defaults(replace(_SETTING, has_own_cpus=True), ()))

    assert left == {"OMPI_MCA_hwloc_base_binding_policy", "PRTE_MCA_hwloc_default_binding_policy", "I_MPI_PIN"}


def test_where_memory_of_another_process_cannot_be_read() -> None:
    """Else Open MPI fills stderr with every copy that it may not make."""
    found = defaults(replace(_SETTING, copies_between_processes=False), ())

    assert found["OMPI_MCA_btl_vader_single_copy_mechanism"] == "none"
    assert found["OMPI_MCA_smsc"] == "^cma"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (b"mpirun --mca btl_tcp_if_include eth0 a.out", ("OMPI_MCA_btl_tcp_if_include",)),
        (b"export HYDRA_LAUNCHER_EXEC=ssh", ("HYDRA_LAUNCHER", "HYDRA_LAUNCHER_EXEC")),
        (b"mpirun -n 4 --mca plm slurm simple a.out", ()),
        (b"", ()),
    ],
)
def test_what_a_script_names(line: bytes, names: tuple[str, ...]) -> None:
    """As an option too, which has no prefix."""
    assert mentioned(b"#!/bin/sh\n" + line + b"\n") == names
