"""The next token of each row: greedy, or drawn with the row's own temperature, top_p, penalties and seed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn. Temperature 0 is greedy: the most likely token, always."""

    temperature: float = 1.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None


@dataclass
class Sampler:
    """Draws the tokens of one answer. In float32 a seed gives the same answer, whoever else is in the batch."""

    sampling: Sampling
    _counts: dict[int, int] = field(default_factory=dict)
    _generator: "torch.Generator | None" = None

    @property
    def is_plain_greedy(self) -> bool:
        s = self.sampling
        return s.temperature == 0 and not s.frequency_penalty and not s.presence_penalty

    def draw(self, logits: "torch.Tensor") -> int:
        """A token id from one row of logits (vocabulary,)."""
        logits = self._penalised(logits.float().cpu())
        token = int(logits.argmax() if self.sampling.temperature == 0 else self._sample(logits))
        if self.sampling.frequency_penalty or self.sampling.presence_penalty:
            self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _penalised(self, logits: "torch.Tensor") -> "torch.Tensor":
        """Over the answer so far: logit - count * frequency_penalty - (count > 0) * presence_penalty (OpenAI)."""
        if self._counts:
            logits = logits.clone()
            for token, count in self._counts.items():
                logits[token] -= count * self.sampling.frequency_penalty + self.sampling.presence_penalty
        return logits

    def _sample(self, logits: "torch.Tensor") -> "torch.Tensor":
        """Nucleus sampling (Holtzman et al. 2020): the smallest set of tokens whose probability reaches top_p."""
        from torch import Generator, multinomial

        if self._generator is None:
            self._generator = Generator()
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.sampling.seed)
        probabilities = (logits / self.sampling.temperature).softmax(-1)
        if self.sampling.top_p >= 1:
            return multinomial(probabilities, 1, generator=self._generator)
        ordered, tokens = probabilities.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # the first token always stays
        ordered = ordered.masked_fill(before >= max(self.sampling.top_p, 1e-9), 0.0)
        return tokens[multinomial(ordered, 1, generator=self._generator)]
