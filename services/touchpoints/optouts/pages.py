"""The pages behind links in messages: plain HTML in Chinese and English that works without scripts and loads nothing."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

from chassis.consents import ALL_CHANNELS, MESSAGES, PERSONALISATION
from services.touchpoints.optouts.stating import Use

LANGUAGES = ("zh", "en")
# Named in the evidence of what is given here; a change of wording is a new version.
TEXT_VERSION = "preferences-1"
CHANNELS = ("app", "wechat", "sms", "phone", "dealer")
TOLD_APART = Use(PERSONALISATION, ALL_CHANNELS)
USES: Sequence[Use] = (*(Use(purpose, channel) for purpose in MESSAGES for channel in CHANNELS), TOLD_APART)

# Chinese, English.
WORDS: Mapping[str, tuple[str, str]] = {
    "unsubscribe": ("退订消息", "Unsubscribe"),
    "really": ("不再通过{channel}接收{purpose}？", "Stop {purpose} by {channel}?"),
    "stop": ("确认退订", "Unsubscribe"),
    "stopped": ("已退订：您不会再通过{channel}收到{purpose}。", "Done. You will get no more {purpose} by {channel}."),
    "nobody": ("我们没有保留您的任何信息，不会再联系您。", "We keep nothing about you and will not contact you."),
    "unknown": ("链接无效。请从我们的消息中重新打开。", "This link is not valid. Please open it from our message again."),
    "preferences": ("消息与个性化设置", "Messages and personalisation"),
    "choose": ("请选择您愿意接收的内容：", "Choose what you would like to get:"),
    "save": ("保存", "Save"),
    "saved": ("已保存，立即生效。", "Saved, and in force."),
    "nothing": ("停止所有消息", "Stop all messages"),
    "other": ("English", "中文"),
    "marketing": ("营销与活动信息", "offers and news"),
    "service": ("服务提醒", "service messages"),
    PERSONALISATION: (
        "根据我的信息为我挑选内容（关闭后，内容不再因人而异）",
        "Choose what I get by what is known of me (when off, everybody gets the same)",
    ),
    "app": ("手机应用", "app"),
    "wechat": ("微信", "WeChat"),
    "sms": ("短信", "SMS"),
    "phone": ("电话", "phone call"),
    "dealer": ("经销商", "dealer"),
    ALL_CHANNELS: ("所有渠道", "every channel"),
}
_STYLE = (
    "body{font:1.1rem/1.6 system-ui,sans-serif;max-width:36rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}"
    "button{font:inherit;padding:.6rem 1.2rem;margin:.6rem .6rem 0 0}"
    "fieldset{margin:0 0 1rem}label{display:block;padding:.3rem 0}"
    ":focus-visible{outline:3px solid #05c}"
)
_STYLE_SHA256 = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    # The address is the key: it must not travel on.
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none';"
    f" style-src 'sha256-{_STYLE_SHA256}'",
}


def language(asked: str, header: str) -> str:
    """zh or en: as the address asks, else whichever the browser names first, else zh."""
    if asked in LANGUAGES:
        return asked
    named = [part.split(";")[0].strip().lower()[:2] for part in header.split(",")]
    return next((name for name in named if name in LANGUAGES), LANGUAGES[0])


def word(name: str, lang: str, **parts: str) -> str:
    """A text in a language; `parts` are names of other texts. What has no text is shown as it is."""
    text = WORDS.get(name, (name, name))[LANGUAGES.index(lang)]
    return text.format(**{key: word(part, lang) for key, part in parts.items()}) if parts else text


def shown(use: Use, lang: str) -> str:
    """What stands beside a box: the evidence of what somebody said yes to."""
    return word(use.purpose, lang) if use == TOLD_APART else f"{word(use.purpose, lang)} · {word(use.channel, lang)}"


def confirm(use: Use, lang: str) -> str:
    """The page that asks: looking at it does nothing, for mail servers and messengers follow every link."""
    question = escape(word("really", lang, purpose=use.purpose, channel=use.channel))
    form = (
        '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">'
        f'<button type="submit">{escape(word("stop", lang))}</button></form>'
    )
    return _page("unsubscribe", lang, f"<p>{question}</p>{form}")


def told(title: str, name: str, lang: str, **parts: str) -> str:
    """A page with one sentence."""
    return _page(title, lang, f'<p role="status">{escape(word(name, lang, **parts))}</p>')


def choices(standing: Mapping[Use, bool], lang: str, *, saved: bool) -> str:
    """All uses with a box each. `was` says what the page showed, so that only what somebody changed is stated."""
    parts = [f'<p role="status">{escape(word("saved", lang))}</p>'] if saved else []
    parts.append(f'<form method="post"><p>{escape(word("choose", lang))}</p>')
    for purpose in (*MESSAGES, PERSONALISATION):
        boxes = [_box(use, standing[use], lang) for use in USES if use.purpose == purpose]
        legend = escape(word("preferences" if purpose == PERSONALISATION else purpose, lang))
        parts.append(f"<fieldset><legend>{legend}</legend>{''.join(boxes)}</fieldset>")
    parts.append(f'<button type="submit">{escape(word("save", lang))}</button>')
    parts.append(f'<button type="submit" name="nothing" value="1">{escape(word("nothing", lang))}</button></form>')
    return _page("preferences", lang, "".join(parts))


def _box(use: Use, on: bool, lang: str) -> str:
    name = f"{use.purpose}/{use.channel}"
    was = f'<input type="hidden" name="{"was" if on else "was_not"}" value="{name}">'
    box = f'<input type="checkbox" name="on" value="{name}"{" checked" if on else ""}>'
    return f"{was}<label>{box} {escape(shown(use, lang))}</label>"


def _page(title: str, lang: str, body: str) -> str:
    other = LANGUAGES[1 - LANGUAGES.index(lang)]
    heading = escape(word(title, lang))
    return (
        f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8"><title>{heading}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{heading}</h1>{body}</main>"
        f'<p><a href="?lang={other}" hreflang="{other}" lang="{other}">{escape(word("other", lang))}</a></p></body></html>'
    )
