"""Object-store credentials that live as long as a job: minted, delivered, refreshed, revoked."""
