"""What the agents of a cluster's nodes tell each other, signed."""
