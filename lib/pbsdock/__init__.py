"""Run batch jobs in Docker containers: hooks, agent, ledger and reaper."""
