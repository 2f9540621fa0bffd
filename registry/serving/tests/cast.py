"""A tiny model with adapters that really change its answers, and an engine process to ask."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT = 240.0  # seconds: importing torch alone takes a minute on a busy machine
SECRET = "a-secret-of-this-test-only"


def make_adapter(base: Path, folder: Path, *, seed: int, **config: Any) -> Path:
    """A LoRA adapter for the model in `base` with random A and B, so that it has something to say."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def make_other_adapter(base: Path, folder: Path, config: Any, *, seed: int) -> Path:
    """An adapter of any kind of PEFT's, stirred so that it has something to say."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    return folder


@dataclass
class Engine:
    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {SECRET}"}

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=60)


@contextmanager
def running_engine(folder: Path, base: Path, **spec: Any) -> Iterator[Engine]:
    """An engine process over `base`, ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"base": str(base), "secret": SECRET, "dtype": "float32", "threads": 1, "parent": os.getpid()} | spec
    (folder / "spec.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "registry.serving.engine", str(folder / "spec.json")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_TIMEOUT
        while not (folder / "ready.json").exists():
            assert process.poll() is None and time.monotonic() < until, (folder / "log.txt").read_text()
            time.sleep(0.05)
        yield Engine(process, json.loads((folder / "ready.json").read_text())["url"], folder)
    finally:
        process.kill()
        process.wait(timeout=10)
