"""The program on each node: runs attempts in Docker and talks to the scheduler through Redis alone.

It imports nothing of the server, so a node needs only `agent/requirements.txt`.
"""

__version__ = "0.1.0"
