"""Connections to engines and the exchanges on them."""
