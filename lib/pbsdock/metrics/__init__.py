"""What a monitoring system is told of this node: the register of metrics, and how they are counted and handed over."""
