"""The one root process per node that holds the libraries, the engine connection and the ledger."""
