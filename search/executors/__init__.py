"""Where architectures are evaluated."""
