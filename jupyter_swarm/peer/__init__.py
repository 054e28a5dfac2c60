"""The kernel's side of a session: recipe, data leases, trainer, and the public Session."""
