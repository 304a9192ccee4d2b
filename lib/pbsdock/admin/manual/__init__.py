"""Manual pages and shell completion, made from the parsers of the commands when a version or a package is made."""
