"""Containers: what each one is made from, and the engine that makes it."""
