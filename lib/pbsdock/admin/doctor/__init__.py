"""What is wrong with a node, and proofs that something is right."""
