"""The attacks, one module a group."""

GROUPS = ("files", "network", "processes", "resources", "output", "images", "secrets")
