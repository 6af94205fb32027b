"""Pub/sub for svcframework: in memory, on Redis, PostgreSQL, Redis Streams or NATS, with one API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_pubsub.client import PubSubClient
    from svcframework_pubsub.config import PubSubConfig
    from svcframework_pubsub.default import create_pubsub_client, get_default_client, set_default_client
    from svcframework_pubsub.errors import (
        ChannelNameError,
        MalformedMessageError,
        MessageEncodingError,
        MessageLostError,
        MessageTooLargeError,
        PubSubError,
        SubscriptionOverflowError,
        UnsupportedError,
    )
    from svcframework_pubsub.message import Message
    from svcframework_pubsub.service import PubSubService
    from svcframework_pubsub.subscription import CallbackSubscription, Subscription, SubscriptionStatistics
    from svcframework_pubsub.typed import Channel

__all__ = [
    "CallbackSubscription",
    "Channel",
    "ChannelNameError",
    "MalformedMessageError",
    "Message",
    "MessageEncodingError",
    "MessageLostError",
    "MessageTooLargeError",
    "PubSubClient",
    "PubSubConfig",
    "PubSubError",
    "PubSubService",
    "Subscription",
    "SubscriptionOverflowError",
    "SubscriptionStatistics",
    "UnsupportedError",
    "create_pubsub_client",
    "get_default_client",
    "set_default_client",
]

_HOME = {
    "CallbackSubscription": "subscription",
    "Channel": "typed",
    "ChannelNameError": "errors",
    "MalformedMessageError": "errors",
    "Message": "message",
    "MessageEncodingError": "errors",
    "MessageLostError": "errors",
    "MessageTooLargeError": "errors",
    "PubSubClient": "client",
    "PubSubConfig": "config",
    "PubSubError": "errors",
    "PubSubService": "service",
    "Subscription": "subscription",
    "SubscriptionOverflowError": "errors",
    "SubscriptionStatistics": "subscription",
    "UnsupportedError": "errors",
    "create_pubsub_client": "default",
    "get_default_client": "default",
    "set_default_client": "default",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
