"""What endpoints of WeChat accounts have in common: their fields."""

from __future__ import annotations

from services.touchpoints.channels.forms import CODE, Field
from services.touchpoints.wechat import crypto, templates

APPID = Field("scope", "the account's appid", pattern=CODE)
TEMPLATES = Field(
    "templates",
    "a JSON list of templates: id, form (template or subscription), purpose, offers, data",
    required=False,
    pattern=r".{1,16000}",
    check=templates.wrong,
)
WELCOME = Field("welcome_text", "what new followers are answered", required=False, pattern=r".{1,600}")
WINDOW = Field(
    "window_messages",
    "how many messages WeChat allows in the 48 hours after one of the person's",
    required=False,
    pattern="[0-9]{1,2}",
)
CALLBACK_SECRETS = (
    Field("callback_token", "the Token of the server configuration, which signs callbacks", rotates=True),
    Field(
        "encoding_aes_key",
        "the EncodingAESKey of the server configuration; with it only encrypted callbacks are taken",
        required=False,
        pattern="[A-Za-z0-9]{43}",
        check=crypto.is_key,
        rotates=True,
    ),
)
SECRETS = (Field("app_secret", "the account's AppSecret, which buys tokens"), *CALLBACK_SECRETS)
