"""One file per operator family; importing this package registers all of them."""

from search_space.operators import convolution, dynamic, ghost, involution, selective_kernel, skip

__all__ = ["convolution", "dynamic", "ghost", "involution", "selective_kernel", "skip"]
