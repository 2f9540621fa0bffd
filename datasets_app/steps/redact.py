"""Replace personal data and secrets in texts."""

import re
from collections.abc import Iterator

from pydantic import Field, field_validator

from datasets_app import credentials, pii
from datasets_app.editing import Part, change_texts
from datasets_app.importing import Entry
from datasets_app.pii import Found
from datasets_app.preparing import StepContext, StepParams, each

name = "redact"
label = "Redact personal data and secrets"

CREDENTIALS = "credentials"
KINDS = (*pii.KINDS, CREDENTIALS)


# A pattern may end before the secret does: after the prefix of a token, after the first line of a key.
_REST_OF_KEY = re.compile(r".*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_REST_OF_TOKEN = re.compile(r"[\w./+=~-]*")


class Params(StepParams):
    example = {}

    kinds: list[str] = Field(
        default=[],
        max_length=20,
        description="Which kinds; none ticked is all of them.",
        json_schema_extra={"choices": list(KINDS)},
    )
    replacement: str = Field(
        default="[{kind}]", max_length=200, description="What to put there; {kind} becomes EMAIL, PHONE and so on."
    )
    part: Part = Field(default="all", description="Which texts: all, prompt, answer or system.")
    regions: list[str] = Field(
        default=list(pii.REGIONS),
        max_length=50,
        description="Countries whose phone numbers are known without a country code, as in US, GB, DE.",
    )

    @field_validator("kinds")
    @classmethod
    def _are_known(cls, kinds: list[str]) -> list[str]:
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"Unknown kind '{unknown[0]}'. Known: {', '.join(KINDS)}.")
        return kinds

    @field_validator("regions")
    @classmethod
    def _are_countries(cls, regions: list[str]) -> list[str]:
        if wrong := [region for region in regions if not (len(region) == 2 and region.isascii() and region.isupper())]:
            raise ValueError(f"'{wrong[0]}' is no country; write two capitals, as in US.")
        return regions


def _whole(piece: Found, text: str) -> Found:
    rest = _REST_OF_KEY.match(text, piece.end) if "PRIVATE KEY" in text[piece.start : piece.end] else None
    rest = rest or _REST_OF_TOKEN.match(text, piece.end)
    return Found("credential", piece.start, rest.end() if rest else piece.end)


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    kinds = params.kinds or list(KINDS)
    personal = [kind for kind in kinds if kind != CREDENTIALS]
    detector = pii.Detector(personal, regions=params.regions) if personal else None

    def find(text: str) -> list[Found]:
        found = detector.find(text) if detector else []
        if CREDENTIALS in kinds and credentials.may_hold(text):
            found += [_whole(piece, text) for piece in credentials.find(text)]
        return pii.without_overlaps(found)

    def change(text: str) -> str:
        found = find(text)
        for piece in reversed(found):
            ctx.note(piece.kind)
            text = text[: piece.start] + params.replacement.replace("{kind}", piece.kind.upper()) + text[piece.end :]
        return text

    return each(rows, ctx, lambda entry: change_texts(entry, change, params.part), field="kinds")
