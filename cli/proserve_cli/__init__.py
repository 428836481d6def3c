"""The `proserve` command."""
