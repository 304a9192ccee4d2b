"""``pbsdock why``: what became of a job, on one screen. It imports little: a person waits for it."""
