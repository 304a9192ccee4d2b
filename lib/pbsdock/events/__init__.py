"""The events the agent tells of: their register, their stream, and how they are shown."""
