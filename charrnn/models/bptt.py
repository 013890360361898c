"""The custom kernel: a layer's whole window, with backpropagation through time by hand (Werbos 1990), for the cells
rnn, gru and lstm with every option.

It computes what the equations of `cells` and autograd would step by step, in a fraction of the time: its products are
plain matrix products, in a number format of their own (bf16, say), and it saves only what the backward pass needs.
Weights and masks are arguments, so that weight dropout (Merity et al. 2018) and zoneout (Krueger et al. 2017) cost no
speed.
Shapes: T steps, B batch rows, I inputs, H hidden, K time skip, G gates. Vectors of a step are columns, (H, B)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charrnn.models import cells

# a tensor, which operations on any device read like a number: with a number, 2 x - 1 would take two passes over memory
_MINUS_ONE = torch.tensor(-1.0, device="cpu")


class Weights(NamedTuple):
    """A layer's weights: W_ih (G H, I), W_hh (G H, H), b_ih and b_hh (G H), and U (G H, H) of a time skip."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
    skip_weight: Tensor | None = None


class Masks(NamedTuple):
    """The units that keep their previous value (B, T, H), as booleans: of the hidden state, and of the LSTM's cell."""

    hidden: Tensor | None = None
    cell: Tensor | None = None


class Kind(NamedTuple):
    """What to run: the cell with its options, and the number format of the products."""

    cell: str
    activation: str = "tanh"
    leak: float | None = None
    products: torch.dtype = torch.float32


def run(
    kind: Kind, x: Tensor, state: cells.StepState, weights: Weights, masks: Masks | None = None
) -> tuple[Tensor, cells.StepState]:
    """Run x (B, T, I) from a state through one layer; return the hidden states (B, T, H) and the state after the last.

    The equations are those of `cells.step`; where a mask is set, a unit keeps its value of the step before. The hidden
    states have the format of the products, and the layout in memory that the next layer reads.
    """
    masks = masks or Masks()
    columns = (None if tensor is None else tensor.permute(1, 2, 0) for tensor in (x, state.past, *masks))
    hidden, cell = state.hidden.t(), None if state.cell is None else state.cell.t()
    outputs = _Window.apply(kind, torch.is_grad_enabled(), *weights, hidden, cell, *columns)  # type: ignore[no-untyped-call]
    y, *after = (None if tensor is None else tensor.movedim(-1, 0) for tensor in outputs)
    assert y is not None
    return y, cells.StepState(*after)


def rows(y: Tensor) -> Tensor:
    """Return hidden states (B, T, H) with the H numbers of each contiguous in memory, as a head reads them."""
    if y.stride(-1) == 1:
        return y
    return _Rows.apply(y)  # type: ignore[no-any-return, no-untyped-call]


