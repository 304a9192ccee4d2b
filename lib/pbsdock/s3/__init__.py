"""Names, policies and environments of object stores. Pure."""
