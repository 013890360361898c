"""A layer's whole window at once, forwards and backwards through time by hand (Werbos 1990), for every cell and option.

It does what the equations of `cells` and autograd do step by step, in a fraction of the time: the products are plain
products of matrices, in a number format of their own (bf16, say), and between them nothing is remembered that the way
back does not need. Weights and masks are arguments, so that whoever drops some of them (weight dropout, Merity et al.
2018; zoneout, Krueger et al. 2017) loses no speed.
Shapes: T steps, B lanes, I inputs, H hidden, K time skip, G gates of a cell. Vectors of a step are columns, (H, B)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charrnn.models import cells

# read by operations on any device, as a number would be: with a number, 2 x - 1 would take two ways through memory
_MINUS_ONE = torch.tensor(-1.0, device="cpu")


class Weights(NamedTuple):
    """Hold a layer's weights: W_ih (G H, I), W_hh (G H, H), b_ih and b_hh (G H), and U (G H, H) of a time skip."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
    skip_weight: Tensor | None = None


class Masks(NamedTuple):
    """Say which units keep what they had (B, T, H), as booleans: of the hidden state, and of the LSTM's cell."""

    hidden: Tensor | None = None
    cell: Tensor | None = None


class Kind(NamedTuple):
    """Say what to run: the cell with its options, and the number format of the products."""

    cell: str
    activation: str = "tanh"
    leak: float | None = None
    products: torch.dtype = torch.float32


def run(
    kind: Kind, x: Tensor, state: cells.StepState, weights: Weights, masks: Masks | None = None
) -> tuple[Tensor, cells.StepState]:
    """Run x (B, T, I) from a state through one layer; gives the hidden states (B, T, H) and the state after the last.

    The equations are those of `cells.step`; where a mask says so, a unit keeps its value of the step before. The hidden
    states come out in the format of the products, lying in memory as the next layer reads them.
    """
    masks = masks or Masks()
    columns = (None if tensor is None else tensor.permute(1, 2, 0) for tensor in (x, state.past, *masks))
    hidden, cell = state.hidden.t(), None if state.cell is None else state.cell.t()
    outputs = _Window.apply(kind, torch.is_grad_enabled(), *weights, hidden, cell, *columns)  # type: ignore[no-untyped-call]
    y, *after = (None if tensor is None else tensor.movedim(-1, 0) for tensor in outputs)
    assert y is not None
    return y, cells.StepState(*after)


def rows(y: Tensor) -> Tensor:
    """Give hidden states (B, T, H) as they are, but so that in memory each is in one piece, as a head reads them."""
    if y.stride(-1) == 1:
        return y
    return _Rows.apply(y)  # type: ignore[no-any-return, no-untyped-call]


