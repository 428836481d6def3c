"""Where classes, tenants and pools come from (files, Kubernetes), and what a valid set of them is."""
