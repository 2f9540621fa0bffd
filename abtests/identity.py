"""Who somebody is, without keeping who they are: keyed hashes that only this workspace can make."""

import hashlib
import hmac
from typing import Literal

from project.kernel.access import Actor

Kind = Literal["user", "session", "member", "token"]


def keyed_hash(hash_key: str, kind: Kind, value: str) -> str:
    """32 hexadecimal digits of HMAC-SHA256. The kind is part of what is hashed: an end user who calls himself
    'member:1' is not member 1."""
    return hmac.new(hash_key.encode(), f"{kind}:{value}".encode(errors="replace"), hashlib.sha256).hexdigest()[:32]


def voter(by: Actor, *, user_id: str = "", session_id: str = "") -> str:
    """Whose vote it is: the end user's, else the session's, else the member's or the token's who sends it."""
    key = by.workspace.hash_key
    if user_id:
        return keyed_hash(key, "user", user_id)
    if session_id:
        return keyed_hash(key, "session", session_id)
    if by.kind == "user":
        return keyed_hash(key, "member", str(by.user_id))
    return keyed_hash(key, "token", by.identity)
