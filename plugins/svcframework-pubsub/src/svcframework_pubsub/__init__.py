"""Counts how often something happened lately."""

from svcframework_pubsub.config import PubsubConfig
from svcframework_pubsub.service import PubsubFullError, PubsubService

__all__ = ["PubsubConfig", "PubsubFullError", "PubsubService"]
