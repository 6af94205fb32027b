"""Channel: a channel whose messages are all of one type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from svcframework_pubsub.collaborators import Transaction
    from svcframework_pubsub.service import PubSubService
    from svcframework_pubsub.subscription import Callback, CallbackSubscription, Subscription

T = TypeVar("T")


class Channel(Generic[T]):
    """Publishes and receives messages of one type; from `PubSubService.channel`. Lives as long as you like.

    A message that doesn't fit the type reaches no reader: it is counted, logged now and then, and told to `on_error`.
    """

    def __init__(self, pubsub: PubSubService, name: str, model: type[T], *, schema_version: int) -> None:
        self._pubsub, self.name, self.model, self.schema_version = pubsub, name, model, schema_version

    async def publish(self, message: T, *, transaction: Transaction | None = None) -> bool:
        """As `PubSubService.publish`."""
        return await self._pubsub.publish(
            self.name, message, transaction=transaction, schema_version=self.schema_version
        )

    async def publish_many(self, messages: Iterable[T], *, transaction: Transaction | None = None) -> int:
        """As `PubSubService.publish_many`."""
        return await self._pubsub.publish_many(
            self.name, messages, transaction=transaction, schema_version=self.schema_version
        )

    def subscribe(self, **terms: Any) -> Subscription[T]:
        """As `PubSubService.subscribe`; each payload is an instance of the type."""
        return cast("Subscription[T]", self._pubsub.subscribe(self.name, model=self.model, **terms))

    async def on(self, callback: Callback[T], **terms: Any) -> CallbackSubscription[T]:
        """As `PubSubService.on`; each payload is an instance of the type."""
        return await self._pubsub.on(self.name, callback, model=self.model, **terms)

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} of {getattr(self.model, '__name__', self.model)}>"
