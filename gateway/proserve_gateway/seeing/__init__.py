"""What happened: accounts of gain, decisions, records, traces."""
