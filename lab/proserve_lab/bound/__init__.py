"""An upper bound on the gain that any scheduler could have earned on a workload, clairvoyant ones included."""
