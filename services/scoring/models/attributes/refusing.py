"""Which attributes are never inferred of anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.scoring.domain import TrainingRefused

# Sensitivity classes of the catalogue of tags whose tags may be inferred. All others are refused, unknown ones too.
INFERABLE = frozenset({"public", "internal", "personal"})

# Words in the name of a tag that mean sensitive personal information (PIPL 28; GDPR 9), whatever class the tag was given.
FORBIDDEN: Mapping[str, tuple[str, ...]] = {
    "health": ("health", "medical", "disease", "illness", "disability", "pregnant", "pregnancy", "diagnosis", "addiction"),
    "belief": ("religion", "religious", "belief", "faith", "church"),
    "origin": ("ethnicity", "ethnic", "race", "nationality", "origin", "nation", "minority"),
    "politics": ("politics", "political", "party", "union"),
    "sexuality": ("sexual", "sexuality", "orientation", "gender_identity"),
    "biometrics": ("biometric", "face", "fingerprint", "voiceprint", "genetic"),
    "finance": ("finance", "financial", "credit", "debt", "loan", "income", "salary", "wealth", "bank", "bankruptcy"),
    "whereabouts": ("location", "whereabouts", "trajectory", "home_address"),
    "minors": ("minor", "minors", "under_14"),
    "crime": ("criminal", "crime", "conviction"),
}
FORBIDDEN_CHINESE: Mapping[str, tuple[str, ...]] = {
    "health": ("健康", "疾病", "医疗", "残疾", "怀孕"),
    "belief": ("宗教", "信仰"),
    "origin": ("民族", "种族", "国籍"),
    "politics": ("政治", "党派"),
    "sexuality": ("性取向", "性别认同"),
    "biometrics": ("生物识别", "人脸", "指纹", "基因"),
    "finance": ("金融", "信用", "征信", "贷款", "债务", "收入", "财产"),
    "whereabouts": ("行踪", "位置"),
    "minors": ("未成年",),
    "crime": ("犯罪",),
}


def refuse_sensitive(target: str, sensitivity: str, title: str = "") -> None:
    """Raises TrainingRefused SENSITIVE_TARGET unless a tag of this name, class and title may be inferred.

    `sensitivity`: the class of the catalogue in lower case; empty, as in a definition that states none, means internal. By
    name as well as by class: a class can be forgotten or given wrongly, and what is inferred cannot be taken back.
    """
    if (sensitivity.lower() or "internal") not in INFERABLE:
        raise TrainingRefused("SENSITIVE_TARGET", f"{target} is of the class {sensitivity} and is never inferred")
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", target).lower())
    found = {topic for topic, forbidden in FORBIDDEN.items() if any(f"_{word}_" in f"_{words}_" for word in forbidden)}
    found |= {topic for topic, forbidden in FORBIDDEN_CHINESE.items() if any(word in f"{target} {title}" for word in forbidden)}
    if found:
        raise TrainingRefused("SENSITIVE_TARGET", f"{target} tells {', '.join(sorted(found))} and is never inferred")