class _Gates:
    """What happens between the products of a window, step by step, in the room that it keeps for the way back.

    A step's sums lie in a column in torch's order of gates; those of a GRU are W_in x, r, z, W_hn h, so that each of
    the two products fills one block.
    """

    def __init__(self, kind: Kind, mask: Tensor | None, kept: Tensor, inner: Tensor, cell: Tensor) -> None:
        self.kind, self.mask, self.large = kind, mask, (kept, inner, cell)
        self.room, _, self.size, _ = kept.shape
        # cut into steps once for all
        sums = kept.flatten(1, 2)
        self.sums, self.inner, self.cells = sums.unbind(0), inner.unbind(0), cell.unbind(0)
        self.gates = tuple(zip(*(gate.unbind(0) for gate in kept.unbind(1)), strict=True))
        self.gated = slice(self.size, 3 * self.size) if kind.cell == "gru" else slice(0, 2 * self.size)
        self.sigmoids = sums[:, self.gated].unbind(0)

    @classmethod
    def empty(cls, kind: Kind, mask: Tensor | None, room: int, like: Tensor) -> _Gates:
        """Make room for some steps: of a column's gates after their squashing, of tanh c and c of an LSTM."""
        gates = cells.GATES[kind.cell] + (kind.cell == "gru")
        kept = like.new_empty(room, gates, *like.shape)
        inner, cell = (like.new_empty(room if kind.cell == "lstm" else 0, *like.shape) for _ in range(2))
        return cls(kind, mask, kept, inner, cell)

    def forward(self, step: int, before: Tensor, out: Tensor) -> None:
        """Squash a column of sums and put the new hidden state (H, B) into `out`, given the one before."""
        place = step % self.room
        z = self.sums[place]
        if self.kind.cell == "gru":
            n, reset, update, inner = self.gates[place]
            self.sigmoids[place].sigmoid_()
            _tanh_(n.addcmul_(reset, inner))
            torch.lerp(n, before, update, out=out)
        elif self.kind.cell == "lstm":
            i, f, g, o = self.gates[place]
            c_before, c, inner = self.cells[place], self.cells[(step + 1) % self.room], self.inner[place]
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
        """Put the gradient of a column of sums into d (G H, B); gives that of the hidden state before, but for that
        through W_hh; dc, that of the cell, becomes that of the cell before."""
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
            kept = None
            if self.mask is not None:
                kept = torch.where(self.mask[step], dc, 0)
                dc.sub_(kept)
            dc.add_(through)
            torch.mul(dc, g, out=di)
            torch.mul(dc, self.cells[step], out=df)
            _sigmoid_back(torch.mul(dh, inner, out=do), o, out=do)
            _tanh_back(torch.mul(dc, i, out=dg), g, out=dg)
            dc.mul_(f)
            if kept is not None:
                dc.add_(kept)
        _sigmoid_back(gated, self.sigmoids[step], out=gated)
        return direct


