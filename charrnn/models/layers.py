"""The recurrent part of a model: a stack of layers of any cell, which hold no state. Knows vectors, not characters.
Shapes: B batch rows, T steps, I inputs, E embedding, H hidden, L layers, K time skip, G gates of a cell."""

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
    """The state of a model between windows: `hidden` (L, B, H); `cell` (L, B, H), for cells that have one; `past`
    (L, B, K, H), oldest first, with a time skip only."""

    hidden: Tensor
    cell: Tensor | None = None
    past: Tensor | None = None

    def detach(self) -> State:
        """Return the state without its graph, so that no gradient reaches back beyond this window."""
        return self.map(Tensor.detach)

    def select(self, index: Tensor | slice) -> State:
        """Return the batch rows that `index` names, in its order; a row may come several times."""
        return self.map(lambda tensor: tensor[:, index])

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """Return the state with a function applied to every tensor."""
        hidden, cell, past = (None if tensor is None else function(tensor) for tensor in self)
        assert hidden is not None
        return State(hidden, cell, past)


class RecurrentLayer(nn.Module):
    """One layer of any cell, its weights in torch's own module of that cell where there is one.

    A cell runs on torch's fused kernel (cuDNN on CUDA), or on the custom kernel of `bptt` if `custom` is set. Without
    a fused one (leaky ReLU, leaky units, time skip; on some CPUs an LSTM in bf16) it always runs on the custom kernel,
    and a cell that has neither runs on its equation, step by step. So does a single step without gradients, since torch
    would repack the weights at every call; on CUDA, where each operation costs a launch, it runs on torch's kernel for
    one step.
    """

    def __init__(self, config: ModelConfig, input_size: int) -> None:
        super().__init__()
        hidden_size = int(config.hidden_size)
        self.cell, self.activation, self.leak = config.cell, config.activation, config.leak
        self.record = cells.CELLS[config.cell]
        self.kernel: nn.Module
        if self.record.kernel is None:
            shapes = self.record.shapes(input_size, hidden_size)
            self.kernel = nn.ParameterDict([(name, torch.empty(shape)) for name, shape in shapes.items()])
        else:
            nonlinearity = "tanh" if config.activation == "tanh" else "relu"
            options = {"nonlinearity": nonlinearity} if self.record.takes_activation else {}
            self.kernel = getattr(nn, self.record.kernel)(input_size, hidden_size, batch_first=True, **options)
        self.skip_weight: nn.Parameter | None = None
        if config.time_skip is not None:
            self.skip_weight = nn.Parameter(torch.empty(self.record.gates * hidden_size, hidden_size))
            nn.init.uniform_(self.skip_weight, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
        plain = config.activation != "leaky_relu" and config.leak is None and config.time_skip is None
        self.fused = self.record.kernel is not None and plain
        self.custom = not self.fused

    def weights(self) -> tuple[Tensor, ...]:
        """Return W_ih (G H, I), W_hh (G H, H), b_ih (G H) and b_hh (G H), or those that the cell has."""
        return tuple(self.kernel.parameters())

    def forward(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Run x (B, T, I) from a state; return the hidden states (B, T, H) and the last state."""
        rounded = x.is_cuda and torch.is_autocast_enabled("cuda")
        if x.shape[1] == 1 and not torch.is_grad_enabled():
            return self.single_step(x, state) if x.is_cuda and self.fused and not rounded else self.run_steps(x, state)
        if self.custom and not self.record.custom_kernel:
            return self.run_steps(x, state)
        device = x.device.type
        products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        bf16_lstm = self.cell == "lstm" and device == "cpu" and products == torch.bfloat16
        if self.custom or (bf16_lstm and not cpu_lstm_takes_bf16()):
            kind = bptt.Kind(self.cell, self.activation, self.leak, products)
            return bptt.run(kind, x, state, bptt.Weights._make((*self.weights(), self.skip_weight)))
        if rounded and cudnn_takes_bf16():
            return self.in_bf16(x, state)
        if rounded:
            with torch.autocast("cuda", enabled=False):
                return self.forward(x.float(), state)
        return self.run_fused(x, state, list(self.weights()))

    def run_steps(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward by the equations of `cells`, one step after the other."""
        named = dict(self.kernel.named_parameters())
        projected = F.linear(x, named["weight_ih_l0"], named["bias_ih_l0"])  # (B, T, G H)
        outputs = []
        for step_input in projected.unbind(1):
            state = cells.step(
                self.cell,
                step_input,
                state,
                named.get("weight_hh_l0"),
                named.get("bias_hh_l0"),
                activation=self.activation,
                leak=self.leak,
                skip_weight=self.skip_weight,
            )
            outputs.append(state.hidden)
        return torch.stack(outputs, 1), state

    def single_step(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward for T = 1, by torch's functions for one step."""
        cell = None
        if state.cell is not None:
            hidden, cell = torch.lstm_cell(x[:, 0], (state.hidden, state.cell), *self.weights())
        else:
            step = {"GRU": torch.gru_cell, "RNN_TANH": torch.rnn_tanh_cell, "RNN_RELU": torch.rnn_relu_cell}
            hidden = step[str(self.kernel.mode)](x[:, 0], state.hidden, *self.weights())
        return hidden[:, None], cells.StepState(hidden, cell)

    def in_bf16(self, x: Tensor, state: cells.StepState) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward by torch's kernel, in bf16.

        On CUDA, autocast runs these kernels in fp16 even when bf16 was asked for, and the gradients of a mean over
        thousands of characters are too small for fp16.
        """
        weights = list(_Rounded.apply(self.kernel, *self.weights()))  # type: ignore[no-untyped-call]
        with torch.autocast(x.device.type, enabled=False):
            return self.run_fused(x.to(torch.bfloat16), state, weights)

    def run_fused(self, x: Tensor, state: cells.StepState, weights: list[Tensor]) -> tuple[Tensor, cells.StepState]:
        """Do the same as forward by torch's kernel, in the type of x."""
        options = True, 1, 0.0, self.training, False, True  # biases, layers, dropout, training, both ways, batch first
        hidden = state.hidden[None].to(x.dtype)  # (1, B, H)
        if state.cell is not None:
            y, hidden, cell = torch.lstm(x, (hidden, state.cell[None].to(x.dtype)), weights, *options)
            return y, cells.StepState(hidden[0], cell[0])
        run = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[str(self.kernel.mode)]
        y, hidden = run(x, hidden, weights, *options)
        return y, cells.StepState(hidden[0])

    @torch.no_grad()
    def initialise(self, init: str, generator: Generator) -> None:
        """Draw the weights anew; see `initialise` of the model."""
        gates, named = self.record.gates, dict(self.kernel.named_parameters())
        weight_ih, weight_hh = named["weight_ih_l0"], named.get("weight_hh_l0")
        if init == "torch":
            bound = 1 / math.sqrt(len(weight_ih) // gates)
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            return
        for name, parameter in named.items():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
        for weight in (weight_hh, self.skip_weight):
            for block in () if weight is None else weight.chunk(gates):
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
        for gate, bias in self.record.first_biases.items():
            named["bias_ih_l0"].chunk(gates)[gate].fill_(bias)


class _Rounded(torch.autograd.Function):
    """A layer's four weights in bf16; on CUDA in one block of memory, as cuDNN wants them: else torch would copy them
    there at each call, with a warning. Gradients come back in the weights' own format."""

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
    """Layers from the embedding (E) to the features that a head reads (H, or E if its weights are tied)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert not config.unresolved
        self.config = config
        hidden_size, embedding_size = int(config.hidden_size), int(config.embedding_size)
        self.dropout = float(config.dropout)
        inputs = [embedding_size] + [hidden_size] * (int(config.num_layers) - 1)
        with torch.random.fork_rng(devices=[]):  # torch.nn draws first weights from the global generator
            self.layers = nn.ModuleList(RecurrentLayer(config, size) for size in inputs)
            # output projection: tied weights are (V, E), so that a hidden state of another size is projected to E first
            projected = config.tied and hidden_size != embedding_size
            self.bridge = nn.Linear(hidden_size, embedding_size) if projected else None
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in inputs) if config.layer_norm else None

    @property
    def feature_size(self) -> int:
        """Return the size of the features: H, or E."""
        return int(self.config.embedding_size if self.config.tied else self.config.hidden_size)

    def initialise_layers(self, generator: Generator) -> None:
        """Draw the layers' weights anew, by the method of config.init."""
        for layer in self.layers:
            assert isinstance(layer, RecurrentLayer)
            layer.initialise(self.config.init, generator)
        if self.bridge is not None:
            nn.init.xavier_uniform_(self.bridge.weight, generator=generator)
            nn.init.zeros_(self.bridge.bias)

    def use_custom_kernel(self, custom: bool) -> None:
        """Run all layers, in both directions, on the kernel of `bptt`, or on torch's where it has one."""
        for layer in self.modules():
            if isinstance(layer, RecurrentLayer):
                layer.custom = custom or not layer.fused

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any text: zeros, for B batch rows."""
        layers, hidden = len(self.layers), int(self.config.hidden_size)
        like, skip = next(self.parameters()), self.config.time_skip
        return State(
            like.new_zeros(layers, batch_size, hidden),
            like.new_zeros(layers, batch_size, hidden) if cells.CELLS[self.config.cell].cell_state else None,
            like.new_zeros(layers, batch_size, skip, hidden) if skip is not None else None,
        )

    def run_layers(self, x: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Run x (B, T, E) through all layers from a state; return the features (B, T, H or E) and the next state.

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
            # a tied embedding added to the features would predict that each character repeats
            added = self.config.residual and x.shape == y.shape and not (index == 0 and self.config.tied)
            x = x + y if added else y
        x = bptt.rows(x)
        if self.bridge is not None:
            x = self.bridge(x)
        columns = zip(*after, strict=True)
        after_all = State(*(None if column[0] is None else torch.stack(column) for column in columns))  # type: ignore[arg-type]
        # a kernel in bf16 returns bf16: the state keeps the type of the weights, which loses nothing
        return x, after_all.map(lambda tensor: tensor.to(next(self.parameters()).dtype))

    def apply_dropout(self, y: Tensor, generator: Generator | None) -> Tensor:
        """Drop a share of the values in training mode, and scale the others up."""
        if self.training and self.dropout > 0.0:
            return y * torch.empty_like(y).bernoulli_(1 - self.dropout, generator=generator) / (1 - self.dropout)
        return y
