"""A search for workloads on which another policy earns more than ours: where a policy fails is found, not guessed."""
