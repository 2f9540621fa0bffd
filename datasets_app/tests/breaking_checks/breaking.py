"""A check that breaks in the way that the environment says."""

import os
import signal

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck

name = "breaking"
label = "Breaking"


class Check(BaseCheck):
    def see(self, entry: Entry) -> None:
        match os.environ.get("BREAKING"):
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "lacks a file":
                raise FileNotFoundError("no such thing")
            case _:
                raise ValueError("no such thing")