class _Gates:
    """The pointwise part of each step of a window, and the buffers that save its results for the backward pass.

    A column holds a step's sums in torch's order of gates; those of a GRU are W_in x, r, z, W_hn h, so that each of
    the two products fills one block.
    """

    def __init__(self, kind: Kind, mask: Tensor | None, values: Tensor, inner: Tensor, cell: Tensor) -> None:
        self.kind, self.mask, self.buffers = kind, mask, (values, inner, cell)
        self.capacity, _, self.size, _ = values.shape
        # views of single steps, made once
        sums = values.flatten(1, 2)
        self.sums, self.inner, self.cells = sums.unbind(0), inner.unbind(0), cell.unbind(0)
        self.gates = tuple(zip(*(gate.unbind(0) for gate in values.unbind(1)), strict=True))
        self.gated = slice(self.size, 3 * self.size) if kind.cell == "gru" else slice(0, 2 * self.size)
        self.sigmoids = sums[:, self.gated].unbind(0)

    @classmethod
    def allocate(cls, kind: Kind, mask: Tensor | None, capacity: int, like: Tensor) -> _Gates:
        """Allocate the buffers of some steps: the gates' values, and tanh c and c of an LSTM."""
        record = cells.CELLS[kind.cell]
        values = like.new_empty(capacity, record.gates + record.inner_gates, *like.shape)
        inner, cell = (like.new_empty(capacity if record.cell_state else 0, *like.shape) for _ in range(2))
        return cls(kind, mask, values, inner, cell)

    def forward(self, step: int, before: Tensor, out: Tensor) -> None:
        """Apply the nonlinearities to a column of sums; write the next hidden state (H, B) into `out`."""
        slot = step % self.capacity
        z = self.sums[slot]
        if self.kind.cell == "gru":
            n, reset, update, inner = self.gates[slot]
            self.sigmoids[slot].sigmoid_()
            _tanh_(n.addcmul_(reset, inner))
            torch.lerp(n, before, update, out=out)
        elif self.kind.cell == "lstm":
            i, f, g, o = self.gates[slot]
            c_before, c, inner = self.cells[slot], self.cells[(step + 1) % self.capacity], self.inner[slot]
            g.mul_(2)
            z.sigmoid_()
            _centre_(g)  # tanh
            torch.mul(f, c_before, out=c).addcmul_(i, g)
            _centre_(torch.mul(c, 2, out=inner).sigmoid_())
            if self.mask is not None:
                torch.where(self.mask[step], c_before, c, out=c)
            torch.mul(o, inner, out=out)
        elif self.kind.activation == "tanh":
            out.copy_(_tanh_(z))
        else:
            out.copy_(z.copy_(cells.ACTIVATIONS[self.kind.activation](z)))

    def backward(self, step: int, dh: Tensor, dc: Tensor, before: Tensor, d: Tensor) -> Tensor | None:
        """Write the gradient of a column of sums into d (G H, B); return that of the hidden state before, except the
        part through W_hh. Turns dc, the gradient of the cell, into that of the cell before."""
        if self.kind.cell == "rnn":
            z = self.sums[step]
            if self.kind.activation == "tanh":
                _tanh_back(dh, z, out=d)
            else:
                torch.where(z > 0, dh, dh * (0.01 if self.kind.activation == "leaky_relu" else 0.0), out=d)
            return None
        direct, gated = None, d[self.gated]
        if self.kind.cell == "gru":
            n, reset, update, inner = self.gates[step]
            dn, d_reset, d_update, d_inner = d.chunk(4)
            direct = dh * update
            _tanh_back(dh - direct, n, out=dn)
            torch.mul(dn, inner, out=d_reset)
            torch.mul(dn, reset, out=d_inner)
            torch.mul(dh, before - n, out=d_update)
        else:
            i, f, g, o = self.gates[step]
            di, df, dg, do = d.chunk(4)
            inner = self.inner[step]
            through = _tanh_back(dh * o, inner)
            masked = None
            if self.mask is not None:
                masked = torch.where(self.mask[step], dc, 0)
                dc.sub_(masked)
            dc.add_(through)
            torch.mul(dc, g, out=di)
            torch.mul(dc, self.cells[step], out=df)
            _sigmoid_back(torch.mul(dh, inner, out=do), o, out=do)
            _tanh_back(torch.mul(dc, i, out=dg), g, out=dg)
            dc.mul_(f)
            if masked is not None:
                dc.add_(masked)
        _sigmoid_back(gated, self.sigmoids[step], out=gated)
        return direct


