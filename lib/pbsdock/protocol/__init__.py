"""What both ends of the agent's socket speak."""
