"""Next-character models: embedding, recurrent stack, head. Text, files and optimizers are someone else's business.
Shapes: B lanes, T steps, V vocabulary, E embedding, H hidden, L layers, K time skip, G gates of a cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from charrnn import cells
from charrnn.config import ModelConfig


class State(NamedTuple):
    """Carry a model from window to window: `hidden` (L, B, H); `cell` (L, B, H), LSTM only; `past` (L, B, K, H),
    oldest first, with a time skip only."""

    hidden: Tensor
    cell: Tensor | None = None
    past: Tensor | None = None

    def detach(self) -> State:
        """Cut the graph, so that gradients reach back no further than this window."""
        return self.map(Tensor.detach)

    def lanes(self, index: Tensor | slice) -> State:
        """Choose, reorder or repeat lanes by index along B."""
        return self.map(lambda tensor: tensor[:, index])

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Apply a function to every tensor."""
        hidden, cell, past = (None if tensor is None else function(tensor) for tensor in self)
        assert hidden is not None
        return State(hidden, cell, past)


class RecurrentLayer(nn.Module):
    """One layer of any cell, its weights in torch's own module of that cell.

    A plain cell runs on torch's fused kernel (cuDNN on CUDA). What torch has no kernel for (leaky ReLU, leaky units,
    time skip) runs step by step on the equations of `cells`; so does a single step without gradients, for which
    torch would repack the weights at every call.
    """

    def __init__(self, config: ModelConfig, input_size: int) -> None:
        super().__init__()
        hidden_size = int(config.hidden_size)
        self.cell, self.activation, self.leak = config.cell, config.activation, config.leak
        self.kernel: nn.RNNBase
        if config.cell == "lstm":
            self.kernel = nn.LSTM(input_size, hidden_size, batch_first=True)
        elif config.cell == "gru":
            self.kernel = nn.GRU(input_size, hidden_size, batch_first=True)
        else:
            nonlinearity = "tanh" if config.activation == "tanh" else "relu"
            self.kernel = nn.RNN(input_size, hidden_size, nonlinearity=nonlinearity, batch_first=True)
        self.skip_weight: nn.Parameter | None = None
        if config.time_skip is not None:
            self.skip_weight = nn.Parameter(torch.empty(cells.GATES[config.cell] * hidden_size, hidden_size))
            nn.init.uniform_(self.skip_weight, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
        self.fused = config.activation != "leaky_relu" and config.leak is None and config.time_skip is None

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give W_ih (G H, input), W_hh (G H, H), b_ih (G H) and b_hh (G H)."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weight_ih, weight_hh, bias_ih, bias_hh = (self.kernel.get_parameter(name) for name in names)
        return weight_ih, weight_hh, bias_ih, bias_hh

    def forward(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Run x (B, T, input) from a state; gives the hidden states (B, T, H) and the last state."""
        if self.fused and (x.shape[1] > 1 or torch.is_grad_enabled()):
            hidden = state.hidden[None].to(x.dtype)  # (1, B, H)
            if state.cell is not None:
                y, (hidden, cell) = self.kernel(x, (hidden, state.cell[None].to(x.dtype)))
                return y, cells.StepState(hidden[0], cell[0])
            y, hidden = self.kernel(x, hidden)
            return y, cells.StepState(hidden[0])
        return self.steps(x, state)

    def steps(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward by the equations of `cells`, one step after the other."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.weights()
        projected = F.linear(x, weight_ih, bias_ih)  # (B, T, G H)
        outputs = []
        for step_input in projected.unbind(1):
            state = cells.step(
                self.cell,
                step_input,
                state,
                weight_hh,
                bias_hh,
                activation=self.activation,
                leak=self.leak,
                skip_weight=self.skip_weight,
            )
            outputs.append(state.hidden)
        return torch.stack(outputs, 1), state

    @torch.no_grad()
    def initialise(self, init: str, generator: Generator) -> None:
        """Draw the weights anew; see `initialise` of the model."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.weights()
        recurrent = [weight_hh]
        if self.skip_weight is not None:
            recurrent.append(self.skip_weight)
        gates = cells.GATES[self.cell]
        if init == "torch":
            bound = 1 / math.sqrt(self.kernel.hidden_size)
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            return
        nn.init.zeros_(bias_ih)
        nn.init.zeros_(bias_hh)
        for weight in recurrent:
            for block in weight.chunk(gates):
                if init == "identity":
                    nn.init.eye_(block)
                elif init == "orthogonal":
                    nn.init.orthogonal_(block, generator=generator)
                else:
                    nn.init.xavier_uniform_(block, generator=generator)
        if init == "identity" and self.skip_weight is not None:
            nn.init.zeros_(self.skip_weight)  # one copy of the past is enough: two would double it at each step
        for block in weight_ih.chunk(gates):
            if init == "identity":
                nn.init.normal_(block, std=0.001, generator=generator)  # Le et al. 2015, section 4
            else:
                nn.init.xavier_uniform_(block, generator=generator)
        if self.cell == "lstm":
            bias_ih.chunk(4)[1].fill_(1.0)  # Jozefowicz et al. 2015: remember, until told otherwise


class CharRNN(nn.Module):
    """Predict each next character of B lanes. Holds no state: `model(tokens, state) -> (logits, state)`.

    Tokens are 0 to V-1, and V for the escape, which as an input is the mean embedding and which the head never
    predicts: its probability is the vocabulary's.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        assert "auto" not in {config.hidden_size, config.num_layers, config.embedding_size, config.dropout}
        self.config = config
        self.vocabulary_size = vocabulary_size
        hidden_size, embedding_size = int(config.hidden_size), int(config.embedding_size)
        self.dropout = float(config.dropout)
        self.embedding = nn.Parameter(torch.empty(vocabulary_size, embedding_size))
        inputs = [embedding_size] + [hidden_size] * (int(config.num_layers) - 1)
        with torch.random.fork_rng(devices=[]):  # torch.nn draws first weights from the generator of all
            self.layers = nn.ModuleList(RecurrentLayer(config, size) for size in inputs)
            # tied weights are (V, E): where H differs, the hidden state is brought to E first
            bridged = config.tie_weights and hidden_size != embedding_size
            self.bridge = nn.Linear(hidden_size, embedding_size) if bridged else None
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in inputs) if config.layer_norm else None
        self.head = None if config.tie_weights else nn.Parameter(torch.empty(vocabulary_size, hidden_size))
        self.head_bias = nn.Parameter(torch.empty(vocabulary_size))

    def initialise(self, generator: Generator) -> None:
        """Draw all weights: recurrent ones as config.init says, the rest uniform or normal, biases 0.

        orthogonal (Saxe et al. 2014) and identity (Le et al. 2015) keep a signal's size over many steps; xavier
        (Glorot and Bengio 2010); torch is what torch.nn does. An LSTM's forget bias starts at 1, but for torch.
        """
        # unit size, so that characters differ from the first step on; as a head, 1 / sqrt(E) keeps the logits small
        std = 1 / math.sqrt(self.embedding.shape[1]) if self.config.tie_weights else 1.0
        nn.init.normal_(self.embedding, std=std, generator=generator)
        for layer in self.layers:
            assert isinstance(layer, RecurrentLayer)
            layer.initialise(self.config.init, generator)
        if self.bridge is not None:
            nn.init.xavier_uniform_(self.bridge.weight, generator=generator)
            nn.init.zeros_(self.bridge.bias)
        if self.head is not None:
            nn.init.xavier_uniform_(self.head, generator=generator)
        nn.init.zeros_(self.head_bias)

    def start_state(self, batch_size: int) -> State:
        """Give the state before any text: zeros, for B lanes."""
        layers, hidden, like = len(self.layers), int(self.config.hidden_size), self.embedding
        skip = self.config.time_skip
        return State(
            like.new_zeros(layers, batch_size, hidden),
            like.new_zeros(layers, batch_size, hidden) if self.config.cell == "lstm" else None,
            like.new_zeros(layers, batch_size, skip, hidden) if skip is not None else None,
        )

    def forward(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Read tokens (B, T) from a state; gives logits (B, T, V) of what follows each, and the state after the last.

        In training mode dropout draws from `generator`.
        """
        x = self._embed(tokens)  # (B, T, E)
        after: list[cells.StepState] = []
        for index, layer in enumerate(self.layers):
            before = cells.StepState(*(None if tensor is None else tensor[index] for tensor in state))
            y, layer_state = layer(x, before)  # (B, T, H)
            after.append(layer_state)
            if self.norms is not None:
                y = self.norms[index](y)
            if self.training and self.dropout > 0.0:
                y = y * torch.empty_like(y).bernoulli_(1 - self.dropout, generator=generator) / (1 - self.dropout)
            x = x + y if self.config.residual and x.shape == y.shape else y
        if self.bridge is not None:
            x = self.bridge(x)
        logits = F.linear(x, self.embedding if self.head is None else self.head, self.head_bias)
        columns = zip(*after, strict=True)
        after_all = State(*(None if column[0] is None else torch.stack(column) for column in columns))  # type: ignore[arg-type]
        # under bf16 a kernel gives bf16: what is carried and saved keeps the type of the weights, which loses nothing
        return logits, after_all.map(lambda tensor: tensor.to(self.embedding.dtype))

    def _embed(self, tokens: Tensor) -> Tensor:
        # training has no look at the tokens (that would stall a GPU): it always appends the escape's row, which costs
        # little beside a window; a single step would notice
        if self.training or bool((tokens == self.vocabulary_size).any()):
            return F.embedding(tokens, torch.cat((self.embedding, self.embedding.mean(0, keepdim=True))))
        return F.embedding(tokens, self.embedding)


def nats(logits: Tensor, targets: Tensor, known_nats: float, escape_nats: float) -> Tensor:
    """Price every target (B, T) under logits (B, T, V), in nats (B, T): the softmax's price plus that of not being
    an escape, or the escape's own (see `vocabulary`)."""
    vocabulary_size = logits.shape[-1]
    escaped = targets == vocabulary_size
    inside = targets.masked_fill(escaped, 0).flatten()
    rows = logits.flatten(0, 1)
    # bf16 has 8 bits for a sum over V: the softmax is taken in fp32 at least
    rows = rows.float() if rows.dtype == torch.bfloat16 else rows
    loss = F.cross_entropy(rows, inside, reduction="none")
    return torch.where(escaped, escape_nats, loss.view_as(targets) + known_nats)


@torch.no_grad()
def transplant(old: CharRNN, old_characters: str, new: CharRNN, new_characters: str) -> int:
    """Copy a model's weights into one of another vocabulary, rows matched by character; gives how many were known.

    A character new to the old model starts as its mean character, so that it is unremarkable rather than noise.
    """
    assert old.config.model_copy(update={"dropout": 0.0}) == new.config.model_copy(update={"dropout": 0.0})
    rows = {character: row for row, character in enumerate(old_characters)}
    known = [(row, rows[character]) for row, character in enumerate(new_characters) if character in rows]
    to, source = (torch.tensor([pair[side] for pair in known], dtype=torch.long) for side in (0, 1))
    before, after = old.state_dict(), new.state_dict()
    for name, weights in after.items():
        if name in {"embedding", "head", "head_bias"}:
            weights.copy_(before[name].mean(0, keepdim=True).expand_as(weights))
            weights[to] = before[name][source]
        else:
            weights.copy_(before[name])
    return len(known)
