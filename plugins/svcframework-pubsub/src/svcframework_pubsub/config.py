"""PubSubConfig: which backend carries the messages, how long anything may take, and how much is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from svcframework.config import ServiceConfig

BackendName = Literal["memory", "redis", "postgres", "nats"]
Overflow = Literal["block", "drop_oldest", "raise"]


class PubSubConfig(ServiceConfig, prefix="pubsub"):
    """Settings of a `PubSubService`. Frozen."""

    backend: BackendName = Field(
        default="postgres",
        validation_alias=AliasChoices("PUBSUB_BACKEND"),
        description="What carries the messages: memory (this process only), redis, postgres or nats.",
    )
    url: SecretStr | None = Field(
        default=None,
        description="The server's address, when no service is given; else that of the section `redis` or `database`.",
    )
    fallback: Literal["none", "postgres"] = Field(
        default="none", description="What carries messages while Redis is away; subscribers then listen on both."
    )
    fallback_url: SecretStr | None = Field(
        default=None, description="Address of the fallback's server, when no service is given; else the section's."
    )
    timeout: float = Field(default=5.0, gt=0, description="Seconds a publish or subscribe may take, waiting included.")
    queue_size: int = Field(default=10_000, gt=0, description="Messages that wait for one subscriber at most.")
    overflow: Overflow = Field(
        default="raise",
        description="What a full queue does: block (stop reading), drop_oldest, or raise in the subscriber.",
    )
    max_message_bytes: int = Field(default=1_048_576, gt=0, description="Bytes of the longest message, envelope and all.")
    heartbeat_interval: float = Field(default=2.0, gt=0, description="Seconds between two proofs that we still hear.")
    heartbeat_timeout: float = Field(default=2.0, gt=0, description="Seconds until a silent server counts as lost.")
    connect_timeout: float = Field(default=2.0, gt=0, description="Seconds one attempt to connect may take.")
    reconnect_delay: float = Field(default=0.03, gt=0, description="Seconds between two attempts to connect again.")
    drain_timeout: float = Field(default=2.0, ge=0, description="Seconds that callbacks have at a stop to catch up.")
    dedup_window: int = Field(
        default=4096, ge=0, description="Ids remembered per channel, where a message may come twice; 0 for none."
    )
    payload_retention: float = Field(
        default=3600.0, gt=0, description="Seconds a payload too long for NOTIFY is kept in its table."
    )
    outbox_interval: float = Field(
        default=1.0, gt=0, description="Seconds between two looks into the outbox, when nothing rings."
    )
    outbox_batch: int = Field(default=200, gt=0, description="Messages that the relay takes from the outbox at a time.")
    durable_channels: tuple[str, ...] = Field(
        default=(), description="Patterns of channels whose messages are kept for groups as well as sent."
    )
    stream_max_length: int = Field(default=100_000, gt=0, description="Messages kept per durable channel, about.")
    claim_after: float = Field(
        default=30.0, gt=0, description="Seconds without an ack after which a message goes to another consumer."
    )
    max_deliveries: int = Field(default=5, gt=0, description="Deliveries without an ack before a message is dead.")
