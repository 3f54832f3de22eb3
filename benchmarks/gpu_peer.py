"""The network in PyTorch on a GPU, a block in one CUDA graph: whom benchmarks/gpu.py races.

What it learns is what `peers.TorchPeer` learns, by backpropagation over the block; the running
statistics are on the GPU, too, and their inverses are kept there, so that nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.peers import BETA1, BETA2, ENCODER, EPSILON, TorchPeer, annealed_rate, torch
from edge_rjepa import RJepaConfig
from edge_rjepa.learner.objective import RENEW_AFTER, blend_rate


class Statistics:
    """`peers.Statistics` as tensors of a device; what the host must know, it keeps beside them."""

    def __init__(self, config: RJepaConfig, device: str):
        n, dtype = config.n_embedding, getattr(torch, config.dtype)
        self.floor = config.noise_floor * torch.eye(n, dtype=dtype, device=device)
        self.time_constant = config.statistics_fixations
        self.mu = torch.zeros(n, dtype=dtype, device=device)
        self.S_z, self.S_e = torch.zeros_like(self.floor), torch.zeros_like(self.floor)
        self.P_z, self.P_e = torch.zeros_like(self.floor), torch.zeros_like(self.floor)
        self.rate = torch.zeros((), dtype=dtype, device=device)  # of the block that is learned
        self.fixations, self._moved = 0, 0.0
        self.renew()

    def gradients(self, z, z_hat) -> tuple:
        """dl/dz and dl/dzhat, (K, n_z) each."""
        weighed = (z - z_hat) @ self.P_e
        return weighed - (z - self.mu) @ self.P_z, -weighed

    def observe(self, z, z_hat) -> None:
        """Move the statistics by a block, at self.rate."""
        d, e = z - self.mu, z - z_hat
        mean, share = d.mean(dim=0), self.rate / len(z)
        self.S_z.mul_(1 - self.rate).add_(share * (d.T @ d) - self.rate**2 * mean.outer(mean))
        self.S_e.mul_(1 - self.rate).add_(share * (e.T @ e))
        self.mu.add_(self.rate * mean)

    def coming(self, K: int) -> float:
        """The rate for a block of K, which from now on is counted."""
        rate = blend_rate(K, self.fixations, self.time_constant)
        self.fixations += K
        self._moved += rate
        return rate

    def renew_if_moved(self) -> None:
        if self._moved >= RENEW_AFTER:
            self.renew()

    def renew(self) -> None:
        self._moved = 0.0
        for S, P in ((self.S_z, self.P_z), (self.S_e, self.P_e)):
            P.copy_(torch.cholesky_inverse(torch.linalg.cholesky_ex(S + self.floor)[0]))


class TorchGraphPeer(TorchPeer):
    """Blocks of one length K, a step every config.update_every of them.

    device: "cuda", or "cpu" without graphs, to be compared. compiled: forward by torch.compile.
    The loss of every block comes down and is waited for, as a report of RJepa is.
    """

    def __init__(
        self, config: RJepaConfig, weights: dict, K: int, device: str = "cuda", compiled=False
    ):
        super().__init__(config, weights, compiled=False)
        dtype = getattr(torch, config.dtype)
        for layer in self._layers.values():
            layer.to(device)
        self._lam = self._lam.detach().to(device).requires_grad_()
        self._rates = [torch.zeros((), dtype=dtype, device=device) for _ in range(2)]
        encoder, others = [], [self._lam]
        for name, layer in self._layers.items():
            (encoder if name in ENCODER else others).extend(layer.parameters())
        self._learned = encoder + others
        self._adam = torch.optim.Adam(
            [{"params": others, "lr": self._rates[0]}, {"params": encoder, "lr": self._rates[1]}],
            betas=(BETA1, BETA2), eps=EPSILON, capturable=device == "cuda",
            fused=device == "cuda", foreach=False,
        )  # fmt: skip
        for parameter in self._learned:
            parameter.grad = torch.zeros_like(parameter)
        self.statistics = Statistics(config, device)
        n_z, n_h = config.n_embedding, config.n_hidden
        self._z = torch.zeros((1, n_z), dtype=dtype, device=device)
        self._y = torch.zeros((1, n_h), dtype=dtype, device=device)
        self._on_gpu = device == "cuda"
        host = {"dtype": dtype, "pin_memory": self._on_gpu}
        row = config.n_features + config.n_efference
        self._outgoing = torch.zeros(K * row + 1, **host)  # features, efference copies, rate
        self._arrived = torch.zeros(K * row + 1, dtype=dtype, device=device)
        self._loss = torch.zeros((), dtype=dtype, device=device)
        self._incoming = torch.zeros((), **host)
        self._K, self._blocks, self._graphs = K, 0, {}
        self._forward_of = torch.compile(self._forward) if compiled else self._forward

    def forget(self) -> None:
        """The past, not weights and statistics."""
        self._z.zero_()
        self._y.zero_()

    def learn_block(self, features: np.ndarray, efference: np.ndarray) -> float:
        """The block's loss, nats."""
        known, sent = self.statistics, self._outgoing.numpy()
        known.renew_if_moved()
        fixations = known.fixations
        sent[: features.size] = features.reshape(-1)
        sent[features.size : -1] = efference.reshape(-1)
        sent[-1] = known.coming(self._K)
        self._play("block", self._block)
        self._blocks += 1
        if self._blocks % self.config.update_every == 0:
            rate = annealed_rate(self.config, fixations)
            self._rates[0].fill_(rate)
            self._rates[1].fill_(rate * self.config.encoder_rate)
            self._play("step", self._step)
        if self._on_gpu:
            self._came.synchronize()
        return float(self._incoming)

    def _block(self) -> None:
        c, known = self.config, self.statistics
        self._arrived.copy_(self._outgoing, non_blocking=True)
        cut = self._K * c.n_features
        x = self._arrived[:cut].view(self._K, c.n_features)
        a = self._arrived[cut:-1].view(self._K, c.n_efference)
        known.rate.copy_(self._arrived[-1])
        z, z_hat, y = self._forward_of(x, a)
        d_z, d_z_hat = known.gradients(z.detach(), z_hat.detach())
        self._loss.copy_(((z - known.mu) * d_z).sum() + (z_hat * d_z_hat).sum())
        torch.autograd.backward((z, z_hat), (d_z, d_z_hat))
        known.observe(z.detach(), z_hat.detach())
        self._z.copy_(z[-1:].detach())
        self._y.copy_(y[-1:].detach())
        self._incoming.copy_(self._loss.detach(), non_blocking=True)

    def _step(self) -> None:
        self._adam.step()
        for parameter in self._learned:
            parameter.grad.zero_()

    def _play(self, name: str, work: Callable[[], None]) -> None:
        """Three times as it is, as torch.cuda.CUDAGraph asks for, then as a graph."""
        if not self._on_gpu:
            work()
            return
        times, graph = self._graphs.get(name, (0, None))
        if graph is not None:
            graph.replay()
        elif times < 3:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()
            torch.cuda.current_stream().wait_stream(stream)
        else:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
            graph.replay()
        self._graphs[name] = times + 1, graph
        if name == "block":
            self._came = torch.cuda.Event()
            self._came.record()
