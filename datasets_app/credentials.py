"""Keys, tokens and private keys in texts, by the patterns of detect-secrets. Pure; nothing is asked over the network.

Only patterns of known issuers are used. What only looks random, or follows the word 'password', is not: in texts that
people wrote these are nearly always something else.
"""

import importlib
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from datasets_app.pii import Found

# module and class of detect-secrets -> what every match contains: most texts are done after these searches
_DETECTORS: dict[tuple[str, str], tuple[str, ...]] = {
    ("aws", "AWSKeyDetector"): ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws", "AWS"),
    ("azure_storage_key", "AzureStorageKeyDetector"): ("AccountKey=",),
    ("github_token", "GitHubTokenDetector"): ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    ("gitlab_token", "GitLabTokenDetector"): (
        *("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941"),
        *("glcbt-", "glimt-", "glptt-", "glagent-", "gloas-"),
    ),
    ("jwt", "JwtTokenDetector"): ("eyJ",),
    ("mailchimp", "MailchimpDetector"): ("-us",),
    ("npm", "NpmDetector"): (":_authToken=",),
    ("openai", "OpenAIDetector"): ("T3BlbkFJ",),
    ("private_key", "PrivateKeyDetector"): ("PRIVATE KEY", "ENCRYPTED PRIVATE", "PuTTY-User-Key-File-2"),
    ("pypi_token", "PypiTokenDetector"): ("pypi-AgE",),
    ("sendgrid", "SendGridDetector"): ("SG.",),
    ("slack", "SlackDetector"): ("xox", "hooks.slack.com"),
    ("square_oauth", "SquareOAuthDetector"): ("sq0csp-",),
    ("stripe", "StripeDetector"): ("sk_live_", "rk_live_"),
    ("telegram_token", "TelegramBotTokenDetector"): (":AA",),
}
_SIGNS = tuple(sign for signs in _DETECTORS.values() for sign in signs)
WORTH_A_LOOK = "|".join(map(re.escape, _SIGNS))  # for RE2: in the JSON of every row that holds one


def find(text: str) -> list[Found]:
    """Every credential in the order of the text; its kind is what people call it ('AWS Access Key')."""
    return sorted(set(_matches(text)), key=lambda piece: piece.start)


def may_hold(text: str) -> bool:
    """Is a closer look worth it? Also right for the canonical JSON of a row."""
    return any(sign in text for sign in _SIGNS)


def _matches(text: str) -> Iterator[Found]:
    for detector, signs in _DETECTORS.items():
        if any(sign in text for sign in signs):
            kind, patterns = _load(*detector)
            for pattern in patterns:
                for match in pattern.finditer(text):
                    start, end = match.span(1) if pattern.groups and match.group(1) else match.span()
                    yield Found(kind, start, end)


@cache
def _load(module: str, name: str) -> tuple[str, tuple[Any, ...]]:
    plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)()
    return plugin.secret_type, tuple(plugin.denylist)
