"""Docker's command line, as a job's own ``docker`` understands it: from words to a command, and its output. Pure."""
