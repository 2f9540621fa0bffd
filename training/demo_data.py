"""The example data of the demo: findings of security and privacy detectors, and where they belong in one taxonomy.

A finding is a short line as tools print it; the answer is JSON with a category, a subcategory and a band of confidence
(high from 80 percent, medium from 50, else low). Wording, order, number formats and noise vary. Half of the held-out
rows pair a detector with a wording that training never shows together, and files in them are always unseen ones.

    python -m training.demo_data FOLDER      writes train.jsonl and held_out.jsonl
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SYSTEM = "Triage"  # short on purpose: it is in every row, and a template may put a long one of its own where none is
SEED, TRAIN, HELD_OUT = 7, 600, 150

Row = dict[str, list[dict[str, str]]]

DETECTORS = {
    "secret": ("whispers", "gitleaks", "vault", "leaktk"),
    "pii": ("macie", "dlp", "privy", "hound"),
    "code": ("codeql", "bandit", "sonar", "lint"),
    "cloud": ("checkov", "prowler", "tfsec", "scout"),
}

TAXONOMY: dict[str, dict[str, tuple[str, ...]]] = {
    "secret": {
        "api_key": ("AWS access key", "Stripe live key", "Google API key", "OpenAI key", "Maps key"),
        "password": ("admin password", "hardcoded password", "root passwd", "default login", "plain text pwd"),
        "private_key": ("RSA private key", "SSH key file", "PEM block", "PGP secret key", "TLS key"),
        "token": ("GitHub token", "Slack token", "JWT bearer", "refresh token", "npm token"),
        "database": ("Postgres URL", "MySQL connection string", "Mongo URI", "Redis DSN", "JDBC login"),
    },
    "pii": {
        "email": ("email address", "customer mailbox", "personal e-mail", "staff email", "newsletter address"),
        "phone": ("phone number", "mobile no.", "cell number", "fax line", "home phone"),
        "card": ("credit card", "Visa number", "card PAN", "debit card", "CVV code"),
        "national_id": ("US SSN", "passport number", "tax id", "driver licence", "social security no."),
        "address": ("street address", "home address", "postal code", "delivery address", "GPS location"),
    },
    "code": {
        "injection": ("SQL injection", "shell injection", "LDAP injection", "raw query", "template injection"),
        "xss": ("reflected XSS", "stored XSS", "raw HTML", "script tag", "inline script"),
        "traversal": ("path traversal", "zip slip", "directory escape", "../ in path", "unsafe join"),
        "crypto": ("MD5 hash", "weak cipher DES", "ECB mode", "SHA1 signature", "static IV"),
        "deserialize": ("unsafe pickle", "yaml.load", "Java object stream", "untrusted dump", "eval of input"),
    },
    "cloud": {
        "bucket": ("public bucket", "open S3", "world readable blob", "anonymous storage", "public snapshot"),
        "port": ("open port", "public RDP", "open ingress", "exposed SSH", "public telnet"),
        "encryption": ("plain disk", "no TLS", "plain HTTP listener", "EBS not encrypted", "no KMS key"),
        "iam": ("wildcard policy", "admin role", "no MFA", "root account use", "stale user"),
        "logging": ("logging disabled", "no audit trail", "CloudTrail off", "flow logs missing", "no retention"),
    },
}

PLACES = ("app.py", "web.log", "config.yml", "users.csv", "main.tf", "api.js", "notes.txt", "dump.sql")
UNSEEN_PLACES = ("billing.py", "export.csv", "deploy.sh", "server.go", "cache.json", "legacy.php")
BANDS = {"high": range(80, 100), "medium": range(50, 80), "low": range(5, 50)}
WORDS = {"high": ("certain", "sure"), "medium": ("likely", "probable"), "low": ("maybe", "unsure")}

SHAPES: tuple[Callable[[str, str, str, str], str], ...] = (
    lambda detector, finding, place, score: f"{detector}: {finding} {score}",
    lambda detector, finding, place, score: f"{finding} {score} {detector}",
    lambda detector, finding, place, score: f"{score} {finding} in {place} {detector}",
    lambda detector, finding, place, score: f"{detector}: {finding}, {score}",
    lambda detector, finding, place, score: f"{detector} {score} {finding}",
)


class Finding(NamedTuple):
    """What a line says before it is worded."""

    category: str
    subcategory: str
    wording: str
    detector: str
    band: str


def generate(*, seed: int = SEED, train: int = TRAIN, held_out: int = HELD_OUT) -> tuple[list[Row], list[Row]]:
    """Training rows and held-out rows in the chat format. The same numbers give the same rows, and no line twice."""
    chance = random.Random(seed)
    seen: set[str] = set()
    learned = _rows(chance, train, PLACES, seen, lambda number: False)
    asked = _rows(chance, held_out, UNSEEN_PLACES, seen, lambda number: number % 2 == 0)
    return learned, asked


def write(folder: Path, *, seed: int = SEED, train: int = TRAIN, held_out: int = HELD_OUT) -> tuple[Path, Path]:
    """Write `train.jsonl` and `held_out.jsonl` into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, rows in zip(paths, generate(seed=seed, train=train, held_out=held_out), strict=True):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return paths


def _rows(
    chance: random.Random, count: int, places: tuple[str, ...], seen: set[str], reserved: Callable[[int], bool]
) -> list[Row]:
    rows: list[Row] = []
    kinds = _cycle(chance)
    while len(rows) < count:
        category, subcategory, band = next(kinds)
        line = ""
        while not line or line in seen:
            wording = chance.choice(TAXONOMY[category][subcategory])
            detector = _detector(chance, category, wording, reserved=reserved(len(rows)))
            finding = Finding(category, subcategory, wording, detector, band)
            line = _line(chance, finding, chance.choice(places))
        seen.add(line)
        rows.append(_row(line, finding))
    return rows


def _cycle(chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """Every kind with every band equally often, in random order."""
    every = [(c, s, band) for c, kinds in TAXONOMY.items() for s in kinds for band in BANDS]
    while True:
        chance.shuffle(every)
        yield from every


def _detector(chance: random.Random, category: str, wording: str, *, reserved: bool) -> str:
    """One of each wording's four detectors is reserved for held-out rows: a combination that training never shows."""
    detectors = DETECTORS[category]
    kept = sum(map(ord, wording)) % len(detectors)
    return detectors[kept] if reserved else chance.choice([d for i, d in enumerate(detectors) if i != kept])


def _line(chance: random.Random, finding: Finding, place: str) -> str:
    wording = _noisy(chance, finding.wording)
    line = chance.choice(SHAPES)(finding.detector, wording, place, _score(chance, finding.band))
    return line[0].upper() + line[1:] if chance.random() < 0.1 else line


def _score(chance: random.Random, band: str) -> str:
    if chance.random() < 0.15:
        return chance.choice(WORDS[band])
    percent = chance.choice(BANDS[band])
    return f".{percent:02d}" if chance.random() < 0.3 else f"{percent}%"


def _noisy(chance: random.Random, wording: str) -> str:
    roll = chance.random()
    if roll < 0.12 and len(wording) > 4:  # two letters swapped
        at = chance.randrange(1, len(wording) - 2)
        return wording[:at] + wording[at + 1] + wording[at] + wording[at + 2 :]
    return wording.lower() if roll < 0.25 else wording


def _row(line: str, finding: Finding) -> Row:
    answer = {"category": finding.category, "subcategory": finding.subcategory, "confidence": finding.band}
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": line},
            {"role": "assistant", "content": json.dumps(answer, separators=(",", ":"))},
        ]
    }


if __name__ == "__main__":
    sys.stdout.write("".join(f"{path}\n" for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
