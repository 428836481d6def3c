"""Who may talk: keys of tenants and engines, TLS, and their renewal while serving."""
