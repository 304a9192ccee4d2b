"""The #DOCKER line, from its text to what was asked for. Pure."""
