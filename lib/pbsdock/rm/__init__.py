"""Resource managers: what they say of a job."""
