"""One base model and any number of adapters on it: who answers is decided per row of a batch.

LoRA adapters share the base and, where they can, a batch. Learned prompts and prefixes share the base and have batches
of their own. Adapters of other kinds can't stand beside LoRA in PEFT: each gets a copy of the base to itself.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from project.contracts.chat import Message
from project.contracts.runs import UserError
from project.modeling.loading import fast_dtype, load_adapter, load_base, load_tokenizer
from project.modeling.prompts import Opening, opening_of, read
from project.modeling.render import TemplateError, prompt_ids, render

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from registry.serving.engine.spec import EngineSpec

BASE = "base"
PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
MIXED = "+"  # the lane of everything that can share a batch
FALLBACK_CONTEXT = 4096  # tokens, for a model whose config names no limit


@dataclass(frozen=True)
class Voice:
    """What a request's `model` can name: the base or an adapter, with the tokenizer it was trained with.

    Voices of one `lane` can be decoded in one batch.
    """

    name: str
    tokenizer: "PreTrainedTokenizerBase"
    ends: frozenset[int]
    lane: str
    path: Path
    opening: Opening | None = None  # learned positions before every row
    own: Any = None  # a PEFT model of its own, for an adapter that can't share the base with others

    @property
    def places_before(self) -> int:
        """Positions of the context that are taken before the prompt begins."""
        return self.opening.count if self.opening else 0

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids exactly as in training. Raises TemplateError."""
        return prompt_ids(self.tokenizer, messages)