class _Window(torch.autograd.Function):
    """The loop over a window's steps, and the loop back."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: Kind,
        remember: bool,
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
        # a lone lane waits for memory to deliver the weights, at each step anew; several are quicker in the cache
        alone = hidden.shape[1] == 1
        w_ih, w_hh = weight_ih.to(low), weight_hh.to(low)
        together = _put(kind, w_ih @ _flat(inputs)).t().contiguous()[:, :, None] if alone else None  # (T, G H, 1)
        if not alone:
            w_ih = _put(kind, w_ih)
        w_skip = None if skip_weight is None else _put(kind, skip_weight.to(low))
        earlier = None if past is None else past.to(low)
        gates = _Gates.empty(kind, cell_mask, steps + 1 if remember else 2, hidden)  # with no way back, two places do
        if cell is not None:
            gates.cells[0].copy_(cell)
        bias = hidden.new_zeros(len(gates.sums[0]), 1)
        of_x, of_h = slice(0, len(bias_ih)), slice(len(bias) - len(bias_hh), None)
        bias[of_x, 0] += _put(kind, bias_ih)
        bias[of_h, 0] += bias_hh
        rounded = hidden.new_empty(steps + 1, *hidden.shape, dtype=low)  # before each step and after the last
        columns = rounded.unbind(0)  # as the products read them
        columns[0].copy_(hidden)
        # where products are not rounded, they fill and read what is kept
        sums, full = gates.large[0].flatten(1, 2), rounded
        if not exact:
            sums = hidden.new_empty(1, len(bias), hidden.shape[1], dtype=low).expand_as(sums)
            full = hidden.new_empty(gates.room, *hidden.shape)
            full[0] = hidden
        states = full.unbind(0)
        whole, sums_x, sums_h = (part.unbind(0) for part in (sums, sums[:, of_x], sums[:, of_h]))
        only_h = sums[:, of_x.stop :].unbind(0)  # what W_hh h makes on its own
        for step, column in enumerate(inputs.unbind(0)):
            place, before, h = step % gates.room, states[step % len(states)], states[(step + 1) % len(states)]
            if together is None:
                torch.mm(w_ih, column, out=sums_x[place])
            else:
                sums_x[place].copy_(together[step])
            if kind.cell == "gru":
                only_h[place].zero_()
            sums_h[place].addmm_(w_hh, columns[step])
            if w_skip is not None and earlier is not None:
                since = step - len(earlier)
                sums_x[place].addmm_(w_skip, earlier[step] if since < 0 else columns[since + 1])
            if not exact:
                gates.sums[place].copy_(whole[place])
            gates.sums[place].add_(bias)
            gates.forward(step, before, h)
            if kind.leak is not None:
                torch.lerp(before, h, kind.leak, out=h)
            if hidden_mask is not None:
                torch.where(hidden_mask[step], before, h, out=h)
            if not exact:
                columns[step + 1].copy_(h)
        last = states[steps % len(states)].clone()
        last_cell = None if cell is None else gates.cells[steps % gates.room].clone()
        if past is not None:
            past = torch.cat((past[steps:], rounded[max(1, steps + 1 - len(past)) :].to(past.dtype)))
        # all that is large is saved in this way, so that it goes when the way back is done
        weights_and_masks = weight_ih, weight_hh, skip_weight, earlier, hidden_mask, cell_mask
        ctx.save_for_backward(*weights_and_masks, inputs, rounded, full, *gates.large)
        ctx.kind, ctx.in_rows = kind, not alone and x.stride(1) == 1  # how x lay in memory
        return rounded[1:], last, last_cell, past

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor | None, dpast: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        kind, low = ctx.kind, ctx.kind.products
        weight_ih, weight_hh, skip_weight, earlier, hidden_mask, cell_mask, *kept = ctx.saved_tensors
        inputs, rounded, full, *large = kept
        gates = _Gates(kind, cell_mask, *large)
        states = full.unbind(0)
        steps, lanes, exact = len(inputs), inputs.shape[2], low == full.dtype
        dc = torch.zeros_like(dh) if dc is None else dc.clone()
        to_inputs, to_states = weight_ih.to(low).t(), weight_hh.to(low).t()
        if lanes > 1:  # a lone lane is done before such a copy would pay
            to_inputs, to_states = _put(kind, to_inputs, 1).contiguous(), to_states.contiguous()
        to_past = None if skip_weight is None else _put(kind, skip_weight.to(low)).t()
        all_d = dh.new_empty(steps, *gates.sums[0].shape, dtype=low)  # (T, G H, B)
        of_x, of_h = slice(0, len(weight_ih)), slice(all_d.shape[1] - len(weight_hh), None)
        ds, ds_x, ds_h = (part.unbind(0) for part in (all_d, all_d[:, of_x], all_d[:, of_h]))
        d = torch.empty_like(gates.sums[0])
        dx = torch.empty_like(inputs) if ctx.needs_input_grad[9] else None
        dxs = None if dx is None or lanes == 1 else dx.unbind(0)
        reach = 0 if earlier is None else len(earlier)
        # of every hidden state that anyone reads but the next step: those of the past first
        wanted = dy.to(dh.dtype)
        if earlier is not None and dpast is not None:
            wanted = torch.cat((dh.new_zeros(reach, *dh.shape), wanted))
            wanted[steps:] += dpast
        wanted = wanted.contiguous()
        asked = wanted.unbind(0)
        for step in range(steps - 1, -1, -1):
            dh = dh + asked[reach + step]
            aside = None
            if hidden_mask is not None:
                aside = torch.where(hidden_mask[step], dh, 0)
                dh = dh - aside
            if kind.leak is not None:
                left = dh * (1 - kind.leak)
                aside = left if aside is None else aside + left
                dh = dh * kind.leak
            direct = gates.backward(step, dh, dc, states[step], ds[step] if exact else d)
            if not exact:
                ds[step].copy_(d)
            dh = torch.mm(to_states, ds_h[step]).to(dc.dtype)
            if direct is not None:
                dh += direct
            if aside is not None:
                dh += aside
            if dxs is not None:
                torch.mm(to_inputs, ds_x[step], out=dxs[step])
            if to_past is not None:
                asked[step].add_(to_past @ ds_x[step])
        # most of memory is free again before more is asked for
        ctx.maybe_clear_saved_tensors()
        del kept, large, gates, states, full, asked
        flat = _flat(all_d)  # (G H, T B)
        del all_d, ds, ds_x, ds_h
        flat_x, flat_h, biases = flat[of_x], flat[of_h], flat.sum(1, dtype=weight_ih.dtype)
        if lanes == 1:
            flat_x = _back(kind, flat_x)
            dx = None if dx is None else (to_inputs @ flat_x).t()[:, :, None]
        elif dx is not None and ctx.in_rows:
            dx = _rows(dx)

        def of_inputs(gradient: Tensor) -> Tensor:
            """Bring a gradient of W_ih's kind into torch's order, where that is still to be done, and type."""
            return (gradient if lanes == 1 else _back(kind, gradient)).to(weight_ih.dtype)

        skipped = None
        if earlier is not None:
            sources = torch.cat((earlier[:steps], rounded[1 : max(1, steps + 1 - reach)]))
            skipped = of_inputs(flat_x @ _flat(sources).t())
        return (
            None,
            None,
            of_inputs(flat_x @ _flat(inputs).t()),
            (flat_h @ _flat(rounded[:steps]).t()).to(weight_hh.dtype),
            _back(kind, biases[of_x]),
            biases[of_h].clone(),  # both become gradients of parameters, which are clipped in place
            skipped,
            dh,
            dc if kind.cell == "lstm" else None,
            dx,
            None if earlier is None else wanted[:reach],
            None,
            None,
        )


class _Rows(torch.autograd.Function):
    """Turn all columns of (B, T, H) into rows of memory, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return _rows(y.permute(1, 2, 0)).movedim(-1, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy.permute(1, 2, 0).contiguous().movedim(-1, 0)


def _rows(columns: Tensor) -> Tensor:
    """Give the same columns (T, N, B), each in one piece; steps stay first, since torch copies several times as fast so
    as it does with lanes first."""
    return columns.transpose(1, 2).contiguous().transpose(1, 2)


def _flat(columns: Tensor) -> Tensor:
    """Put the columns of all steps (T, N, B) side by side (N, T B)."""
    return columns.transpose(0, 1).reshape(columns.shape[1], -1)


def _put(kind: Kind, made_of_x: Tensor, axis: int = 0) -> Tensor:
    """Bring a GRU's gates r, z, n of W_ih x, as torch has them, into the order of its sums: n, r, z."""
    return made_of_x if kind.cell != "gru" else made_of_x.roll(made_of_x.shape[axis] // 3, axis)


def _back(kind: Kind, gradient: Tensor) -> Tensor:
    """Bring such gates into torch's order again."""
    return gradient if kind.cell != "gru" else gradient.roll(-len(gradient) // 3, 0)


def _tanh_(x: Tensor) -> Tensor:
    """Squash in place: 2 sigmoid(2x) - 1, which torch's CPU kernels do several times as fast as tanh."""
    return _centre_(x.mul_(2).sigmoid_())


def _centre_(x: Tensor) -> Tensor:
    """Make a tanh of a sigmoid, 2 x - 1."""
    return torch.add(_MINUS_ONE, x, alpha=2, out=x)


def _sigmoid_back(gradient: Tensor, squashed: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.sigmoid_backward.grad_input(gradient, squashed, grad_input=out)  # type: ignore[no-any-return]


def _tanh_back(gradient: Tensor, squashed: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        return torch.ops.aten.tanh_backward(gradient, squashed)  # type: ignore[no-any-return]
    return torch.ops.aten.tanh_backward.grad_input(gradient, squashed, grad_input=out)  # type: ignore[no-any-return]
