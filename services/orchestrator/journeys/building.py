"""The room put together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc

from chassis.bus import Consumer
from chassis.db import Database
from services.orchestrator.arbiter.proposing import propose
from services.orchestrator.experiments.handlers import Laboratory
from services.orchestrator.journeys import consuming
from services.orchestrator.journeys.asking import PersonTags, Questions
from services.orchestrator.journeys.checking import Checker
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.handlers import Room
from services.orchestrator.journeys.referral import Households, Referrals, Terms
from services.orchestrator.journeys.running import Shelf
from services.orchestrator.journeys.working import Worker
from services.orchestrator.peers import ZONE_TAG, Scoring, Tags
from services.orchestrator.settings import Settings


class Journeys:
    """What the composition root serves, runs and consumes."""

    def __init__(
        self,
        database: Database,
        channel: grpc.aio.Channel,
        laboratory: Laboratory,
        tags: Tags,
        scoring: Scoring,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`channel` leads to tags."""
        self._tags = PersonTags(channel)
        asking = Questions(database, self._tags, laboratory, ZONE_TAG)
        self.house = House(database, Shelf(), propose, asking, settings.zone(), True, now)
        checker = Checker(database, tags, self._tags, scoring)
        self.room = Room(self.house, checker, tags, self._tags, settings.theme_approvers)
        terms = Terms(
            settings.referral_event,
            settings.referrer_credit_fen,
            settings.referred_credit_fen,
            settings.referral_cap,
            timedelta(days=settings.referral_window_days),
            settings.referral_per_device,
        )
        key = settings.referral_device_key.get_secret_value().encode()
        self.referrals = Referrals(self.house, Households(channel), terms, key)

    def consumers(self) -> list[Consumer]:
        """What journeys listen to."""
        return consuming.consumers(self.house, self.referrals)

    def workers(self, count: int) -> list[Worker]:
        """Side by side they share what is due."""
        return [Worker(self.house, self._tags) for _ in range(count)]
