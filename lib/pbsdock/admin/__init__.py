"""What administrators do with an instance."""
