"""The ``docker`` commands of jobs, carried out: whose job it is, what the client is to do, what becomes of its children
(:mod:`pbsdock.agent.children`). How a command line is read is :mod:`pbsdock.shim`.
"""
