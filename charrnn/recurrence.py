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

from charrnn import cells


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


class _Gates:
    """What happens between the products of a window, step by step; keeps what the way back needs."""

    def __init__(self, kind: Kind, steps: int, like: Tensor, cell: Tensor | None, mask: Tensor | None) -> None:
        size, lanes = like.shape
        self.kind, self.size, self.mask = kind, size, mask
        self.room = steps + 1  # with no way back, two places do
        self.kept = like.new_empty(self.room, cells.GATES[kind.cell] * size, lanes)  # gates after their squashing
        # tanh c of an LSTM, r_n of a GRU
        self.inner = like.new_empty(self.room if kind.cell != "rnn" else 0, size, lanes)
        self.cells = like.new_empty(self.room if kind.cell == "lstm" else 0, size, lanes)
        if cell is not None:
            self.cells[0] = cell

    def forward(self, step: int, a: Tensor, r: Tensor, biases: tuple[Tensor, Tensor], h: Tensor) -> Tensor:
        """Give the new hidden state (H, B) from both products, W_ih x and W_hh h (G H, B), and the one before."""
        z, cut = self.kept[step % self.room], 2 * self.size
        if self.kind.cell == "gru":
            inner = self.inner[step % self.room]
            z.copy_(a).add_(biases[0])
            z[:cut].add_(r[:cut]).sigmoid_()
            inner.copy_(r[cut:]).add_(biases[1])
            reset, update, n = z.chunk(3)
            _tanh_(n.addcmul_(reset, inner))
            return torch.lerp(n, h, update)
        z.copy_(r).add_(a).add_(biases[0])
        if self.kind.cell == "rnn":
            return _tanh_(z) if self.kind.activation == "tanh" else z.copy_(cells.ACTIVATIONS[self.kind.activation](z))
        i, f, g, o = z.chunk(4)
        g.mul_(2)
        z.sigmoid_()
        g.mul_(2).sub_(1)  # tanh
        before, c = self.cells[step % self.room], self.cells[(step + 1) % self.room]
        inner = self.inner[step % self.room]
        torch.mul(f, before, out=c).addcmul_(i, g)
        _tanh_(inner.copy_(c))
        if self.mask is not None:
            c.copy_(torch.where(self.mask[step], before, c))
        return o * inner

    def backward(self, step: int, dh: Tensor, dc: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give the gradients (G H, B) of both products, and (H, B) of the hidden state before, but for that through
        W_hh; dc, that of the cell, becomes that of the cell before."""
        z, cut = self.kept[step], 2 * self.size
        if self.kind.cell == "rnn":
            if self.kind.activation == "tanh":
                d = _tanh_back(dh, z)
            else:
                d = torch.where(z > 0, dh, dh * (0.01 if self.kind.activation == "leaky_relu" else 0.0))
            return d, d, None
        inner, d = self.inner[step], torch.empty_like(z)
        if self.kind.cell == "gru":
            reset, update, n = z.chunk(3)
            d_reset, d_update, dn = d.chunk(3)
            direct = dh * update
            _tanh_back(dh - direct, n, out=dn)
            torch.mul(dn, inner, out=d_reset)
            torch.mul(dh, h - n, out=d_update)
            _sigmoid_back(d[:cut], z[:cut], out=d[:cut])
            dr = d.clone()
            dr[cut:].mul_(reset)
            return d, dr, direct
        i, f, g, o = z.chunk(4)
        di, df, dg, do = d.chunk(4)
        through = _tanh_back(dh * o, inner)
        kept = None
        if self.mask is not None:
            kept = torch.where(self.mask[step], dc, 0)
            dc.sub_(kept)
        dc.add_(through)
        torch.mul(dc, g, out=di)
        torch.mul(dc, self.cells[step], out=df)
        torch.mul(dc, i, out=dg)
        torch.mul(dh, inner, out=do)
        _sigmoid_back(d[:cut], z[:cut], out=d[:cut])
        _tanh_back(dg, g, out=dg)
        _sigmoid_back(do, o, out=do)
        dc.mul_(f)
        if kept is not None:
            dc.add_(kept)
        return d, d, None


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
        steps, low = len(x), kind.products
        inputs = x.to(low).contiguous()  # (T, I, B)
        w_ih, w_hh = weight_ih.to(low), weight_hh.to(low)
        w_skip = None if skip_weight is None else skip_weight.to(low)
        earlier = None if past is None else past.to(low)
        if kind.cell == "gru":
            cut = 2 * len(hidden)
            biases = torch.cat((bias_ih[:cut] + bias_hh[:cut], bias_ih[cut:]))[:, None], bias_hh[cut:, None]
        else:
            biases = (bias_ih + bias_hh)[:, None], bias_hh[:, None]
        gates = _Gates(kind, steps if remember else 1, hidden, cell, cell_mask)
        states = hidden.new_empty(gates.room, *hidden.shape)  # before each step and after the last
        rounded = hidden.new_empty(steps + 1, *hidden.shape, dtype=low)  # as the products read them
        states[0] = rounded[0] = hidden
        a, r = (hidden.new_empty(len(weight_hh), hidden.shape[1], dtype=low) for _ in range(2))
        # a lone lane waits for memory to deliver the weights, at each step anew; several are quicker in the cache
        columns = (w_ih @ _flat(inputs)).t().contiguous()[:, :, None] if hidden.shape[1] == 1 else None
        for step in range(steps):
            before = states[step % gates.room]
            if columns is None:
                torch.mm(w_ih, inputs[step], out=a)
            else:
                a = columns[step]  # (G H, 1)
            torch.mm(w_hh, rounded[step], out=r)
            if w_skip is not None and earlier is not None:
                a += w_skip @ (earlier[step] if step < len(earlier) else rounded[step - len(earlier) + 1])
            h = gates.forward(step, a, r, biases, before)
            if kind.leak is not None:
                h = torch.lerp(before, h, kind.leak)
            if hidden_mask is not None:
                h = torch.where(hidden_mask[step], before, h)
            states[(step + 1) % gates.room] = rounded[step + 1] = h
        last = states[steps % gates.room].clone()
        last_cell = None if cell is None else gates.cells[steps % gates.room].clone()
        if past is not None:
            past = torch.cat((past[steps:], rounded[max(1, steps + 1 - len(past)) :].to(past.dtype)))
        # all that is large is saved in this way, so that it goes when the way back is done
        saved = w_ih, w_hh, w_skip, inputs, rounded, earlier, hidden_mask, states, gates.kept, gates.inner, gates.cells
        ctx.save_for_backward(*saved)
        del gates.kept, gates.inner, gates.cells
        ctx.kind, ctx.gates, ctx.types = kind, gates, (weight_ih.dtype, x.dtype)
        return rounded[1:], last, last_cell, past

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor | None, dpast: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        kind, gates = ctx.kind, ctx.gates
        w_ih, w_hh, w_skip, inputs, rounded, earlier, hidden_mask, states, *kept = ctx.saved_tensors
        gates.kept, gates.inner, gates.cells = kept
        steps, low, (full, given) = len(inputs), kind.products, ctx.types
        dc = torch.zeros_like(dh) if dc is None else dc.clone()
        size, lanes = gates.kept.shape[1:]
        alone = lanes == 1
        # a lone lane is done before such a copy would pay
        to_inputs, to_states = (w.t() if alone else w.t().contiguous() for w in (w_ih, w_hh))
        # (G H, T, B): as the weights' gradient reads them
        das = torch.empty(size, steps, lanes, dtype=low, device=dh.device)
        drs = torch.empty_like(das) if kind.cell == "gru" else das
        dx = torch.empty_like(inputs) if ctx.needs_input_grad[9] else None
        reach = 0 if earlier is None else len(earlier)
        # of every hidden state that anyone reads but the next step: those of the past first
        wanted = dy
        if earlier is not None and dpast is not None:
            wanted = torch.cat((dh.new_zeros(reach, *dh.shape), dy.to(dh.dtype)))
            wanted[steps:] += dpast
        for step in range(steps - 1, -1, -1):
            dh = dh + wanted[reach + step]
            aside = None
            if hidden_mask is not None:
                aside = torch.where(hidden_mask[step], dh, 0)
                dh = dh - aside
            if kind.leak is not None:
                left = dh * (1 - kind.leak)
                aside = left if aside is None else aside + left
                dh = dh * kind.leak
            da, dr, direct = gates.backward(step, dh, dc, states[step])
            same, da = dr is da, da.to(low)
            das[:, step] = da
            dr = da if same else dr.to(low)
            if not same:
                drs[:, step] = dr
            dh = torch.mm(to_states, dr).to(dc.dtype)
            if direct is not None:
                dh += direct
            if aside is not None:
                dh += aside
            if dx is not None and not alone:
                torch.mm(to_inputs, da, out=dx[step])
            if w_skip is not None:
                wanted[step] += w_skip.t() @ da
        del gates.kept, gates.inner, gates.cells, states
        flat_a, flat_r = das.flatten(1), drs.flatten(1)  # (G H, T B)
        if dx is not None and alone:
            dx = (to_inputs @ flat_a).t()[:, :, None]
        bias_ih = flat_a.sum(1, dtype=full)
        bias_hh = bias_ih if drs is das else flat_r.sum(1, dtype=full)
        skipped = None
        if earlier is not None:
            sources = torch.cat((earlier[:steps], rounded[1 : max(1, steps + 1 - reach)]))
            skipped = (flat_a @ _flat(sources).t()).to(full)
        return (
            None,
            None,
            (flat_a @ _flat(inputs).t()).to(full),
            (flat_r @ _flat(rounded[:steps]).t()).to(full),
            bias_ih,
            bias_hh,
            skipped,
            dh,
            dc if kind.cell == "lstm" else None,
            None if dx is None else dx.to(given),
            None if earlier is None else wanted[:reach],
            None,
            None,
        )


def _flat(columns: Tensor) -> Tensor:
    """Put the columns of all steps (T, N, B) side by side (N, T B)."""
    return columns.transpose(0, 1).reshape(columns.shape[1], -1)


def _tanh_(x: Tensor) -> Tensor:
    """Squash in place: 2 sigmoid(2x) - 1, which torch's CPU kernels do several times as fast as tanh."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _sigmoid_back(gradient: Tensor, squashed: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.sigmoid_backward.grad_input(gradient, squashed, grad_input=out)  # type: ignore[no-any-return]


def _tanh_back(gradient: Tensor, squashed: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        return torch.ops.aten.tanh_backward(gradient, squashed)  # type: ignore[no-any-return]
    return torch.ops.aten.tanh_backward.grad_input(gradient, squashed, grad_input=out)  # type: ignore[no-any-return]
