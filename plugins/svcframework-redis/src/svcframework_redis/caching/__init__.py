"""Caching: values by key with a time to live, in Redis and in this process."""
