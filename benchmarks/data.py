"""Chat rows from a file to token ids: our import and tokenisation beside Hugging Face `datasets` doing load and map.

    python benchmarks/data.py [--rows 1000000] [--model FOLDER]

Ours: the recipe `import` as its engine runs it (format and row kind found, every row checked, hashed, stored with a
digest and a report), then training's renderer with its loss mask. Theirs: `load_dataset("json")`, then a batched
`map` that applies the chat template and tokenises, without checks and without a loss mask, in one process and in two.
Exact deduplication is reported apart, as the preparation step `drop_duplicates` over the stored rows. Each in a process
of its own; memory is the most that it and its children held at one time, shared pages counted once (PSS, looked at four
times a second). Writes benchmarks/results/data.md and data.json. Without --model the tokenizer is that of a small
random Llama.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
WORDS = (
    "invoice",
    "refund",
    "card",
    "login",
    "parcel",
    "address",
    "limit",
    "order",
    "account",
    "reset",
    "price",
    "date",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path, default=None, help="a folder with a tokenizer and a chat template")
    parser.add_argument("--part", nargs=3, metavar=("NAME", "FOLDER", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.part:
        name, folder, model = options.part
        print(json.dumps(PARTS[name](Path(folder), Path(model))))
        return
    folder = Path(tempfile.mkdtemp(prefix="data-benchmark-"))
    load = os.getloadavg()[0]
    try:
        model = options.model or _tiny(folder)
        size = write_rows(folder / "rows.jsonl", options.rows)
        parts = {name: run(name, folder, model) for name in PARTS}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": [load, os.getloadavg()[0]]},
        "versions": {name: version(name) for name in ("datasets", "transformers", "tokenizers", "pyarrow")},
        "rows": options.rows,
        "bytes": size,
        "model": options.model.name if options.model else "random Llama, 1,024 tokens",
        "parts": parts,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data.json").write_text(json.dumps(found, indent=2) + "\n")
    (RESULTS / "data.md").write_text(table(found))
    print(table(found))


def _tiny(folder: Path) -> Path:
    from project.modeling.tiny import make_tiny_model

    return make_tiny_model(folder / "model")


def write_rows(path: Path, count: int) -> int:
    """Short conversations, every hundredth of them a repetition. Returns bytes."""
    chance = random.Random(1)
    with path.open("w") as file:
        for number in range(count):
            about = number - 50 if number % 100 == 99 else number
            words = " ".join(chance.choices(WORDS, k=chance.randint(4, 16)))
            if about != number:
                words = "the same again"
            messages = [
                {"role": "user", "content": f"Ticket {about}: {words}?"},
                {"role": "assistant", "content": f"{WORDS[about % len(WORDS)]}, {WORDS[about % 7]}"},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path.stat().st_size


def run(name: str, folder: Path, model: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", name, str(folder), str(model)]
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / f"hf-{name[-3:]}"),
        "TOKENIZERS_PARALLELISM": "true",
    }
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, held(psutil.Process(process.pid)))
            time.sleep(0.25)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{name} failed")
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {**result, "peak_mb": peak / 1024**2}


def held(process: psutil.Process) -> int:
    """Bytes of a process and its children."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += one.memory_full_info().pss
    return total


def _measured(begun: float, **more: Any) -> dict[str, Any]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return {"seconds": time.perf_counter() - begun, "cpu": cpu, **more}


def _context(folder: Path, recipe: str, params: dict[str, Any], **inputs: Path) -> Any:
    from project.contracts.runs import RunSpec
    from project.runner.context import Context

    place = folder / f"run-{recipe}"
    place.mkdir()
    given = {name: str(path) for name, path in inputs.items()}
    return Context(place, RunSpec(job="1", attempt=1, recipe=recipe, params=params, inputs=given))


