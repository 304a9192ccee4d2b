"""The job's cgroup: made before the container, its parent, its limits, and what ends it."""
