"""svcframework: async-first dependency injection and services."""
