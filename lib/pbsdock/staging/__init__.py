"""Copying between an object store and a job's directories: the worker, which is the job's user from its first byte on.

The worker is forked by the :mod:`spawner <pbsdock.staging.spawner>`, which has the libraries loaded, and takes one
:class:`~pbsdock.staging.order.Order` from the agent. Requests, signatures, connections and their repetition are
botocore's; what is here is what no transfer library at hand does: it goes on where an interrupted one stopped, has each
part's checksum verified at both ends, and gives a file its name only when it is whole. (s3transfer, boto3's own, begins
anew after a restart, sends no Content-MD5 and does not tell the ETag of what it has fetched.)
"""
