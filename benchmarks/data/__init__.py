"""What the data plane costs: PostgreSQL, Redis, publish and subscribe, caches; on real servers."""