def import_rows(folder: Path, model: Path) -> dict[str, Any]:
    from datasets_app.recipes import import_rows as recipe

    begun = time.perf_counter()
    params = {"source_name": "rows.jsonl"}
    ctx = _context(folder, recipe.name, params, source=folder / "rows.jsonl")
    recipe.run(recipe.Params(**params), ctx)
    return _measured(begun, rows=ctx.outcome.result["rows"])


def tokenise(folder: Path, model: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    from project.modeling.loading import load_tokenizer
    from training.engine.components.token_cache import token_rows

    ctx = _context(folder, "tokenise", {})
    rows = token_rows(folder / "run-import" / "artifact", load_tokenizer(model), 512, ctx)
    return _measured(begun, rows=len(rows.rows), tokens=rows.tokens)


def dedupe(folder: Path, model: Path) -> dict[str, Any]:
    from datasets_app.recipes import prepare as recipe

    begun = time.perf_counter()
    params = {"steps": [{"type": "drop_duplicates"}]}
    ctx = _context(folder, recipe.name, params, source=folder / "run-import" / "artifact")
    recipe.run(recipe.Params.model_validate(params), ctx)
    return _measured(begun, rows=ctx.outcome.result["rows"])


def hugging_face(folder: Path, model: Path, processes: int | None = None) -> dict[str, Any]:
    begun = time.perf_counter()
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))

    def tokens(batch: dict[str, Any]) -> dict[str, Any]:
        texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
        return {"input_ids": tokenizer(texts, add_special_tokens=False, max_length=512, truncation=True).input_ids}

    loaded = load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train")
    at_load = time.perf_counter() - begun
    done = loaded.map(tokens, batched=True, remove_columns=["messages"], num_proc=processes)
    return _measured(begun, rows=len(done), load_seconds=at_load)


def hugging_face_in_two(folder: Path, model: Path) -> dict[str, Any]:
    return hugging_face(folder, model, 2)


PARTS = {
    "datasets": hugging_face,
    "import": import_rows,
    "tokenise": tokenise,
    "datasets in two processes": hugging_face_in_two,
    "drop_duplicates": dedupe,
}


def table(found: dict[str, Any]) -> str:
    machine, parts = found["machine"], found["parts"]
    ours = {key: parts["import"][key] + parts["tokenise"][key] for key in ("seconds", "cpu")}
    peak = max(parts["import"]["peak_mb"], parts["tokenise"]["peak_mb"])
    rows = [
        "# From a file to token ids\n",
        f"{found['rows']:,} short chat rows, {found['bytes'] / 1e6:.0f} MB, tokenizer of {found['model']}; "
        f"{machine['cpus']} CPUs, Python {machine['python']}, load average {machine['load'][0]:.1f} before and "
        f"{machine['load'][1]:.1f} after; {', '.join(f'{name} {one}' for name, one in found['versions'].items())}.\n",
        "| | seconds | CPU seconds | rows per second | peak MB |",
        "|---|---|---|---|---|",
    ]

    def row(label: str, seconds: float, cpu: float, peak: float) -> str:
        return f"| {label} | {seconds:.1f} | {cpu:.1f} | {found['rows'] / seconds:,.0f} | {peak:.0f} |"

    labels = {
        "import": "Tuneloop: import with checks, digest and report",
        "tokenise": "Tuneloop: render and tokenise, with the loss mask",
    }
    rows += [row(label, *(parts[name][key] for key in ("seconds", "cpu", "peak_mb"))) for name, label in labels.items()]
    rows.append(row("**Tuneloop: both**", ours["seconds"], ours["cpu"], peak))
    for name in ("datasets", "datasets in two processes"):
        theirs = parts[name]
        label = f"**{name.replace('datasets', 'datasets: load and map', 1)}**"
        rows.append(row(label, theirs["seconds"], theirs["cpu"], theirs["peak_mb"]))
    apart = parts["drop_duplicates"]
    rows.append(row("Tuneloop: drop_duplicates, apart", apart["seconds"], apart["cpu"], apart["peak_mb"]))
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
