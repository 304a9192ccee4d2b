"""The checks of ``pbsdock doctor``."""
