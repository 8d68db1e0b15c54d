"""Involution: ``native`` (C++ on the CPU), ``triton`` (CUDA) or ``shift`` (plain torch)."""

from search_space.kernels.involution.op import active_backend, involution, spanned_involution

__all__ = ["active_backend", "involution", "spanned_involution"]
