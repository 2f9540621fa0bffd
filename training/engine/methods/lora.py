"""LoRA (https://arxiv.org/abs/2106.09685), and what people add to it: rsLoRA, PiSSA, DoRA, QLoRA."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from training.engine.methods._layers import DROPOUT, RANK, WHICH, Layers, for_peft
from training.engine.methods_registry import MethodSettings, Number

name = "lora"
label = "LoRA and QLoRA: a small adapter, little memory"
prominent = True
order = 10
variants: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"rslora": True},
    "LoRA with PiSSA": {"init": "pissa"},
    "DoRA": {"dora": True},
    "QLoRA, 8 bits": {"bits": 8},
    "QLoRA, 4 bits": {"bits": 4},
}


def _as_number(value: Any) -> Any:
    """'4' as 4, as for any other number."""
    return int(value) if isinstance(value, str) and value in ("4", "8") else value


class Lora(MethodSettings):
    """Train small matrices beside frozen weights: nearly the quality of full fine-tuning, a fraction of the memory."""

    later: ClassVar[tuple[str, ...]] = ("rslora", "dora", "init")

    type: Literal["lora"] = "lora"
    r: int = Field(8, ge=1, le=1024, description=RANK)
    alpha: float = Field(
        16.0,
        gt=0,
        le=4096,
        description="Scale of the adapter; it acts as alpha / r. Twice the rank is "
        "usual. Raising it is like raising the learning rate.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description=DROPOUT)
    target_modules: Layers = Field("all-linear", description=WHICH)
    bits: Annotated[Literal[4, 8] | None, BeforeValidator(_as_number)] = Field(
        None,
        description="Hold the frozen weights in 8 or 4 bits (QLoRA): a half or a quarter of their memory, slower "
        "steps, slightly worse. Empty keeps 16 or 32.",
    )
    rslora: bool = Field(
        False, description="Scale by alpha / √r (rsLoRA), so that high ranks (64 and up) learn as fast as low ones."
    )
    init: Literal["zero", "pissa"] = Field(
        "zero",
        description="How the adapter begins. zero changes nothing at first. pissa takes the strongest directions of "
        "each weight: learns faster, takes a while to start, needs the base in "
        "32 bits, and is kept with twice the rank.",
    )
    dora: bool = Field(
        False,
        description="Learn the length of each weight's columns apart from their direction (DoRA): a little better at "
        "low ranks, a fifth slower.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Lora":
        if self.init == "pissa" and self.bits:
            raise PydanticCustomError("conflict", "init pissa needs whole weights: leave bits empty")
        if self.init == "pissa" and self.dora:
            raise PydanticCustomError("conflict", "init pissa and dora can't be combined: choose one of them")
        return self

    @property
    def needs_float32(self) -> bool:
        return self.init == "pissa"  # it moves weights between base and adapter; in bfloat16 their rests would be lost

    @property
    def quantised_bits(self) -> int | None:
        return self.bits

    @property
    def adapter_targets(self) -> dict[str, str]:
        everywhere = {"local": "", "hub": "as a PEFT folder"}
        if self.dora:
            return everywhere
        return everywhere | {
            "vllm": "ranks to 512 (--max-lora-rank)",
            "tgi": "",
            "ollama": "ADAPTER in the Modelfile",
            "gguf": "convert_lora_to_gguf",
        }

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import LoraConfig, TaskType

        from training.engine.components.model import adapted

        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=for_peft(self.target_modules),
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights="pissa" if self.init == "pissa" else True,
            task_type=TaskType.CAUSAL_LM,
        )
        model = adapted(base, config, device=device, number=number, bits=self.bits)
        if self.init == "pissa":
            model.beginning = {  # taken out of the base, and so to be taken off the result again
                key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad
            }
        return model

    def export(self, model: Any, folder: Path) -> None:
        """PiSSA has moved a part of the base into the adapter. What is kept is a plain LoRA of the difference, with
        twice the rank, which anybody can put on the untouched base: B'A' = BA - B0 A0."""
        if self.init != "pissa":
            return
        import torch
        from safetensors.torch import load_file, save_file

        file = folder / "adapter_model.safetensors"
        begun = {key.replace(".default.", "."): value.cpu() for key, value in model.beginning.items()}
        joined = {
            key: torch.cat([value, begun[key] if ".lora_A." in key else -begun[key]], 0 if ".lora_A." in key else 1)
            for key, value in load_file(file).items()
        }
        save_file(joined, file, metadata={"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text())
        wider = 2**0.5 if self.rslora else 2  # the same scale, for twice the rank
        config |= {"r": 2 * self.r, "lora_alpha": self.alpha * wider, "init_lora_weights": True}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


Settings = Lora
