"""Reading from replicas, as long as they are fresh enough."""
