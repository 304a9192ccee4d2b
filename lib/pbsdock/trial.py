"""Placeholder while the stand-in is written."""