class ServedModel:
    """The weights. Everything but `voices` may be touched by the decoding thread only."""

    def __init__(self, spec: "EngineSpec") -> None:
        self._spec = spec
        self.dtype = fast_dtype(spec.device) if spec.dtype == "auto" else spec.dtype
        self._base = load_base(spec.base, device=spec.device, dtype=self.dtype)
        self.device = self._base.device
        _check_architecture(self._base)
        self._accepted = frozenset(inspect.signature(self._base.forward).parameters)
        self._peft: Any = None
        self._mixer: Any = None
        self._active: str | None = None  # the one voice that PEFT is set to, or MIXED; None: not known
        tokenizer = load_tokenizer(spec.base)
        self.voices = {BASE: Voice(BASE, tokenizer, _ends(tokenizer, self._base), MIXED, spec.base)}
        own = getattr(self._base.config.get_text_config(), "max_position_embeddings", None) or FALLBACK_CONTEXT
        self.context = min(own, spec.context_limit or own)

    def add(self, name: str, path: Path) -> None:
        """Load an adapter. Raises UserError if it does not fit, or if `name` is taken by another one."""
        if name in self.voices:
            if self.voices[name].path == path:
                return
            raise UserError(f"The name '{name}' is taken.", field="name")
        config = check_adapter(path)
        base = self.voices[BASE]
        tokenizer = load_tokenizer(path) if (path / "tokenizer_config.json").is_file() else base.tokenizer
        voice = Voice(name, tokenizer, _ends(tokenizer, self._base), name, path)
        if _kind(config) in PROMPTS:
            import torch

            with torch.inference_mode():
                voice = replace(voice, opening=opening_of(load_adapter(self._base, path, name)))
        elif _shares(config):
            self._peft = load_adapter(self._peft or self._base, path, name)
            self._changed()
            voice = replace(voice, lane=MIXED if self._mixer.can_mix(self._peft, name) else name)
        else:
            own = load_base(self._spec.base, device=self._spec.device, dtype=self.dtype)
            voice = replace(voice, own=load_adapter(own, path, name))
        self.voices[name] = voice

    def remove(self, name: str) -> None:
        """Forget an adapter and free its memory."""
        voice = self.voices.pop(name)
        if voice.own or voice.opening:
            return
        self._changed()
        if all(other.own or other.opening or other.name == BASE for other in self.voices.values()):
            self._base = self._peft.unload()
            self._peft = None
        else:
            self._peft.delete_adapter(name)

    def _changed(self) -> None:
        """The set of adapters is another one."""
        from registry.serving.engine.lora import Mixer

        self._active = None
        self._mixer = self._mixer or Mixer()
        self._mixer.forget()
        self._mixer.choose(None, self.device)

    def begin(
        self, names: Sequence[str], ids: "torch.Tensor", *, mask: "torch.Tensor", cache: "Cache"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Read prompts, padded on the left: logits (rows, vocabulary) of their last position, and the mask (rows,
        positions) of what `cache`, empty before, holds then. That is more than `ids` where rows begin with learned
        positions."""
        opening = self.voices[names[0]].opening
        if opening is not None:
            self._choose([BASE])
            return read(self._base, opening, ids, mask, cache)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return self.forward(names, ids, mask=mask, positions=positions, cache=cache), mask

    def forward(
        self,
        names: Sequence[str],
        ids: "torch.Tensor",
        *,
        mask: "torch.Tensor",
        positions: "torch.Tensor",
        cache: "Cache",
    ) -> "torch.Tensor":
        """Logits (rows, vocabulary) of the last position. `names` says who answers each row; `cache` grows by `ids`."""
        voice = self.voices[names[0]]
        if voice.own is None:
            self._choose([BASE] if voice.opening else names)
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepted:
            extra["position_ids"] = positions
        if "logits_to_keep" in self._accepted:
            extra["logits_to_keep"] = 1
        model = voice.own or self._peft or self._base
        output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _choose(self, names: Sequence[str]) -> None:
        """Switch adapters for this batch. One voice for all rows takes the path that training and evaluation took."""
        if self._peft is None:
            return
        only = names[0] if len(set(names)) == 1 else None
        if only is None:
            if not self._mixer.is_ready:
                mixed = [voice.name for voice in self.voices.values() if voice.lane == MIXED and voice.name != BASE]
                self._mixer.prepare(self._peft, mixed)
            if self._active not in (BASE, MIXED):  # the mixer brings its own adapters; PEFT must add none
                self._peft.base_model.disable_adapter_layers()
            self._mixer.choose(names, self.device)
            self._active = MIXED
        elif only != self._active:
            self._mixer.choose(None, self.device)
            if only == BASE:
                self._peft.base_model.disable_adapter_layers()
            else:
                self._peft.base_model.enable_adapter_layers()
                self._peft.set_adapter(only)
            self._active = only


def check_adapter(path: Path) -> dict[str, Any]:
    """The config of the adapter in `path`. Raises UserError if it can't be served beside others."""
    try:
        config: dict[str, Any] = json.loads((path / "adapter_config.json").read_bytes())
    except (OSError, ValueError):
        message = f"{path.name} is not an adapter: it has no readable adapter_config.json."
        raise UserError(message, field="path") from None
    kind = _kind(config)
    if kind in ("MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CPT"):
        raise UserError(f"Adapters of type {kind} are not served yet.", field="path")
    if config.get("bias", "none") != "none":
        raise UserError(
            "The adapter changes biases of the base model, which others share.",
            hint="Merge it into its base and serve the result.",
            field="path",
        )
    return config


def _kind(config: dict[str, Any]) -> str:
    return str(config.get("peft_type", "")).upper()


def _shares(config: dict[str, Any]) -> bool:
    """Can it stand beside other adapters on one base? LoRA can, unless it begins by changing the base (PiSSA)."""
    return _kind(config) == "LORA" and config.get("init_lora_weights", True) in (True, False, None, "gaussian")


def _check_architecture(model: "PreTrainedModel") -> None:
    """The cache is padded and cut per position: a model with recurrent state would silently answer wrongly."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(model, "_is_stateful", False):
        what = ", ".join(sorted(kinds)) or "recurrent state"
        raise UserError(f"Models of the family '{config.model_type}' are not served: their layers keep {what}.")


def _ends(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> frozenset[int]:
    """Every token that ends an answer: what model and tokenizer declare, and what the template writes after a turn."""
    declared = [
        tokenizer.eos_token_id,
        model.config.eos_token_id,
        getattr(model.generation_config, "eos_token_id", None),
    ]
    ends = {token for item in declared for token in (item if isinstance(item, list) else [item]) if token is not None}
    try:
        turn = render(tokenizer, [Message(role="user", content="a"), Message(role="assistant", content="b")])
    except TemplateError:
        return frozenset(ends)
    learned = [token for token, used in zip(turn.ids, turn.mask, strict=True) if used]
    if learned and learned[-1] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder):
        ends.add(learned[-1])
    return frozenset(ends)
