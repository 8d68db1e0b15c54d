"""Convolution with each image's own mixture of kernels: ``native`` (C++ on the CPU), ``grouped``.

`mix_experts` chooses by shape as well; ``evolute::expert_convolution`` is native, its plain form
(`grouped`) serves what lies beyond the first derivative.
"""

from search_space.kernels.expert_conv.mixing import mix_experts
from search_space.kernels.expert_conv.op import active_backend, expert_convolution

__all__ = ["active_backend", "expert_convolution", "mix_experts"]