class _Window(torch.autograd.Function):
    """The loop over a window's steps, and the backward loop."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: Kind,
        needs_gradient: bool,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        skip_weight: Tensor | None,
        hidden: Tensor,
        cell: Tensor | None,
        x: Tensor,
        past: Tensor | None,
        hidden_mask: Tensor | None,
        cell_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        low, steps = kind.products, len(x)
        exact = low == hidden.dtype
        inputs = x.to(low).contiguous()  # (T, I, B)
        # with one batch row, each step waits for the weights from memory, so that one product for all steps is faster;
        # with several, the cache makes a product in each step faster
        single = hidden.shape[1] == 1
        w_ih, w_hh = weight_ih.to(low), weight_hh.to(low)
        projected = None
        if single:
            projected = _sum_order(kind, w_ih @ _flat(inputs)).t().contiguous()[:, :, None]  # (T, G H, 1)
        else:
            w_ih = _sum_order(kind, w_ih)
        w_skip = None if skip_weight is None else _sum_order(kind, skip_weight.to(low))
        earlier = None if past is None else past.to(low)
        gates = _Gates.allocate(kind, cell_mask, steps + 1 if needs_gradient else 2, hidden)  # 2: before and after
        if cell is not None:
            gates.cells[0].copy_(cell)
        bias = hidden.new_zeros(len(gates.sums[0]), 1)
        of_x, of_h = slice(0, len(bias_ih)), slice(len(bias) - len(bias_hh), None)
        bias[of_x, 0] += _sum_order(kind, bias_ih)
        bias[of_h, 0] += bias_hh
        rounded = hidden.new_empty(steps + 1, *hidden.shape, dtype=low)  # before each step and after the last
        columns = rounded.unbind(0)  # the products' inputs
        columns[0].copy_(hidden)
        # products that are not rounded write into the saved buffers, and read them
        sums, full = gates.buffers[0].flatten(1, 2), rounded
        if not exact:
            sums = hidden.new_empty(1, len(bias), hidden.shape[1], dtype=low).expand_as(sums)
            full = hidden.new_empty(gates.capacity, *hidden.shape)
            full[0] = hidden
        states = full.unbind(0)
        all_sums, sums_x, sums_h = (block.unbind(0) for block in (sums, sums[:, of_x], sums[:, of_h]))
        only_h = sums[:, of_x.stop :].unbind(0)  # the blocks of W_hh h alone
        for step, column in enumerate(inputs.unbind(0)):
            slot, before, h = step % gates.capacity, states[step % len(states)], states[(step + 1) % len(states)]
            if projected is None:
                torch.mm(w_ih, column, out=sums_x[slot])
            else:
                sums_x[slot].copy_(projected[step])
            if kind.cell == "gru":
                only_h[slot].zero_()
            sums_h[slot].addmm_(w_hh, columns[step])
            if w_skip is not None and earlier is not None:
                since = step - len(earlier)
                sums_x[slot].addmm_(w_skip, earlier[step] if since < 0 else columns[since + 1])
            if not exact:
                gates.sums[slot].copy_(all_sums[slot])
            gates.sums[slot].add_(bias)
            gates.forward(step, before, h)
            if kind.leak is not None:
                torch.lerp(before, h, kind.leak, out=h)
            if hidden_mask is not None:
                torch.where(hidden_mask[step], before, h, out=h)
            if not exact:
                columns[step + 1].copy_(h)
        last = states[steps % len(states)].clone()
        last_cell = None if cell is None else gates.cells[steps % gates.capacity].clone()
        if past is not None:
            past = torch.cat((past[steps:], rounded[max(1, steps + 1 - len(past)) :].to(past.dtype)))
        # everything large is saved this way, so that autograd frees it after the backward pass
        weights_and_masks = weight_ih, weight_hh, skip_weight, earlier, hidden_mask, cell_mask
        ctx.save_for_backward(*weights_and_masks, inputs, rounded, full, *gates.buffers)
        ctx.kind, ctx.in_rows = kind, not single and x.stride(1) == 1  # the layout of x in memory
        return rounded[1:], last, last_cell, past

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor | None, dpast: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        kind, low = ctx.kind, ctx.kind.products
        weight_ih, weight_hh, skip_weight, earlier, hidden_mask, cell_mask, *saved = ctx.saved_tensors
        inputs, rounded, full, *buffers = saved
        gates = _Gates(kind, cell_mask, *buffers)
        states = full.unbind(0)
        steps, batch, exact = len(inputs), inputs.shape[2], low == full.dtype
        dc = torch.zeros_like(dh) if dc is None else dc.clone()
        to_inputs, to_states = weight_ih.to(low).t(), weight_hh.to(low).t()
        if batch > 1:  # with one batch row the copies would not pay
            to_inputs, to_states = _sum_order(kind, to_inputs, 1).contiguous(), to_states.contiguous()
        to_past = None if skip_weight is None else _sum_order(kind, skip_weight.to(low)).t()
        all_d = dh.new_empty(steps, *gates.sums[0].shape, dtype=low)  # (T, G H, B)
        of_x, of_h = slice(0, len(weight_ih)), slice(all_d.shape[1] - len(weight_hh), None)
        ds, ds_x, ds_h = (block.unbind(0) for block in (all_d, all_d[:, of_x], all_d[:, of_h]))
        d = torch.empty_like(gates.sums[0])
        dx = torch.empty_like(inputs) if ctx.needs_input_grad[9] else None
        dxs = None if dx is None or batch == 1 else dx.unbind(0)
        reach = 0 if earlier is None else len(earlier)
        # gradients of all hidden states from outside the recurrence, those of the past first
        outer = dy.to(dh.dtype)
        if earlier is not None and dpast is not None:
            outer = torch.cat((dh.new_zeros(reach, *dh.shape), outer))
            outer[steps:] += dpast
        outer = outer.contiguous()
        outers = outer.unbind(0)
        for step in range(steps - 1, -1, -1):
            dh = dh + outers[reach + step]
            unchanged = None  # what reaches the state before without the gates
            if hidden_mask is not None:
                unchanged = torch.where(hidden_mask[step], dh, 0)
                dh = dh - unchanged
            if kind.leak is not None:
                leaked = dh * (1 - kind.leak)
                unchanged = leaked if unchanged is None else unchanged + leaked
                dh = dh * kind.leak
            direct = gates.backward(step, dh, dc, states[step], ds[step] if exact else d)
            if not exact:
                ds[step].copy_(d)
            dh = torch.mm(to_states, ds_h[step]).to(dc.dtype)
            if direct is not None:
                dh += direct
            if unchanged is not None:
                dh += unchanged
            if dxs is not None:
                torch.mm(to_inputs, ds_x[step], out=dxs[step])
            if to_past is not None:
                outers[step].add_(to_past @ ds_x[step])
        # free most of the memory before allocating more
        ctx.maybe_clear_saved_tensors()
        del saved, buffers, gates, states, full, outers
        flat = _flat(all_d)  # (G H, T B)
        del all_d, ds, ds_x, ds_h
        flat_x, flat_h, biases = flat[of_x], flat[of_h], flat.sum(1, dtype=weight_ih.dtype)
        if batch == 1:
            flat_x = _torch_order(kind, flat_x)
            dx = None if dx is None else (to_inputs @ flat_x).t()[:, :, None]
        elif dx is not None and ctx.in_rows:
            dx = _rows(dx)

        def of_inputs(gradient: Tensor) -> Tensor:
            """Return a gradient of W_ih's kind in torch's order, and in the weights' type."""
            return (gradient if batch == 1 else _torch_order(kind, gradient)).to(weight_ih.dtype)

        skipped = None
        if earlier is not None:
            sources = torch.cat((earlier[:steps], rounded[1 : max(1, steps + 1 - reach)]))
            skipped = of_inputs(flat_x @ _flat(sources).t())
        return (
            None,
            None,
            of_inputs(flat_x @ _flat(inputs).t()),
            (flat_h @ _flat(rounded[:steps]).t()).to(weight_hh.dtype),
            _torch_order(kind, biases[of_x]),
            biases[of_h].clone(),  # a copy: both become gradients of parameters, which are clipped in place
            skipped,
            dh,
            dc if kind.cell == "lstm" else None,
            dx,
            None if earlier is None else outer[:reach],
            None,
            None,
        )


