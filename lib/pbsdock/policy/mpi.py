"""What makes an ordinary mpirun work across the nodes of a job: variables that its launcher reads. Pure.

Each is set only where neither the user nor the image has set it, or another that says the same, and where the script
does not name it: Open MPI ends where an interface list to include and another to exclude are given, even where one is
an option and the other a variable (observed). On the first node alone, where launchers run: they pass on what they have
read, and what a sister's processes find besides would come between.

Names are those of Open MPI 4.1 (ompi_info), Open MPI 5.0 with PRRTE 3 (prte_info), MPICH 4 (Hydra) and Intel MPI 2021.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

_LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the defaults depend on.

    ``agent`` is what takes the place of a remote shell, ``node_file`` the path of the list of hosts, a line for each
    slot, ``host_file`` that of the same with the number of slots beside each host (see :func:`host_lines`),
    ``virtual_interfaces`` lead to no other node; ``copies_between_processes``: whether a process may read another's
    memory (process_vm_readv(2)); ``has_own_cpus``: whether no other job uses this job's.
    """

    agent: str
    node_file: str
    host_file: str
    virtual_interfaces: tuple[str, ...]
    copies_between_processes: bool
    has_own_cpus: bool


@dataclass(frozen=True, slots=True)
class Default:
    """A variable, its value ("": not set), and the others by which it is a user's own choice already."""

    name: str
    value: str
    unless: tuple[str, ...] = ()


def table(setting: Setting) -> tuple[Default, ...]:
    """All of them. Pure."""
    no_tcp = ",".join((_LOOPBACK, *setting.virtual_interfaces))
    free = "" if setting.has_own_cpus else "none"
    single_copy = "" if setting.copies_between_processes else "none"
    return (
        # Open MPI 4: ORTE
        Default(
            "OMPI_MCA_plm_rsh_agent",
            setting.agent,
            ("OMPI_MCA_orte_rsh_agent", "OMPI_MCA_plm", "OMPI_MCA_pls_rsh_agent"),
        ),
        # Only the first node can start tasks: no daemon is to start another.
        Default("OMPI_MCA_plm_rsh_no_tree_spawn", "1"),
        # A daemon that leaves its session is neither counted nor ended by mom.
        Default("OMPI_MCA_orte_leave_session_attached", "1"),
        Default("OMPI_MCA_orte_default_hostfile", setting.host_file),
        Default("OMPI_MCA_oob_tcp_if_exclude", no_tcp, ("OMPI_MCA_oob_tcp_if_include",)),
        Default("OMPI_MCA_btl_vader_single_copy_mechanism", single_copy),
        # Else rank 0 of every job is bound to the node's first core.
        Default("OMPI_MCA_hwloc_base_binding_policy", free, ("OMPI_MCA_rmaps_base_mapping_policy",)),
        # Open MPI 4 and 5: what processes use among themselves
        Default("OMPI_MCA_btl_tcp_if_exclude", no_tcp, ("OMPI_MCA_btl_tcp_if_include",)),
        # Open MPI 5: PRRTE, whose daemons leave their session whatever a variable says (only an option keeps them)
        Default("PRTE_MCA_plm_ssh_agent", setting.agent, ("PRTE_MCA_prte_ssh_agent", "PRTE_MCA_plm")),
        Default("PRTE_MCA_plm_ssh_no_tree_spawn", "1"),
        Default("PRTE_MCA_prte_default_hostfile", setting.host_file),
        Default("PRTE_MCA_prte_if_exclude", no_tcp, ("PRTE_MCA_prte_if_include", "PRTE_MCA_oob_tcp_if_include")),
        Default("PRTE_MCA_hwloc_default_binding_policy", free),
        Default("OMPI_MCA_smsc", "" if setting.copies_between_processes else "^cma"),
        # MPICH: Hydra
        Default("HYDRA_LAUNCHER", "rsh", ("HYDRA_BOOTSTRAP",)),
        Default("HYDRA_LAUNCHER_EXEC", setting.agent, ("HYDRA_BOOTSTRAP_EXEC", "HYDRA_LAUNCHER", "HYDRA_BOOTSTRAP")),
        Default("HYDRA_HOST_FILE", setting.node_file),
        # Intel MPI: its own Hydra
        Default("I_MPI_HYDRA_BOOTSTRAP", "rsh"),
        Default("I_MPI_HYDRA_BOOTSTRAP_EXEC", setting.agent, ("I_MPI_HYDRA_BOOTSTRAP",)),
        Default("I_MPI_HYDRA_HOST_FILE", setting.node_file),
        Default("I_MPI_PIN", "" if setting.has_own_cpus else "off", ("I_MPI_PIN_DOMAIN", "I_MPI_PIN_PROCESSOR_LIST")),
    )


def host_lines(hosts: Sequence[str], slots: Sequence[int]) -> str:
    """A host file of Open MPI's. A host that the node file has but once would count for as many slots as it has cores
    (observed with 4.1). Pure."""
    return "".join(f"{host} slots={count}\n" for host, count in zip(hosts, slots, strict=True))


def mentioned(script: bytes) -> tuple[str, ...]:
    """The variables, or options that say the same, that a script names anywhere. Pure."""
    return tuple(name for name in sorted(_NAMES) if name.rpartition("_MCA_")[2].encode() in script)


def defaults(setting: Setting, own: Collection[str]) -> dict[str, str]:
    """The variables to add to those of which the job has set, or named, its *own*. Pure."""
    return {
        default.name: default.value
        for default in table(setting)
        if default.value and not any(name in own for name in (default.name, *default.unless))
    }


_NAMES = {
    name
    for default in table(
        Setting(
            agent="",
            node_file="",
            host_file="",
            virtual_interfaces=(),
            copies_between_processes=False,
            has_own_cpus=False,
        )
    )
    for name in (default.name, *default.unless)
    if name.rpartition("_MCA_")[2] not in ("plm", "smsc")  # parts of other words
}
