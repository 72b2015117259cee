"""Audits: whether a trajectory is whole, and whether its code gives what it shows."""
