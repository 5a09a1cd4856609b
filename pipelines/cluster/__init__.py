"""Ray: the session, and progress across its processes."""
