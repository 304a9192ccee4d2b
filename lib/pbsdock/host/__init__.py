"""The kernel: mounts, processes, system calls, cgroups."""
