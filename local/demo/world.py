"""Before anything happens: who may write in, where pushes go, which phones are known to be nobody's own."""

from __future__ import annotations

from typing import Any

from troika.identity.v1.identity_service_pb2 import IdentifierRef, RegisterSharedIdentifiersRequest
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb

from local.demo.operator import Operator
from local.demo.receivers import WECHAT_SECRET, WECHAT_TEMPLATE, WECHAT_TOKEN, Receivers
from local.overlay import WECHAT_APPID, Overlay

DEALER = "dealer:"


async def create_sources(operator: Operator, overlay: Overlay) -> dict[str, str]:
    """Registers every source of the overlay; returns write keys by source."""
    keys = {}
    for name in overlay.sources:
        source = pb.Source(name=name, user_id_kind=pb.USER_ID_KIND_CRM_ID)
        if name.startswith("wechat:"):
            source.user_id_kind, source.appid = pb.USER_ID_KIND_OPENID, WECHAT_APPID
        answer = await operator.ask(operator.touchpoints.CreateSource, pb.CreateSourceRequest(source=source))
        keys[name] = answer.write_key
    return keys


def dealer_codes(overlay: Overlay) -> list[str]:
    """ "D001" and so on."""
    return [name.removeprefix(DEALER) for name in overlay.sources if name.startswith(DEALER)]


async def create_endpoints(operator: Operator, overlay: Overlay, receivers: Receivers) -> tuple[str, dict[str, str]]:
    """Registers where pushes go; returns the app's secret and the dealers' by code."""

    async def create(name: str, channel: pb.Channel.ValueType, url: str, scope: str = "", **particular: Any) -> str:
        endpoint = pb.Endpoint(name=name, channel=channel, url=url, scope=scope, **particular)
        request = pb.CreateEndpointRequest(endpoint=endpoint)
        return (await operator.ask(operator.touchpoints.CreateEndpoint, request)).secret

    app = await create("app", pb.CHANNEL_APP, receivers.url("app_backend") + "/push")
    await create(
        "wechat",
        pb.CHANNEL_WECHAT,
        receivers.url("wechat"),
        WECHAT_APPID,
        settings={"template_id": WECHAT_TEMPLATE},
        secrets={"app_secret": WECHAT_SECRET, "callback_token": WECHAT_TOKEN},
    )
    dealers = {}
    for code in dealer_codes(overlay):
        url = f"{receivers.url('dealer_backend')}/dealers/{code}/leads"
        dealers[code] = await create(f"dealer-{code.lower()}", pb.CHANNEL_DEALER, url, code)
    return app, dealers


async def register_half_of_staff(operator: Operator, overlay: Overlay) -> int:
    """Puts every second advisor's phone on the register; the others must be found out. Returns how many are known."""
    phones = [phone for phones in overlay.truth.staff_phones.values() for phone in phones][::2]
    request = RegisterSharedIdentifiersRequest(
        identifiers=[IdentifierRef(kind="mobile", value=phone) for phone in phones], reason="dealer staff"
    )
    return (await operator.ask(operator.identity.RegisterSharedIdentifiers, request)).registered
