"""What every part may know: plans, records, errors, paths."""
