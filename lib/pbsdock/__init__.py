"""Run Torque jobs in Docker containers: hooks, agent, ledger and reaper."""
