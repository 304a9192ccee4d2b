"""The containers that jobs start by themselves with the ``docker`` client they are given: children.

A child is decided by the same policy as a ``#DOCKER`` line, lives in its job's cgroup, is written down before it is
made (:mod:`pbsdock.agent.child_book`) and goes with its job.
"""
