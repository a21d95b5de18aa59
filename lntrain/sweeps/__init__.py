"""Many runs: the sweeper, batches, clusters, the table and the report of a sweep."""
