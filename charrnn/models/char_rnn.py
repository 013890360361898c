"""Next-character models: embedding, recurrent stack, head. Knows tokens, not text, files or optimizers.
Shapes: B batch rows, T steps, V vocabulary, E embedding, H hidden."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from charrnn.config.schema import ModelConfig
from charrnn.models.layers import Stack, State

# tables, looked up row by row: weight decay would shrink rare rows most, since they are seldom updated
LOOKED_UP = frozenset({"embedding", "joint_width", "joint_trust"})
# weights with a row for each character (V, ...)
BY_CHARACTER = frozenset({"emission", "embedding", "head", "head_bias", "backward_bias", "joint_bias"})


class CharRNN(Stack):
    """Predicts the next character in each batch row. Holds no state: `model(tokens, state) -> (logits, state)`.

    Tokens are 0 to V-1, and V for the escape. As an input the escape is the mean embedding; the head never predicts it,
    since the vocabulary gives it its probability.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config)
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Parameter(torch.empty(vocabulary_size, int(config.embedding_size)))
        self.head = None if config.tied else nn.Parameter(torch.empty(vocabulary_size, self.feature_size))
        self.head_bias = nn.Parameter(torch.empty(vocabulary_size))
        # tied weights start small, as a head's should; as inputs they are scaled up to unit size (Vaswani et al. 2017)
        self.input_scale = math.sqrt(self.embedding.shape[1]) if config.tied else 1.0

    def initialise(self, generator: Generator, frequencies: Tensor | None = None) -> None:
        """Draw all weights: recurrent ones by the method of config.init, the others uniform or normal, biases 0.

        orthogonal (Saxe et al. 2014) and identity (Le et al. 2015) preserve a signal's size over many steps; xavier
        (Glorot and Bengio 2010); torch does what torch.nn does. An LSTM's forget bias starts at 1, except with torch.
        The head's bias starts at the logarithms of the characters' frequencies (V), if given: to learn them would take
        thousands of steps where characters are many and rare.
        """
        # vectors of unit variance, so that characters differ from the first step on
        nn.init.normal_(self.embedding, std=1 / self.input_scale, generator=generator)
        self.initialise_layers(generator)
        if self.head is not None:
            nn.init.xavier_uniform_(self.head, generator=generator)
        start_bias(self.head_bias, frequencies)

    def forward(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Read tokens (B, T) from a state; return the logits (B, T, V) of each next token, and the next state.

        In training mode dropout draws from `generator`.
        """
        features, state = self.read(tokens, state, generator)
        return self.logits(features), state

    def read(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Do the same as forward, but return the features (B, T, H or E) that the head would read."""
        return self.run_layers(self.embed(tokens), state, generator)

    def logits(self, features: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return logits (..., V) from features (..., H or E), with the head's bias (V) or another one."""
        bias = self.head_bias if bias is None else bias
        weights = self.embedding if self.head is None else self.head
        features = features.contiguous()  # a kernel may return steps first, which makes bf16 products 17 times slower
        if torch.is_autocast_enabled(features.device.type):
            # bf16 has 8 bits, and a rare character's large bias would leave few of them: it is added in fp32
            return F.linear(features, weights) + bias
        return F.linear(features, weights, bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look up the vectors (B, T, E) of tokens (B, T)."""
        # to look for escapes would stall a GPU: there and in training the escape's row is always appended, which costs
        # little beside a window, but much beside a single step on a CPU
        table: Tensor = self.embedding
        if self.training or tokens.is_cuda or bool((tokens == self.vocabulary_size).any()):
            table = torch.cat((self.embedding, self.embedding.mean(0, keepdim=True)))
        vectors = F.embedding(tokens, table)
        return vectors * self.input_scale if self.input_scale != 1.0 else vectors


@torch.no_grad()
def start_bias(bias: Tensor, frequencies: Tensor | None) -> None:
    """Set a head's bias (V) so that it predicts each character by its frequency (V) alone; to 0 without frequencies."""
    bias.zero_() if frequencies is None else bias.copy_(frequencies.log())
