"""Which job goes where, and why one waits: pure functions over plain values.

No Django, no Redis, no clock but a parameter. `jobs/snapshot.py` makes the values from the database's rows.
"""
