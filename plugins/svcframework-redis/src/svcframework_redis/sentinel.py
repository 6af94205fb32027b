"""SentinelTransport: connections to whichever server the sentinels call the master now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from svcframework_redis.address import Address, Target
from svcframework_redis.config import RedisConfig
from svcframework_redis.connecting import open_link
from svcframework_redis.link import Link, LinkError, LinkLostError, Refusal, pack_all
from svcframework_redis.transport import Transport


class SentinelTransport(Transport):
    """As `Transport`, but each connection begins with the question where the master is.

    A failover is followed without being told: the old master's connections end, or it refuses to write, and the next
    command asks again. Until there is a new master, commands fail with an error that says to try again.
    """

    def __init__(self, config: RedisConfig, target: Target) -> None:
        super().__init__(config, target)
        self._sentinels = list(target.places)  # the one that answered last comes first
        password = config.sentinel_password
        self._greeting = replace(
            target.address,
            database=0,
            username=config.sentinel_username,
            password=None if password is None else password.get_secret_value(),
        )

    async def _welcomed(self, make_link: Callable[[], Link]) -> Link:
        async with asyncio.timeout(self._config.connect_timeout):
            address = await self._find_master()
            link = await self._greeted(address, make_link, self._config.connect_timeout)
            try:
                (role,) = await link.request_many(pack_all([("ROLE",)]), 1)
            except BaseException:
                link.abort()
                raise
            # A sentinel that was cut off may still name the old one. Who may not ask for the role is believed.
            if not isinstance(role, Refusal) and role[0] != b"master":
                link.abort()
                raise LinkLostError(f"{address} is not the master of {self.target.master!r} any more")
            return link

    async def _find_master(self) -> Address:
        """Where the first sentinel that knows says the master is."""
        reasons: list[str] = []
        share = self._config.connect_timeout / (len(self._sentinels) + 1)
        for place in tuple(self._sentinels):
            try:
                found = await self._ask(self._greeting.at(*place), share)
            except Refusal as refusal:
                if refusal.code in {"NOAUTH", "WRONGPASS", "NOPERM"}:
                    raise  # wrong with one, wrong with all
                reasons.append(str(refusal))
            except (LinkError, OSError) as error:
                reasons.append(str(error) or type(error).__name__)
            else:
                if found is not None:
                    self._sentinels.remove(place)
                    self._sentinels.insert(0, place)
                    return self.target.address.at(*found)
                reasons.append(f"{place[0]}:{place[1]} doesn't know it")
        raise LinkLostError(f"no sentinel names the master {self.target.master!r}: {'; '.join(reasons)}")

    async def _ask(self, sentinel: Address, timeout: float) -> tuple[str, int] | None:  # noqa: ASYNC109 - a share
        def make_link() -> Link:
            return Link(timeout=timeout, max_in_flight=1, on_lost=lambda _: None, on_late=lambda _: None)

        async with asyncio.timeout(timeout):
            link = await open_link(sentinel, make_link, name=self._config.client_name, timeout=timeout)
            try:
                question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.target.master)
                (found,) = await link.request_many(pack_all([question]), 1)
            finally:
                link.abort()
        if isinstance(found, Refusal):
            raise found
        return None if found is None else (found[0].decode(), int(found[1]))
