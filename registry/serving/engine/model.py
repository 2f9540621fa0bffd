"""One base model and any number of adapters on it: who answers is decided per row of a batch."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from project.contracts.chat import Message
from project.contracts.runs import UserError
from project.modeling.loading import fast_dtype, load_adapter, load_base, load_tokenizer
from project.modeling.render import TemplateError, prompt_ids, render

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from registry.serving.engine.spec import EngineSpec

BASE = "base"
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

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids exactly as in training. Raises TemplateError."""
        return prompt_ids(self.tokenizer, messages)


class ServedModel:
    """The weights. Everything but `voices` may be touched by the decoding thread only."""

    def __init__(self, spec: "EngineSpec") -> None:
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
        check_adapter(path)
        base = self.voices[BASE]
        tokenizer = load_tokenizer(path) if (path / "tokenizer_config.json").is_file() else base.tokenizer
        self._peft = load_adapter(self._peft or self._base, path, name)
        self._changed()
        lane = MIXED if self._mixer.can_mix(self._peft, name) else name
        self.voices[name] = Voice(name, tokenizer, _ends(tokenizer, self._base), lane, path)

    def remove(self, name: str) -> None:
        """Forget an adapter and free its memory."""
        del self.voices[name]
        self._changed()
        if len(self.voices) == 1:
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
        self._choose(names)
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepted:
            extra["position_ids"] = positions
        if "logits_to_keep" in self._accepted:
            extra["logits_to_keep"] = 1
        model = self._peft or self._base
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


def check_adapter(path: Path) -> None:
    """Raise UserError if the adapter in `path` can't be served beside others."""
    try:
        config = json.loads((path / "adapter_config.json").read_bytes())
    except (OSError, ValueError):
        message = f"{path.name} is not an adapter: it has no readable adapter_config.json."
        raise UserError(message, field="path") from None
    kind = str(config.get("peft_type", "")).upper()
    if kind in ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CPT"):
        raise UserError(f"Adapters of type {kind} are not served yet.", field="path")
    if config.get("bias", "none") != "none":
        raise UserError(
            "The adapter changes biases of the base model, which others share.",
            hint="Merge it into its base and serve the result.",
            field="path",
        )


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
