"""The recurrent part of a model: layers of any cell, one on the other, that hold no state.
Knows vectors, not characters.
Shapes: B lanes, T steps, E embedding, H hidden, L layers, K time skip, G gates of a cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.nn import functional as F

from charrnn.config.schema import ModelConfig
from charrnn.device import cpu_lstm_takes_bf16, cudnn_takes_bf16
from charrnn.models import bptt, cells


class State(NamedTuple):
    """Carry a model from window to window: `hidden` (L, B, H); `cell` (L, B, H), LSTM only; `past` (L, B, K, H),
    oldest first, with a time skip only."""

    hidden: Tensor
    cell: Tensor | None = None
    past: Tensor | None = None

    def detach(self) -> State:
        """Cut the graph, so that gradients reach back no further than this window."""
        return self.map(Tensor.detach)

    def select(self, index: Tensor | slice) -> State:
        """Choose, reorder or repeat lanes by index along B."""
        return self.map(lambda tensor: tensor[:, index])

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Apply a function to every tensor."""
        hidden, cell, past = (None if tensor is None else function(tensor) for tensor in self)
        assert hidden is not None
        return State(hidden, cell, past)


class RecurrentLayer(nn.Module):
    """One layer of any cell, its weights in torch's own module of that cell.

    A plain cell runs on torch's fused kernel (cuDNN on CUDA), or where `own` is set on the loops of `recurrence`; what
    torch has no kernel for (leaky ReLU, leaky units, time skip; on some CPUs an LSTM in bf16) always does. A single
    step without gradients runs on the equations of `cells`, since torch would repack the weights at every call; on
    CUDA, where each operation has to be launched, on torch's kernel of one step.
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
        self.own = not self.fused

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give W_ih (G H, input), W_hh (G H, H), b_ih (G H) and b_hh (G H)."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weight_ih, weight_hh, bias_ih, bias_hh = (self.kernel.get_parameter(name) for name in names)
        return weight_ih, weight_hh, bias_ih, bias_hh

    def forward(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Run x (B, T, input) from a state; gives the hidden states (B, T, H) and the last state."""
        rounded = x.is_cuda and torch.is_autocast_enabled("cuda")
        if x.shape[1] == 1 and not torch.is_grad_enabled():
            return self.single_step(x, state) if x.is_cuda and self.fused and not rounded else self.steps(x, state)
        kind = x.device.type
        products = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bf16_lstm = self.cell == "lstm" and kind == "cpu" and products == torch.bfloat16
        if self.own or (bf16_lstm and not cpu_lstm_takes_bf16()):
            loop = bptt.Kind(self.cell, self.activation, self.leak, products)
            return bptt.run(loop, x, state, bptt.Weights(*self.weights(), self.skip_weight))
        if rounded and cudnn_takes_bf16():
            return self.in_bf16(x, state)
        if rounded:
            with torch.autocast("cuda", enabled=False):
                return self.forward(x.float(), state)
        hidden = state.hidden[None].to(x.dtype)  # (1, B, H)
        if state.cell is not None:
            y, (hidden, cell) = self.kernel(x, (hidden, state.cell[None].to(x.dtype)))
            return y, cells.StepState(hidden[0], cell[0])
        y, hidden = self.kernel(x, hidden)
        return y, cells.StepState(hidden[0])

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

    def single_step(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward for T = 1 and a plain cell, by torch's functions for one step."""
        cell = None
        if state.cell is not None:
            hidden, cell = torch.lstm_cell(x[:, 0], (state.hidden, state.cell), *self.weights())
        else:
            step = {"GRU": torch.gru_cell, "RNN_TANH": torch.rnn_tanh_cell, "RNN_RELU": torch.rnn_relu_cell}
            hidden = step[self.kernel.mode](x[:, 0], state.hidden, *self.weights())
        return hidden[:, None], cells.StepState(hidden, cell)

    def in_bf16(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward by torch's kernel, in bf16.

        On CUDA autocast runs these kernels in fp16 even where it was asked for bf16, and the gradients of a mean over
        thousands of characters are too small for fp16.
        """
        weights = list(_Rounded.apply(self.kernel, *self.weights()))  # type: ignore[no-untyped-call]
        x, hidden = x.to(torch.bfloat16), state.hidden[None].to(torch.bfloat16)
        options = True, 1, 0.0, self.training, False, True  # biases, layers, dropout, training, both ways, batch first
        with torch.autocast(x.device.type, enabled=False):
            if state.cell is not None:
                hidden_cell = hidden, state.cell[None].to(torch.bfloat16)
                y, hidden, cell = torch.lstm(x, hidden_cell, weights, *options)
                return y, cells.StepState(hidden[0], cell[0])
            run = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[self.kernel.mode]
            y, hidden = run(x, hidden, weights, *options)
        return y, cells.StepState(hidden[0])

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


class _Rounded(torch.autograd.Function):
    """A layer's four weights in bf16, on CUDA side by side in memory as cuDNN wants them: else torch would put them so
    itself, with a warning. Gradients come back in the weights' own format."""

    @staticmethod
    def forward(ctx: Any, kernel: nn.RNNBase, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        copies = [weight.to(torch.bfloat16) for weight in weights]
        if copies[0].is_cuda:
            mode, sizes = get_cudnn_mode(kernel.mode), (kernel.input_size, kernel.hidden_size)  # type: ignore[no-untyped-call]
            # of one layer and direction, with biases, without projection
            torch._cudnn_rnn_flatten_weight(copies, len(copies), sizes[0], mode, sizes[1], 0, 1, True, False)
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(gradient.to(ctx.dtype) for gradient in gradients)


class Stack(nn.Module):
    """Layers from the embedding's size E to the features that a head reads: H, or E where weights are tied."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert not config.unsettled
        self.config = config
        hidden_size, embedding_size = int(config.hidden_size), int(config.embedding_size)
        self.dropout = float(config.dropout)
        inputs = [embedding_size] + [hidden_size] * (int(config.num_layers) - 1)
        with torch.random.fork_rng(devices=[]):  # torch.nn draws first weights from the generator of all
            self.layers = nn.ModuleList(RecurrentLayer(config, size) for size in inputs)
            # tied weights are (V, E): where H differs, the hidden state is brought to E first
            bridged = config.tied and hidden_size != embedding_size
            self.bridge = nn.Linear(hidden_size, embedding_size) if bridged else None
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in inputs) if config.layer_norm else None

    @property
    def feature_size(self) -> int:
        """Give the size of the features."""
        return int(self.config.embedding_size if self.config.tied else self.config.hidden_size)

    def initialise_layers(self, generator: Generator) -> None:
        """Draw the layers' weights anew, as config.init says."""
        for layer in self.layers:
            assert isinstance(layer, RecurrentLayer)
            layer.initialise(self.config.init, generator)
        if self.bridge is not None:
            nn.init.xavier_uniform_(self.bridge.weight, generator=generator)
            nn.init.zeros_(self.bridge.bias)

    def use_custom_kernel(self, own: bool) -> None:
        """Run all layers, in both directions, on the loops of `recurrence`, or on torch's kernels where it has one."""
        for layer in self.modules():
            if isinstance(layer, RecurrentLayer):
                layer.own = own or not layer.fused

    def initial_state(self, batch_size: int) -> State:
        """Give the state before any text: zeros, for B lanes."""
        layers, hidden = len(self.layers), int(self.config.hidden_size)
        like, skip = next(self.parameters()), self.config.time_skip
        return State(
            like.new_zeros(layers, batch_size, hidden),
            like.new_zeros(layers, batch_size, hidden) if self.config.cell == "lstm" else None,
            like.new_zeros(layers, batch_size, skip, hidden) if skip is not None else None,
        )

    def run_layers(self, x: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Run x (B, T, E) through all layers from a state; gives the features (B, T, H or E) and the state after.

        In training mode dropout draws from `generator`.
        """
        after: list[cells.StepState] = []
        for index, layer in enumerate(self.layers):
            before = cells.StepState(*(None if tensor is None else tensor[index] for tensor in state))
            y, layer_state = layer(x, before)  # (B, T, H)
            after.append(layer_state)
            if self.norms is not None:
                y = self.norms[index](bptt.rows(y))
            y = self.apply_dropout(y, generator)
            # a tied embedding brought to the head would foretell each character to come again
            added = self.config.residual and x.shape == y.shape and not (index == 0 and self.config.tied)
            x = x + y if added else y
        x = bptt.rows(x)  # for the head, or the bridge to it
        if self.bridge is not None:
            x = self.bridge(x)
        columns = zip(*after, strict=True)
        after_all = State(*(None if column[0] is None else torch.stack(column) for column in columns))  # type: ignore[arg-type]
        # under bf16 a kernel gives bf16: what is carried and saved keeps the type of the weights, which loses nothing
        return x, after_all.map(lambda tensor: tensor.to(next(self.parameters()).dtype))

    def apply_dropout(self, y: Tensor, generator: Generator | None) -> Tensor:
        """Drop a share of values in training mode, and scale the others up."""
        if self.training and self.dropout > 0.0:
            return y * torch.empty_like(y).bernoulli_(1 - self.dropout, generator=generator) / (1 - self.dropout)
        return y
