"""What hooks run: the standard library and the protocol alone, and little of the former."""
