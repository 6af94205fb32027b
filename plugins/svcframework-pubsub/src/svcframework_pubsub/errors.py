"""What can go wrong with a message, beyond what can go wrong with a server. Each keeps its data."""

from __future__ import annotations

from svcframework.errors import ServiceFrameworkError


class PubSubError(ServiceFrameworkError):
    """The root of this plugin's own errors; trouble with a server is `ConnectionFailedError` and its like."""


class ChannelNameError(PubSubError, ValueError):
    """A channel or pattern has a name that not every backend can carry."""

    def __init__(self, name: object, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{str(name)[:80]!r} can't be a channel: {reason}.")


class MessageEncodingError(PubSubError, TypeError):
    """A message has no form in JSON."""

    def __init__(self, channel: str, reason: str) -> None:
        self.channel = channel
        super().__init__(f"A message for {channel!r} can't be written as JSON: {reason}. Convert it first.")


class MessageTooLargeError(PubSubError, ValueError):
    """A message is longer than `max_message_bytes`."""

    def __init__(self, channel: str, size: int, limit: int) -> None:
        self.channel, self.size, self.limit = channel, size, limit
        super().__init__(
            f"A message for {channel!r} has {size} bytes, more than {limit}: raise `max_message_bytes`, or store it "
            "elsewhere and publish where it is."
        )


class MalformedMessageError(PubSubError, ValueError):
    """A message does not fit the model of its channel; `on_error` is handed it, the subscription goes on."""

    def __init__(self, channel: str, model: str, reason: str) -> None:
        self.channel, self.model = channel, model
        super().__init__(f"A message on {channel!r} is no {model}: {reason}")


class MessageLostError(PubSubError):
    """A message was announced and is no longer there."""

    def __init__(self, channel: str, reason: str) -> None:
        self.channel = channel
        super().__init__(f"A message on {channel!r} is lost: {reason}.")


class SubscriptionOverflowError(PubSubError):
    """A subscriber was too slow: `limit` messages waited, and its overflow policy is to raise."""

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit = name, limit
        super().__init__(
            f"{limit} messages wait for the subscriber of {name} and one more came: read faster, raise `queue_size`, or "
            "subscribe with overflow='drop_oldest' or 'block'."
        )


class UnsupportedError(PubSubError):
    """The backend can't do that."""

    def __init__(self, backend: str, what: str, fix: str) -> None:
        self.backend, self.what = backend, what
        super().__init__(f"{what} isn't possible on the backend {backend!r}: {fix}.")