class _Rows(torch.autograd.Function):
    """Make the vectors of (B, T, H) contiguous in memory, and turn their gradients back into columns."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return _rows(y.permute(1, 2, 0)).movedim(-1, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy.permute(1, 2, 0).contiguous().movedim(-1, 0)


def _rows(columns: Tensor) -> Tensor:
    """Return columns (T, N, B) with each contiguous in memory; steps stay first, which torch copies several times
    faster than batch rows first."""
    return columns.transpose(1, 2).contiguous().transpose(1, 2)


def _flat(columns: Tensor) -> Tensor:
    """Put the columns (T, N, B) of all steps side by side, (N, T B)."""
    return columns.transpose(0, 1).reshape(columns.shape[1], -1)


def _sum_order(kind: Kind, x: Tensor, axis: int = 0) -> Tensor:
    """Reorder a GRU's gates of W_ih along an axis from torch's order r, z, n to that of the sums: n, r, z."""
    return x if kind.cell != "gru" else x.roll(x.shape[axis] // 3, axis)


def _torch_order(kind: Kind, gradient: Tensor) -> Tensor:
    """Reorder such gates back into torch's order."""
    return gradient if kind.cell != "gru" else gradient.roll(-len(gradient) // 3, 0)


def _tanh_(x: Tensor) -> Tensor:
    """Compute tanh in place, as 2 sigmoid(2x) - 1, which torch's CPU kernels do several times faster than tanh."""
    return _centre_(x.mul_(2).sigmoid_())


def _centre_(x: Tensor) -> Tensor:
    """Compute 2 x - 1 in place, which makes a sigmoid a tanh."""
    return torch.add(_MINUS_ONE, x, alpha=2, out=x)


def _sigmoid_back(gradient: Tensor, squashed: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.sigmoid_backward.grad_input(gradient, squashed, grad_input=out)  # type: ignore[no-any-return]


def _tanh_back(gradient: Tensor, squashed: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        return torch.ops.aten.tanh_backward(gradient, squashed)  # type: ignore[no-any-return]
    return torch.ops.aten.tanh_backward.grad_input(gradient, squashed, grad_input=out)  # type: ignore[no-any-return]
