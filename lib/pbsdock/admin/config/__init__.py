"""``pbsdock config`` and ``pbsdock reload``."""
